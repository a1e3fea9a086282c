"""Sources of image-text pairs, one file a source; the file's name is the name in the config."""
