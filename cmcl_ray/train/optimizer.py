"""AdamW and its schedule."""

import math

import torch
from torch import nn

from cmcl_ray.train.settings import TrainSettings

# CLIP's value. With torch's own 1e-8 a gradient that is nothing but rounding moves its weight by a whole learning rate, so
# that runs on 1 and on 2 workers drift apart a hundred times faster.
EPS = 1e-6


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; only matrices and larger are decayed."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trainable if weight.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in trainable if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, eps=EPS)


def rate_at(step: int, steps: int, settings: TrainSettings) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine down; a pure function of the step."""
    warmup = int(steps * settings.warmup_share)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    lowest = settings.lr * settings.final_lr_share
    return lowest + (settings.lr - lowest) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
