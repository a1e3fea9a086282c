"""The score table and the cost table: one row a figure, as Parquet files other tools read.

``task_index`` and ``after_task`` count from 0. A figure that belongs to no policy has policy ``""``. Equal rows give equal bytes
with one version of Arrow.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from cmcl_ray.errors import IntegrityError
from cmcl_ray.storage import read_bytes, write_bytes

SCOPES = ("all", "known")
DIRECTIONS = ("t2i", "i2t")

SCORE_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("task_index", pa.int64(), nullable=False),
        pa.field("after_task", pa.int64(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("num_queries", pa.int64(), nullable=False),
        pa.field("num_gallery", pa.int64(), nullable=False),
    ]
)
COST_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("task_index", pa.int64(), nullable=False),
        pa.field("wall_s", pa.float64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("forward_passes", pa.int64(), nullable=False),
        pa.field("bytes_read", pa.int64(), nullable=False),
        pa.field("bytes_written", pa.int64(), nullable=False),
        pa.field("peak_memory_bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ScoreRow:
    """One figure of the score table.

    Args:
        run_id: digest of the run's config.
        label: name of the compared method; equal for the seeds of one method.
        seed: of the run.
        strategy: the continual method.
        policy: what was done with the old gallery.
        scope: ``known`` (candidates of the query's task) or ``all``.
        direction: ``t2i`` or ``i2t``.
        task: name of the task whose test queries were asked.
        task_index: its place in the stream, from 0.
        after_task: place of the task that was trained last, from 0.
        metric: recall@1, recall@5, recall@10 (percent), median_rank, mrr (0 to 1), or another name.
        value: the figure.
        num_queries: queries asked.
        num_gallery: items searched.
    """

    run_id: str
    label: str
    seed: int
    strategy: str
    policy: str
    scope: str
    direction: str
    task: str
    task_index: int
    after_task: int
    metric: str
    value: float
    num_queries: int
    num_gallery: int


@dataclass(frozen=True)
class CostRow:
    """What one stage of a run cost.

    Args:
        run_id: digest of the run's config.
        label: name of the compared method.
        seed: of the run.
        stage: train, update (of a gallery) or query.
        policy: the policy it was done for, as if that policy were alone; empty where all share it.
        task: name of the task after which it was done.
        task_index: its place in the stream, from 0.
        wall_s: seconds.
        samples: rows worked on.
        forward_passes: rows put through an encoder.
        bytes_read: bytes read from storage.
        bytes_written: bytes written to storage.
        peak_memory_bytes: highest memory in use, 0 where it was not measured.
    """

    run_id: str
    label: str
    seed: int
    stage: str
    policy: str
    task: str
    task_index: int
    wall_s: float
    samples: int
    forward_passes: int
    bytes_read: int
    bytes_written: int
    peak_memory_bytes: int


def table_bytes(rows: Sequence[ScoreRow] | Sequence[CostRow]) -> bytes:
    """Return rows of one kind as a Parquet file, in the order given.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no rows were given; expected at least one; write the table after a stage has figures")
    schema = SCORE_SCHEMA if isinstance(rows[0], ScoreRow) else COST_SCHEMA
    return parquet_bytes(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema))


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def write_table(path: str, rows: Sequence[ScoreRow] | Sequence[CostRow]) -> None:
    """Write rows of one kind as a Parquet file, whole or not at all, in the order given.

    Raises:
        ValueError: there are no rows.
    """
    write_bytes(path, table_bytes(rows))


def read_scores(path: str) -> pa.Table:
    """Read a score table.

    Raises:
        IntegrityError: the file is missing, is not Parquet, or has other columns than SCORE_SCHEMA.
    """
    return _read(path, SCORE_SCHEMA, "score")


def read_costs(path: str) -> pa.Table:
    """Read a cost table.

    Raises:
        IntegrityError: the file is missing, is not Parquet, or has other columns than COST_SCHEMA.
    """
    return _read(path, COST_SCHEMA, "cost")


def _read(path: str, schema: pa.Schema, kind: str) -> pa.Table:
    data = read_bytes(path)
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise IntegrityError(
            f"{kind} table {path} is not a Parquet file ({str(error).splitlines()[0]}); remove it and run again to make it anew"
        ) from None
    if not table.schema.equals(schema):
        found = {field.name: f"{field.name} {field.type}" for field in table.schema}
        wanted = {field.name: f"{field.name} {field.type}" for field in schema}
        odd = [text for name, text in {**wanted, **found}.items() if found.get(name) != wanted.get(name)]
        raise IntegrityError(
            f"{kind} table {path} differs from the contract in {', '.join(odd) or 'the order or nullability of its columns'}; "
            f"expected {', '.join(wanted.values())}; remove it and run again with this version"
        )
    return table
