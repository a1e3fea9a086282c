"""Continual cross-modal retrieval on Ray: train, index and query image-text models that meet their data in steps."""

__version__ = "0.1.0"
