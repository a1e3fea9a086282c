"""Image-text pairs: where they come from, how they become a stream of tasks, and how batches reach a model."""
