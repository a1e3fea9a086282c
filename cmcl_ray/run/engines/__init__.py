"""Engines that need no cluster: one file an engine. The one on Ray lives in ``on_ray``."""
