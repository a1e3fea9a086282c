"""Tables of the report as values; pages, Markdown and terminals draw them.

A cell without a measured value shows an en dash. Best values are compared as they are printed, so equal prints share the mark.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cmcl_ray.evaluate.comparison import summarise
from cmcl_ray.evaluate.continual import Matrix, backward_transfer, final_average, forgetting
from cmcl_ray.report.runs import FIRST, Run
from cmcl_ray.report.words import DEFINITIONS, DIRECTION_NAMES, SCOPE_NAMES

NOTHING = "\u2013"
PLUS_MINUS = "\u00b1"
# The stage of the cost table that answers queries instead of bringing a gallery up to date.
QUERY_STAGE = "query"


@dataclass(frozen=True)
class Column:
    """A column of figures: its title, its definition, and which way is better (``higher``, ``lower`` or neither)."""

    title: str
    note: str = ""
    better: str = ""


@dataclass(frozen=True)
class Cell:
    """A printed figure; ``best`` of its column and group; a note with more."""

    text: str
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that are compared with each other, under a title that may be empty; a row is a name and its cells."""

    title: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Table:
    """Groups of rows under common columns; ``corner`` is the title of the row names."""

    corner: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class _Measure:
    """A column of numbers: how it prints and how it is computed from a run and a policy."""

    column: Column
    decimals: int
    value: Callable[[Run, str], float]


def number(value: float, decimals: int) -> str:
    """Print a number with thousands separators; an en dash where it was not measured, ``unranked`` where it is infinite."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "unranked"
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def size(num_bytes: float) -> str:
    """Print bytes with a unit; an en dash for 0."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} {unit}" if num_bytes else NOTHING
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def _of_matrix(
    compute: Callable[[Matrix], float], scope: str, direction: str, metric: str = FIRST
) -> Callable[[Run, str], float]:
    def value(run: Run, policy: str) -> float:
        matrix = run.matrix(policy, scope, direction, metric)
        return math.nan if matrix is None else compute(matrix)

    return value


def update_cost(run: Run, policy: str) -> tuple[float, float]:
    """Return (encoder passes, seconds) of a policy's updates after the first task; NaN where the run has no cost table."""
    if run.costs is None:
        return math.nan, math.nan
    rows = [
        row
        for row in run.costs.select(["policy", "stage", "task_index", "forward_passes", "wall_s"]).to_pylist()
        if row["policy"] == policy and row["task_index"] > 0 and row["stage"] != QUERY_STAGE
    ]
    return float(sum(row["forward_passes"] for row in rows)), math.fsum(row["wall_s"] for row in rows)


_COSTS = (
    _Measure(Column("Update passes", DEFINITIONS["Update passes"], "lower"), 0, lambda run, policy: update_cost(run, policy)[0]),
    _Measure(Column("Update s", DEFINITIONS["Update time"], "lower"), 1, lambda run, policy: update_cost(run, policy)[1]),
)


def _headline_measures(runs: Sequence[Run]) -> list[_Measure]:
    sides = list(dict.fromkeys(side for run in runs for side in run.sides))
    firsts = [
        _Measure(
            Column(
                f"R@1 {direction} {scope}", f"{DIRECTION_NAMES[direction]}, {SCOPE_NAMES[scope]}. {DEFINITIONS['R@k']}", "higher"
            ),
            1,
            _of_matrix(final_average, scope, direction),
        )
        for scope, direction in sides
    ]
    forgot = [
        _Measure(
            Column(f"Forgetting {direction}", f"{DIRECTION_NAMES[direction]}, all tasks. {DEFINITIONS['Forgetting']}", "lower"),
            1,
            _of_matrix(forgetting, scope, direction),
        )
        for scope, direction in sides
        if scope == "all"
    ]
    return [*firsts, *forgot, *_COSTS]


def headline_table(run: Run) -> Table:
    """Return the policies at a glance: final R@1 by scope and direction, forgetting, and the cost of the updates."""
    measures = _headline_measures([run])
    return Table("Policy", tuple(measure.column for measure in measures), (_group("", [run], run.policies, measures),))


