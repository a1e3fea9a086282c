"""Losses on pairs of embeddings: one file a loss."""
