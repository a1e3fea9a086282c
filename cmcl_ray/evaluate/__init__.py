"""Relevance, ranks, the score table, continual metrics, drift and comparisons: what a retrieval run is worth."""
