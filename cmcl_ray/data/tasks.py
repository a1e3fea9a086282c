"""Which task each pair belongs to: by the values of a column, by time, or by a keyed hash."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.data.pairs import Pairs, require_columns
from cmcl_ray.data.splits import LEFT_OUT, Codes, as_text, column_values, keyed_hash
from cmcl_ray.errors import DataError, did_you_mean


@dataclass(frozen=True)
class TaskSettings:
    """How a stream is cut into tasks.

    Args:
        by: column the tasks are cut by; with how=time it holds anything that sorts.
        how: ``column``: one task a value; ``time``: equal numbers of images in order of time; ``hash``: the values dealt out in
            the order of a keyed hash, equally many values a task.
        order: with how=column, the values that are tasks, in order; others are left out and counted. Empty: all values, in order
            of first appearance.
        count: number of tasks with how=time or how=hash.
        salt: with how=hash, another salt deals otherwise.

    Raises:
        ValueError: a setting has no effect with this ``how``, is missing, or a value is named twice.
    """

    by: str = "group"
    how: Literal["column", "time", "hash"] = "column"
    order: tuple[str, ...] = ()
    count: int = 0
    salt: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.how == "column" and self.count:
            raise ValueError(
                f"count is {self.count}, which has no effect with how=column; expected 0; remove it, or set how to time or hash"
            )
        if self.how != "column" and self.order:
            raise ValueError(
                f"order is given, which has no effect with how={self.how}; expected none; remove it, or set how to column"
            )
        if self.how != "column" and self.count < 1:
            raise ValueError(f"count is {self.count}; expected the number of tasks, at least 1, with how={self.how}; set count")
        if self.how != "hash" and self.salt:
            raise ValueError(
                f"salt is {self.salt}, which has no effect with how={self.how}; expected 0; remove it, or set how to hash"
            )
        twice = next((value for value in self.order if self.order.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"order names '{twice}' twice; expected each task once; remove one")


def assign_tasks(pairs: Pairs, settings: TaskSettings) -> tuple[list[str], Codes]:
    """Say which task each pair row belongs to.

    Returns:
        The names of the tasks in order, and (number of pairs,) positions among them, LEFT_OUT where a row has none.

    Raises:
        DataError: the column is missing, a value of ``order`` is in no row, or there are fewer values than tasks.
    """
    require_columns(pairs.pairs, (settings.by,), "the pairs table")
    if settings.how == "time":
        return _tasks_by_time(pairs, settings)
    known = [value for value in column_values(pairs.pairs, settings.by) if value]
    if settings.how == "hash":
        if len(known) < settings.count:
            raise DataError(
                f"column '{settings.by}' has {len(known)} values for {settings.count} tasks; expected at least one value a task; "
                "lower stream.tasks.count or cut by another column"
            )
        known = [known[i] for i in np.lexsort((np.array(known), keyed_hash(known, "task", settings.salt)))]
        names = [f"hash-{i + 1}" for i in range(settings.count)]
        task_of = {value: i * settings.count // len(known) for i, value in enumerate(known)}
    else:
        names = list(settings.order) or known
        for value in names:
            if value not in known:
                raise DataError(
                    f"stream.tasks.order names '{value}', but no row has {settings.by} '{value}'{did_you_mean(value, known)}; "
                    f"expected some of {', '.join(map(repr, known[:20]))}; correct or remove it"
                )
        task_of = {value: i for i, value in enumerate(names)}
    encoded = pc.dictionary_encode(as_text(pairs.pairs, settings.by))
    of_value = np.array([task_of.get(value, LEFT_OUT) for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    return names, of_value[np.asarray(encoded.indices)]


def _tasks_by_time(pairs: Pairs, settings: TaskSettings) -> tuple[list[str], Codes]:
    """Cut the images into equal counts by their earliest time, ties by image id; rows of images without a time are left out."""
    times = pairs.pairs.column(settings.by)
    images = pa.table({"image": pa.array(pairs.image_row), "time": times}).filter(pc.is_valid(times))
    images = images.group_by("image").aggregate([("time", "min")])
    images = images.append_column("id", pairs.images.column("image_id").take(images.column("image")))
    order = np.asarray(pc.sort_indices(images, sort_keys=[("time_min", "ascending"), ("id", "ascending")]))
    if len(order) < settings.count:
        raise DataError(
            f"{len(order)} images have a {settings.by} for {settings.count} tasks; expected at least one image a task; "
            "lower stream.tasks.count or check the column"
        )
    task_of_image = np.full(pairs.images.num_rows, LEFT_OUT, dtype=np.int64)
    task_of_image[np.asarray(images.column("image"))[order]] = np.arange(len(order)) * settings.count // len(order)
    return [f"time-{i + 1}" for i in range(settings.count)], task_of_image[pairs.image_row]
