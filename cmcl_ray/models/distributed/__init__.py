"""Rows of all ranks on every rank, with gradient."""

from cmcl_ray.models.distributed.gather import gather, gather_constant, world

__all__ = ["gather", "gather_constant", "world"]
