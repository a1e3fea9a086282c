"""From a table of pairs to a stream of tasks: cut by a column, by time or into seeded groups, each split into train, val, test.

The unit is the image with all its captions: it belongs to one task and one split, or the stream is refused. The manifest says
what the stream holds, by content and not by place, so it is the same bytes on any machine.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.data.contents import identical_images, image_contents, rows_fingerprint
from cmcl_ray.data.pairs import Pairs, Rows, repeated_value
from cmcl_ray.data.sources.base import SourceData
from cmcl_ray.data.splits import LEFT_OUT, SPLITS, Codes, SplitSettings, as_text, assign_splits, keep_queries
from cmcl_ray.data.tasks import TaskSettings, assign_tasks
from cmcl_ray.errors import DataError
from cmcl_ray.storage import digest_of


@dataclass(frozen=True)
class StreamSettings:
    """How a source becomes a stream: the cut into tasks and the cut into splits."""

    tasks: TaskSettings = dataclasses.field(default_factory=TaskSettings)
    splits: SplitSettings = dataclasses.field(default_factory=SplitSettings)


@dataclass(frozen=True)
class Task:
    """One step of the stream.

    Args:
        index: position in the stream.
        name: the value it was cut by.
        train: pair rows to train on, ascending.
        val: pair rows to choose by, ascending; may be empty.
        test: pair rows to report on, ascending.
    """

    index: int
    name: str
    train: Rows
    val: Rows
    test: Rows


@dataclass(frozen=True)
class TaskStream:
    """Tasks in order over one table of pairs.

    Args:
        pairs: the table all rows point into.
        tasks: the tasks in order.
        manifest: a JSON value: counts and fingerprint of each task and split, settings, what was left out or set aside.
        rejected: the rows the source set aside.
    """

    pairs: Pairs
    tasks: tuple[Task, ...]
    manifest: dict[str, Any]
    rejected: pa.Table

    @property
    def fingerprint(self) -> str:
        """The digest of all tasks and splits, 64 hexadecimal digits: equal where content, cut and order are equal."""
        return str(self.manifest["fingerprint"])


def slug(name: str) -> str:
    """Return a name for folders: a-z, 0-9 and single hyphens; ``task`` where nothing of the name is left."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "task"


def build_stream(data: SourceData, settings: StreamSettings) -> TaskStream:
    """Cut what a source read into a stream of tasks.

    Raises:
        DataError: a column or value is missing, ids repeat, an image falls into two tasks or two splits, or a task has no train
            or no test rows.
    """
    pairs = data.pairs
    for table, column in ((pairs.pairs, "pair_id"), (pairs.images, "image_id")):
        repeated = repeated_value(table.column(column))
        if repeated is not None:
            raise DataError(
                f"{column} '{repeated}' occurs more than once, so splits overlap; expected unique ids; drop the repeated rows"
            )
    names, task_codes = assign_tasks(pairs, settings.tasks)
    split_codes = assign_splits(pairs, settings.splits)
    _refuse_overlap(pairs, names, task_codes, split_codes)
    final = keep_queries(pairs, settings.splits, split_codes)
    tasks = tuple(
        Task(i, name, *(np.flatnonzero((task_codes == i) & (final == code)) for code in range(3))) for i, name in enumerate(names)
    )
    for task in tasks:
        if not len(task.train) or not len(task.test):
            raise DataError(
                f"task '{task.name}' has {len(task.train)} train, {len(task.val)} val and {len(task.test)} test pairs; expected "
                "some to train on and some to test on; change stream.splits, or leave the task out of stream.tasks.order"
            )
    left_out = {
        "tasks": _left_out_values(pairs, settings.tasks.by, task_codes),
        "splits": int(((split_codes == LEFT_OUT) & (task_codes != LEFT_OUT)).sum()),
        "queries": int(((final != split_codes) & (task_codes != LEFT_OUT)).sum()),
    }
    return TaskStream(pairs, tasks, _manifest(data, tasks, settings, left_out), data.rejected)


def _refuse_overlap(pairs: Pairs, names: list[str], task_codes: Codes, split_codes: Codes) -> None:
    kept = np.flatnonzero((task_codes != LEFT_OUT) & (split_codes != LEFT_OUT))
    cell = task_codes[kept] * len(SPLITS) + split_codes[kept]
    # The last row written wins; any other row of its image must have written the same.
    of_image: npt.NDArray[np.int64] = np.zeros(pairs.images.num_rows, dtype=np.int64)
    of_image[pairs.image_row[kept]] = cell
    wrong = np.flatnonzero(of_image[pairs.image_row[kept]] != cell)
    if not len(wrong):
        return
    row = int(kept[wrong[0]])
    one, other = (
        f"{SPLITS[code % 3]} of task '{names[code // 3]}'" for code in map(int, (cell[wrong[0]], of_image[pairs.image_row[row]]))
    )
    raise DataError(
        f"overlapping splits: image '{pairs.images.column('image_id')[int(pairs.image_row[row])].as_py()}' is in {one} (pair "
        f"'{pairs.pairs.column('pair_id')[row].as_py()}') and in {other}; expected each image in one task and one split; cut "
        "by a column that is the same for all captions of an image"
    )


def _left_out_values(pairs: Pairs, column: str, task_codes: Codes) -> dict[str, int]:
    """Count the pairs that belong to no task, by their value of the column; the empty text stands for null."""
    left = pairs.pairs.select([column]).filter(pa.array(task_codes == LEFT_OUT))
    counts = pc.value_counts(as_text(left, column))
    return {entry["values"]: entry["counts"] for entry in counts.to_pylist()}


def _manifest(data: SourceData, tasks: tuple[Task, ...], settings: StreamSettings, left_out: dict[str, Any]) -> dict[str, Any]:
    contents = image_contents(data.pairs)
    listed = [
        {
            "index": task.index,
            "name": task.name,
            "splits": {
                split: {
                    "pairs": len(rows),
                    "images": len(np.unique(data.pairs.image_row[rows])),
                    "fingerprint": rows_fingerprint(data.pairs, contents, rows),
                }
                for split, rows in zip(SPLITS, (task.train, task.val, task.test), strict=True)
            },
        }
        for task in tasks
    ]
    of_split = [np.concatenate([rows[i] for rows in ((task.train, task.val, task.test) for task in tasks)]) for i in range(3)]
    reasons = pc.value_counts(data.rejected.column("reason").combine_chunks()).to_pylist()
    return {
        "tasks": listed,
        "fingerprint": digest_of(listed, length=64),
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "left_out": left_out,
        "rejected": {entry["values"]: entry["counts"] for entry in reasons},
        "identical_images_between_splits": identical_images(data.pairs, contents, of_split),
    }
