"""Vectors in, hits out: embeddings, backends, shards and gallery versions. Knows arrays, ids and folders; no model, no Ray."""
