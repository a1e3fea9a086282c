"""Where a training process stands: its rank, how many there are, its device."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed

from cmcl_ray.errors import ConfigError, ResourceError


@dataclass(frozen=True)
class World:
    """One process among those that train together.

    Args:
        rank: from 0.
        size: number of processes.
        device: where this process's model lives.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @classmethod
    def current(cls, device: str = "auto") -> "World":
        """Return the world of the default process group, or a single process where there is none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size(), choose_device(device))
        return cls(0, 1, choose_device(device))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            distributed.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a value over all ranks."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    def from_leader(self, value: Any) -> Any:
        """Return the leader's value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


def choose_device(device: str) -> torch.device:
    """Return a device by name; ``auto`` takes the GPU Ray or the launcher gave this process, else the CPU.

    Raises:
        ConfigError: there is no such device.
        ResourceError: this process has no GPU.
    """
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device is '{device}'; expected auto, cpu or cuda; correct it") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"device is '{device}', but this process sees no GPU; expected one; set device=auto or cpu")
    return chosen
