"""Training one task: the world, the optimizer, the loop, the checkpoint."""
