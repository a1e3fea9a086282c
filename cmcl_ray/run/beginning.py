"""The beginning of a run: its folder checked, its data read, and what other tools need to read the rest written down."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.data.sources.base import Source
from cmcl_ray.data.stream import TaskStream, build_stream
from cmcl_ray.errors import StageError
from cmcl_ray.evaluate.scores import parquet_bytes
from cmcl_ray.run.settings import PLACES, RunSettings

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("task_index", pa.int64(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("relevance", pa.int64(), nullable=False),
    ]
)


def check_out(settings: RunSettings) -> None:
    """Check that a run's folder is new or was begun by the same run.

    Raises:
        StageError: the folder belongs to a run of another config.
    """
    path = storage.join(settings.out, "run.json")
    if storage.exists(path):
        found = storage.read_json(path)
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            raise StageError(f"file {path} is no run's; expected an object with config; give another folder (out=...)")
        if found.get("run_id") != settings.run_id:
            raise StageError(
                f"folder {settings.out} holds run {found.get('run_id')} of another config ({_difference(found, settings)}); this "
                f"config is run {settings.run_id}; give another folder (out=...) or remove it"
            )


def _difference(found: Mapping[str, Any], settings: RunSettings) -> str:
    """Name the first key in which two configs differ."""

    def walk(left: Any, right: Any, path: str) -> str | None:
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            for key in sorted({*left, *right}):
                inside = walk(left.get(key), right.get(key), f"{path}.{key}" if path else str(key))
                if inside:
                    return inside
            return None
        return None if left == right else f"{path}: {left!r} there, {right!r} here"

    places = {key: None for key in PLACES}
    return walk({**found.get("config", {}), **places}, {**settings.config, **places}, "") or "another version of the config"


def read_stream(settings: RunSettings) -> TaskStream:
    """Read a run's data and cut it into tasks.

    Raises:
        DataError: the data cannot be used.
    """
    source: Source = build_component(settings.source)
    return build_stream(source.read(), settings.stream)


def check_data(settings: RunSettings, stream: TaskStream) -> None:
    """Check that a run's folder is new or was begun with the same data.

    Raises:
        StageError: the folder holds a run of other data.
    """
    path = storage.join(settings.out, "stream.json")
    begun = storage.read_json(path)["fingerprint"] if storage.exists(path) else stream.fingerprint
    if begun != stream.fingerprint:
        raise StageError(
            f"the data has fingerprint {stream.fingerprint}, but {path} was written for {begun}: the dataset changed since this "
            "run began; give another folder (out=...) or remove it"
        )


def write_beginning(settings: RunSettings, stream: TaskStream) -> None:
    """Write run.json, gallery/items.parquet, where rows were set aside rejected.parquet, and last stream.json; once a run."""
    if storage.exists(storage.join(settings.out, "stream.json")):
        return
    storage.write_json(storage.join(settings.out, "run.json"), settings.describe())
    tables = {"gallery/items.parquet": gallery_items(stream)}
    if stream.rejected.num_rows:
        tables["rejected.parquet"] = stream.rejected
    for name, table in tables.items():
        storage.write_bytes(storage.join(settings.out, name), parquet_bytes(table))
    storage.write_json(storage.join(settings.out, "stream.json"), stream.manifest)


def gallery_items(stream: TaskStream) -> pa.Table:
    """Return what the ids in embeddings and shards stand for: one row an item, by task, side and row.

    Returns:
        Columns task_index, side (image or text), row (the id in embeddings and shards), id (image_id or pair_id) and relevance: a
        hit is right where its number equals the query's. Test items of all tasks, which are gallery and queries at once.
    """
    pairs = stream.pairs
    names = {"image": pairs.images.column("image_id"), "text": pairs.pairs.column("pair_id")}
    parts = []
    for task in stream.tasks:
        first = pairs.first_rows(task.test)
        for side, rows, of in (("image", pairs.image_row[first], first), ("text", task.test, task.test)):
            columns = [
                pa.array(np.full(len(rows), task.index)),
                pa.array([side] * len(rows)),
                pa.array(rows),
                names[side].take(pa.array(rows)).combine_chunks(),
                pa.array(pairs.relevance(of)),
            ]
            parts.append(pa.table(columns, schema=ITEMS_SCHEMA))
    return pa.concat_tables(parts).combine_chunks()
