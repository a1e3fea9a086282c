"""Replay of a few images of earlier tasks."""

from typing import Literal

import numpy as np

from cmcl_ray.data.pairs import Rows
from cmcl_ray.data.stream import Task, TaskStream
from cmcl_ray.strategies.base import RowRequest, State, Strategy, StrategyContext
from cmcl_ray.strategies.mathematics.memory import smallest_keys


class Replay(Strategy):
    """Keep some images of every task, with all their captions, and mix them into later batches.

    Chosen by the smallest keyed hashes of the image ids: uniform over ids, the same for any order of rows and any number of
    workers, and mergeable.

    Args:
        images_per_task: images kept of each task, at least 1.
        share: memory rows in a batch for each new row, in (0, 1]; 0.5 puts one memory row beside two new ones.
        negatives: cross makes pairs of different tasks negatives of each other; within does not (same rows, same compute).
        salt: changes which images are kept.

    Keeps: images_per_task image ids a task; the images themselves stay in the dataset.
    Cost: (1 + share) times the work of a step.
    Source: Chaudhry et al. 2019 (arXiv 1902.10486); selection by bottom-k sketch.
    """

    def __init__(
        self, images_per_task: int = 100, share: float = 0.5, negatives: Literal["cross", "within"] = "cross", salt: int = 0
    ) -> None:
        if images_per_task < 1 or not 0 < share <= 1:
            raise ValueError(f"images_per_task is {images_per_task} and share {share}; expected at least 1, and above 0 up to 1")
        self._images_per_task = images_per_task
        self._share = share
        self._cross = negatives == "cross"
        self._salt = salt
        self._memory: list[list[str]] = []

    def rows(self, stream: TaskStream, task: Task) -> RowRequest | None:
        """Ask for the pairs of the kept images."""
        kept = [
            rows_of_images(stream, earlier, ids) for earlier, ids in zip(stream.tasks[: task.index], self._memory, strict=False)
        ]
        if not kept:
            return None
        return RowRequest(np.concatenate(kept), share=self._share, cross_task_negatives=self._cross)

    def finish(self, context: StrategyContext) -> None:
        """Choose the images of the task that just ended."""
        pairs = context.stream.pairs
        images = np.unique(pairs.image_row[context.task.train])
        ids = pairs.images.column("image_id").take(images).to_pylist()
        kept = smallest_keys(ids, self._images_per_task, (context.seed, self._salt))
        self._memory = [*self._memory[: context.task.index], kept]

    def state_dict(self) -> State:
        """Return the kept image ids of each task."""
        return {"memory": self._memory}

    def load_state_dict(self, state: State) -> None:
        """Take back the kept image ids."""
        self._memory = [list(ids) for ids in state["memory"]]


def rows_of_images(stream: TaskStream, task: Task, ids: list[str]) -> Rows:
    """Return the training rows of a task whose image is among some image ids."""
    wanted = set(ids)
    images = np.unique(stream.pairs.image_row[task.train])
    names = stream.pairs.images.column("image_id").take(images).to_pylist()
    kept = images[[name in wanted for name in names]]
    return task.train[np.isin(stream.pairs.image_row[task.train], kept)]
