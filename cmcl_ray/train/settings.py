"""The settings of training."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainSettings:
    """How a task is trained.

    Args:
        epochs: passes over a task's rows.
        batch_size: new rows in a global batch, over all workers; memory rows come on top.
        lr: highest learning rate of AdamW.
        weight_decay: of AdamW, on matrices only. It pulls to 0 while penalties such as EWC's pull to an anchor, so it is 0 unless
            set.
        warmup_share: share of a task's steps over which the rate rises from 0.
        final_lr_share: share of ``lr`` the cosine ends at.
        clip_norm: largest norm of the gradient; 0 leaves it alone.
        precision: fp32, bf16 (autocast), or auto: bf16 on a GPU, else fp32.
        keep: last weights of the task, or the best ones on its validation pairs (loss, once an epoch).
        checkpoint_every_steps: steps between progress checkpoints; 0 for none by steps.
        checkpoint_every_minutes: minutes between progress checkpoints; 0 for none by time.
        log_every: steps between lines of metrics.
        cache_bytes: decoded rows a worker holds at a time.
        threads: torch threads of a training process; 0 leaves the machine's own choice. Sums differ in the last bits between
            thread counts.
        device: auto, cpu or cuda.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup_share: float = 0.05
    final_lr_share: float = 0.01
    clip_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    keep: Literal["last", "best"] = "last"
    checkpoint_every_steps: int = 0
    checkpoint_every_minutes: float = 10.0
    log_every: int = 10
    cache_bytes: int = 512 * 2**20
    threads: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("epochs", "log_every", "cache_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 2, since a pair alone has no negatives")
        positive = ("lr", "weight_decay", "clip_norm", "checkpoint_every_steps", "checkpoint_every_minutes", "threads")
        for name in positive:
            # A value that is not a number fails every comparison.
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite value of at least 0")
        for name in ("warmup_share", "final_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share from 0 to 1")
