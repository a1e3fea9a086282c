"""Gather rows over ranks so that a contrastive loss sees every negative, and its gradient is exact.

Each rank scores its own rows against the rows of all ranks. The backward pass adds up what all ranks' losses say about a
rank's rows; averaged by distributed training this is the gradient of the loss of the whole batch in one process. A gather
without gradient would give a biased one.
"""

from typing import Any

import torch
from torch import distributed


def world() -> tuple[int, int]:
    """Return (rank, size) of the default process group; (0, 1) where there is none."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.count = rows.shape[0]
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        # A copy: autograd may hand the same tensor to another node, which must not see the sum over ranks.
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        rank, _ = world()
        return gradient[rank * ctx.count : (rank + 1) * ctx.count]


def _all_gather(rows: torch.Tensor) -> torch.Tensor:
    _, size = world()
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(size)]
    distributed.all_gather(parts, rows)
    return torch.cat(parts)


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks in order of rank, (size * B, ...), with gradient; every rank must bring equally many."""
    if world()[1] == 1:
        return rows
    return _Gather.apply(rows)  # type: ignore[no-any-return,no-untyped-call]


def gather_constant(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks in order of rank, without gradient."""
    return rows if world()[1] == 1 else _all_gather(rows.detach())
