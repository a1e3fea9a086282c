"""Plain fine-tuning: the lower reference."""

from cmcl_ray.strategies.base import Strategy


class Finetune(Strategy):
    """Train each task from the weights of the one before, on its own rows alone.

    Keeps: nothing.
    Cost: nothing.
    """
