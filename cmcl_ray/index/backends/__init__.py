"""Search backends, one file each; the config names them by file."""
