"""What a rank does in the test of two processes; a file of its own, since a spawned process imports it by name."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed

from cmcl_ray.train.loop import fit_task
from cmcl_ray.train.world import World
from tests.run.tiny import tiny_job, tiny_stream


def train(rank: int, size: int, rendezvous: str, out: str, strategies: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Train two tasks as one of some ranks, and leave a rank's own view of the versions in a file."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    try:
        job = tiny_job(out, tiny_stream(), strategies, **settings)
        versions = [fit_task(job, task, World.current("cpu")).id for task in (0, 1)]
        with open(f"{out}.rank{rank}", "w", encoding="ascii") as file:
            file.write(" ".join(versions))
    finally:
        if size > 1:
            distributed.destroy_process_group()
