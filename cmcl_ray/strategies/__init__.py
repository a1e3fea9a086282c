"""Continual strategies: one file a method, composed in the config, applied by the one training loop."""
