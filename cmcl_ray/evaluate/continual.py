"""Continual metrics: functions of the result matrix.

``matrix_TT[t, k]`` is the score on task k after training task t, both counted from 0; NaN where nothing was measured (above the
diagonal, and the earlier rows of a strategy that trains once). A NaN that a metric needs makes the metric NaN. In scope ``all``
the gallery after task t holds the shards that exist then, so later rows face more items.

Shape legend: T tasks.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.errors import ShapeError

Matrix = npt.NDArray[np.float64]


def final_average(matrix: Matrix) -> float:
    """Return mean_k R[T][k], the mean over all tasks after the last one; range and direction are those of the score."""
    return float(_square(matrix)[-1].mean())


def average_incremental(matrix: Matrix) -> float:
    """Return mean_t mean_{k<=t} R[t][k], the mean over time of the mean over the tasks seen; range of the score."""
    return float(np.mean([row[: step + 1].mean() for step, row in enumerate(_square(matrix))]))


def backward_transfer(matrix: Matrix) -> float:
    """Return mean_{k<T} (R[T][k] - R[k][k]), averaged over the T-1 earlier tasks; negative means forgetting.

    As in the GEM paper; the GEM repository divides by T. For recall -100 to 100, higher is better. NaN with one task.
    """
    matrix_TT = _square(matrix)
    if len(matrix_TT) < 2:
        return float("nan")
    return float((matrix_TT[-1] - np.diagonal(matrix_TT))[:-1].mean())


def forgetting(matrix: Matrix) -> float:
    """Return mean_{k<T} (max_{k<=t<T} R[t][k] - R[T][k]), the fall from the best earlier score; lower is better.

    The maximum starts at the task's own time and leaves the last row out, so the value can be negative (-100 to 100 for recall);
    FACIL starts it at the first row, Mammoth includes the last. NaN with one task.
    """
    matrix_TT = _square(matrix)
    if len(matrix_TT) < 2:
        return float("nan")
    return float(np.mean([matrix_TT[task:-1, task].max() - matrix_TT[-1, task] for task in range(len(matrix_TT) - 1)]))


def matrix_from_scores(table: pa.Table, policy: str, scope: str, direction: str, metric: str) -> tuple[list[str], Matrix]:
    """Take one result matrix out of the score table of a run.

    Args:
        table: rows of SCORE_SCHEMA, of one run.
        policy: gallery policy.
        scope: known or all.
        direction: t2i or i2t.
        metric: such as ``recall@1``.

    Returns:
        The task names in order, and the (T, T) matrix, NaN where no row is.

    Raises:
        ValueError: no row matches, or two rows give the same cell (a table of several runs).
    """
    wanted = {"policy": policy, "scope": scope, "direction": direction, "metric": metric}
    chosen = table
    for column, value in wanted.items():
        chosen = chosen.filter(pc.equal(chosen[column], value))
    named = ", ".join(f"{column} '{value}'" for column, value in wanted.items())
    if not chosen.num_rows:
        known = "; ".join(f"{column}: {', '.join(sorted(set(table[column].to_pylist())))}" for column in wanted)
        raise ValueError(
            f"the score table has no row with {named}; expected one of the values in it ({known}); choose among these"
        )
    tasks, steps = np.asarray(chosen["task_index"]), np.asarray(chosen["after_task"])
    count = 1 + int(max(tasks.max(), steps.max()))
    if len({*zip(tasks.tolist(), steps.tolist(), strict=True)}) < chosen.num_rows:
        raise ValueError(
            f"the score table gives a cell twice for {named} ({chosen.num_rows} rows); expected the rows of one run; "
            "filter the table by run_id first"
        )
    matrix_TT = np.full((count, count), np.nan)
    matrix_TT[steps, tasks] = np.asarray(chosen["value"])
    names = dict(zip(tasks.tolist(), chosen["task"].to_pylist(), strict=True))
    return [names.get(task, f"task {task}") for task in range(count)], matrix_TT


def _square(matrix: Matrix) -> Matrix:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ShapeError(
            f"the result matrix has shape {matrix.shape}; expected (T, T) with T at least 1, row t after training task t; "
            "build it with matrix_from_scores"
        )
    return matrix
