"""Joint training: the upper reference."""

from typing import Literal

import numpy as np

from cmcl_ray.data.stream import Task, TaskStream
from cmcl_ray.strategies.base import RowRequest, Strategy


class Joint(Strategy):
    """Train on the rows of all tasks so far, from the run's first weights.

    At task t it takes as many steps as tasks 1 to t took one after the other, so at the end of the stream it has seen as much
    as the whole sequence. It is a reference, not a bound.

    Args:
        negatives: cross mixes tasks in a batch; within fills every batch from one task, so no pair is pushed away from a pair of
            another task while each still sees as many negatives. The difference between the two is what missing cross-task
            negatives cost.

    Keeps: all rows of all tasks.
    Cost: T (T + 1) / 2 times the work of one task over T tasks.
    """

    def __init__(self, negatives: Literal["cross", "within"] = "cross") -> None:
        self._within = negatives == "within"

    def first_weights(self) -> Literal["previous", "initial"]:
        """Start every task from the run's first weights."""
        return "initial"

    def rows(self, stream: TaskStream, task: Task) -> RowRequest | None:
        """Ask for the training rows of all earlier tasks."""
        if task.index == 0:
            return None
        rows = np.concatenate([earlier.train for earlier in stream.tasks[: task.index]])
        return RowRequest(rows, share=None, cross_task_negatives=not self._within, single_task_batches=self._within)
