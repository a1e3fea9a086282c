"""A small stream of three tasks, and contexts as the training loop makes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import distributed

from cmcl_ray.data.feed import Batch, Feed, LocalDecode
from cmcl_ray.data.pairs import Rows
from cmcl_ray.data.stream import Task, TaskStream
from cmcl_ray.models.base import DualEncoder
from cmcl_ray.models.losses.info_nce import InfoNCE
from cmcl_ray.strategies.base import StrategyContext
from cmcl_ray.strategies.ewc import EWC
from cmcl_ray.strategies.mathematics.fisher import Estimator
from cmcl_ray.train.job import row_facts
from tests.unit.models.toys import model_of, toy_pairs

ESTIMATORS: tuple[Estimator, ...] = ("per_anchor", "anchor_side")


def stream_of(images: int = 27, captions: int = 2, tasks: int = 3) -> TaskStream:
    """Return tasks whose images lie between each other; one in nine is for val, one for test."""
    pairs = toy_pairs(images, captions)
    made = []
    for index in range(tasks):
        of_task = np.flatnonzero(pairs.image_row % tasks == index)
        place = pairs.image_row[of_task] // tasks % 9
        made.append(Task(index, f"task {index}", of_task[place < 7], of_task[place == 7], of_task[place == 8]))
    return TaskStream(pairs, tuple(made), {"fingerprint": "0" * 64}, pa.table({}))


def context_of(
    stream: TaskStream, task: int, model: DualEncoder | None = None, rank: int = 0, size: int = 1, seed: int = 0
) -> StrategyContext:
    model = model or model_of("shared_1")
    feed = Feed(LocalDecode(stream.pairs, model.inputs()), row_facts(stream), 1, 0)

    def read(rows: Rows) -> Batch:
        return feed.read(rows)

    return StrategyContext(stream, stream.tasks[task], model, InfoNCE(), read, rank, size, seed)


def importance_of(estimator: Estimator, rank: int, size: int, **settings: object) -> dict[str, torch.Tensor]:
    """Return the importance that one worker ends the second task with."""
    strategy = EWC(anchors=12, fisher_batch=4, estimator=estimator, **settings)
    stream = stream_of()
    for task in (0, 1):
        strategy.finish(context_of(stream, task, rank=rank, size=size))
    return strategy.state_dict()["importance"]


def run_rank(rank: int, folder: str, size: int) -> None:
    """Take the importance as one of several processes, and leave it in the folder."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found = {
        (estimator, raw): importance_of(estimator, rank, size, normalise=not raw) for estimator in ESTIMATORS for raw in (0, 1)
    }
    torch.save(found, Path(folder) / f"found-{rank}.pt")
    distributed.destroy_process_group()