def policy_table(run: Run) -> Table:
    """Return all figures of each policy after the last task, a group for each scope and direction."""
    groups = []
    columns: tuple[Column, ...] = ()
    for scope, direction in run.sides:
        measures = [
            *(
                _Measure(Column(title, note, better), decimals, _of_matrix(final_average, scope, direction, metric))
                for title, note, better, decimals, metric in (
                    ("R@1", DEFINITIONS["R@k"], "higher", 1, "recall@1"),
                    ("R@5", DEFINITIONS["R@k"], "higher", 1, "recall@5"),
                    ("R@10", DEFINITIONS["R@k"], "higher", 1, "recall@10"),
                    ("MedR", DEFINITIONS["MedR"], "lower", 1, "median_rank"),
                    ("MRR", DEFINITIONS["MRR"], "higher", 3, "mrr"),
                )
            ),
            _Measure(Column("Forgetting", DEFINITIONS["Forgetting"], "lower"), 1, _of_matrix(forgetting, scope, direction)),
            _Measure(
                Column("Backward transfer", DEFINITIONS["Backward transfer"], "higher"),
                1,
                _of_matrix(backward_transfer, scope, direction),
            ),
            *_COSTS,
        ]
        columns = tuple(measure.column for measure in measures)
        title = f"{DIRECTION_NAMES[direction].capitalize()}, {SCOPE_NAMES[scope]}"
        groups.append(_group(title, [run], run.policies, measures))
    return Table("Policy", columns, tuple(groups))


def comparison_table(runs: Sequence[Run]) -> Table:
    """Return the headline figures of labels x policies, mean and standard deviation over the seeds of a label.

    A group is a policy, so that the labels stand under each other; the note of a cell has the 95 % t-interval and the seeds.
    """
    measures = _headline_measures(runs)
    labels = list(dict.fromkeys(run.label for run in runs))
    groups = []
    for policy in dict.fromkeys(policy for run in runs for policy in run.policies):
        chosen = {label: [run for run in runs if run.label == label and policy in run.policies] for label in labels}
        rows = [
            (label, [_spread(of_label, policy, measure) for measure in measures])
            for label, of_label in chosen.items()
            if of_label
        ]
        groups.append(Group(policy, _marked(rows, measures)))
    return Table("Policy, label", tuple(measure.column for measure in measures), tuple(groups))


def _group(title: str, runs: Sequence[Run], policies: Sequence[str], measures: Sequence[_Measure]) -> Group:
    rows = [(policy, [_spread(runs, policy, measure) for measure in measures]) for policy in policies]
    return Group(title, _marked(rows, measures))


def _spread(runs: Sequence[Run], policy: str, measure: _Measure) -> tuple[float, Cell]:
    """Return the mean over runs, and how it prints: with the standard deviation where there are several."""
    values = [measure.value(run, policy) for run in runs]
    summary = summarise(values)
    text = number(summary.mean, measure.decimals)
    if summary.count == 1 or not summary.sd > 0:
        return summary.mean, Cell(text)
    low, high, sd = (number(value, measure.decimals) for value in (summary.low, summary.high, summary.sd))
    seeds = ", ".join(f"seed {run.seed}: {number(value, measure.decimals)}" for run, value in zip(runs, values, strict=True))
    return summary.mean, Cell(f"{text} {PLUS_MINUS} {sd}", note=f"95 % interval {low} to {high}; {seeds}")


def _marked(
    rows: Sequence[tuple[str, list[tuple[float, Cell]]]], measures: Sequence[_Measure]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    best = [
        _best((cells[place][0] for _, cells in rows), measure.column.better, measure.decimals)
        for place, measure in enumerate(measures)
    ]
    return tuple(
        (
            name,
            tuple(
                Cell(cell.text, number(value, measure.decimals) == mark, cell.note)
                for (value, cell), mark, measure in zip(cells, best, measures, strict=True)
            ),
        )
        for name, cells in rows
    )


def _best(values: Iterable[float], better: str, decimals: int) -> str | None:
    """Return how the best value prints; None where all print alike or no way is better."""
    finite = [value for value in values if math.isfinite(value)]
    if not better or len({number(value, decimals) for value in finite}) < 2:
        return None
    return number(max(finite) if better == "higher" else min(finite), decimals)
