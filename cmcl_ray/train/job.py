"""What training needs to know, and the plan of a task: values without any process or device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmcl_ray import storage
from cmcl_ray.components import ComponentSpec
from cmcl_ray.data.feed import RowFacts
from cmcl_ray.data.order import BatchPlan
from cmcl_ray.data.pairs import Rows
from cmcl_ray.data.stream import Task, TaskStream, slug
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.strategies.base import RowRequest
from cmcl_ray.train.checkpoints import read_position
from cmcl_ray.train.settings import TrainSettings


@dataclass(frozen=True)
class FitJob:
    """The training of a whole stream, whatever processes it happens in.

    Args:
        out: folder of the run.
        seed: of the run.
        stream: all tasks.
        model: the model's settings.
        loss: the loss's settings.
        strategies: settings by label, in the order they are applied.
        train: how to train.
    """

    out: str
    seed: int
    stream: TaskStream
    model: ComponentSpec
    loss: ComponentSpec
    strategies: Mapping[str, ComponentSpec]
    train: TrainSettings

    def folder(self, task: int) -> str:
        """Return the folder of a task."""
        return storage.join(self.out, "tasks", f"{task:02d}_{slug(self.stream.tasks[task].name)}")

    def checkpoint(self, task: int) -> str:
        """Return the folder of the checkpoint that ends a task."""
        return storage.join(self.folder(task), "checkpoint")

    def progress(self, task: int) -> str:
        """Return the folder of the checkpoints inside a task, there only while it is trained."""
        return storage.join(self.folder(task), "progress")

    def is_done(self, task: int) -> bool:
        """Tell whether a task's checkpoint is whole."""
        return storage.has_manifest(self.checkpoint(task))

    def version(self, task: int) -> ModelVersion:
        """Return the model version a finished task ended with."""
        position = read_position(self.checkpoint(task))
        return ModelVersion(position["version"], position["parent"], task, self.stream.fingerprint, self.checkpoint(task))


def row_facts(stream: TaskStream) -> RowFacts:
    """Return what batches carry beside their arrays, by pair row of the whole stream."""
    task_N = np.full(len(stream.pairs), -1, dtype=np.int64)
    for each in stream.tasks:
        for rows in (each.train, each.val, each.test):
            task_N[rows] = each.index
    everything = np.arange(len(stream.pairs), dtype=np.int64)
    return RowFacts(stream.pairs.image_row, stream.pairs.relevance(everything), task_N)


def plan_task(stream: TaskStream, task: Task, requests: Sequence[RowRequest], settings: TrainSettings, seed: int) -> BatchPlan:
    """Join the rows that strategies ask for with the task's own to a plan of global batches."""
    own = np.unique(np.concatenate([task.train, *(request.rows for request in requests if request.share is None)]))
    memory = [request for request in requests if request.share is not None and len(request.rows)]
    groups: tuple[Rows, ...] = ()
    if any(request.single_task_batches for request in requests):
        groups = tuple(np.intersect1d(own, other.train) for other in stream.tasks[: task.index + 1])
    return BatchPlan(
        rows=own,
        memory=np.unique(np.concatenate([request.rows for request in memory])) if memory else np.empty(0, dtype=np.int64),
        batch_size=settings.batch_size,
        # A share too small for one row would silently turn replay off.
        memory_batch=max(1, round(settings.batch_size * sum(request.share or 0.0 for request in memory))) if memory else 0,
        epochs=settings.epochs,
        seed=seed,
        task=task.index,
        groups=groups,
    )
