"""Tables beside the policy table: result matrices, drift, costs and what the stream holds."""

import math

from cmcl_ray.report.runs import FIRST, Run
from cmcl_ray.report.tables import NOTHING, Cell, Column, Group, Table, number, size
from cmcl_ray.report.words import DEFINITIONS, DIRECTION_NAMES, SCOPE_NAMES


def matrix_table(run: Run, scope: str, direction: str, metric: str = FIRST) -> Table:
    """Return the task-by-task matrices of all policies: a group a policy, a row after each task, a column a task."""
    groups = []
    for policy in run.policies:
        matrix_TT = run.matrix(policy, scope, direction, metric)
        if matrix_TT is None:
            continue
        rows = [
            (f"after {run.tasks[step]}", tuple(Cell(number(float(value), 1)) for value in row))
            for step, row in enumerate(matrix_TT)
            if any(math.isfinite(value) for value in row)
        ]
        groups.append(Group(policy, tuple(rows)))
    note = f"R@1 of this task's queries, {DIRECTION_NAMES[direction]}, {SCOPE_NAMES[scope]}"
    return Table("Policy, time", tuple(Column(task, note) for task in run.tasks), tuple(groups))


def drift_table(run: Run) -> Table | None:
    """Return the drift of both branches by task and time, with its shares; None where none was measured."""
    if not run.drift:
        return None
    shares = DEFINITIONS["Common, differential, residual"]
    columns = [
        *(Column(title, DEFINITIONS["Drift"]) for title in ("Image drift", "Text drift")),
        *(Column(title, "Mean cosine of the old and the new vector of an item.") for title in ("Image cosine", "Text cosine")),
        *(Column(title, shares) for title in ("Common", "Differential", "Residual")),
    ]
    keys = ("image", "text", "cosine_image", "cosine_text", "common", "differential", "residual")
    groups: dict[str, list[tuple[str, tuple[Cell, ...]]]] = {}
    for entry in sorted(run.drift, key=lambda entry: (entry["task_index"], entry["after_task"])):
        cells = tuple(Cell(NOTHING if entry.get(key) is None else number(float(entry[key]), 3)) for key in keys)
        groups.setdefault(str(entry["task"]), []).append((f"after {task_name(run, entry['after_task'])}", cells))
    return Table("Task, time", tuple(columns), tuple(Group(task, tuple(rows)) for task, rows in groups.items()))


def cost_table(run: Run) -> Table | None:
    """Return what each stage cost over the whole run, with its policy where it has one; None where nothing was kept."""
    if run.costs is None or not run.costs.num_rows:
        return None
    sums: dict[tuple[str, str], dict[str, float]] = {}
    added = ("wall_s", "samples", "forward_passes", "bytes_read", "bytes_written")
    for row in run.costs.to_pylist():
        entry = sums.setdefault((row["policy"], row["stage"]), dict.fromkeys((*added, "peak"), 0.0))
        for key in added:
            entry[key] += row[key]
        entry["peak"] = max(entry["peak"], row["peak_memory_bytes"])
    groups: dict[str, list[tuple[str, tuple[Cell, ...]]]] = {}
    for (policy, stage), entry in sums.items():
        cells = (
            *(Cell(number(entry[key], decimals)) for key, decimals in (("wall_s", 1), ("samples", 0), ("forward_passes", 0))),
            *(Cell(size(entry[key])) for key in ("bytes_read", "bytes_written", "peak")),
        )
        groups.setdefault(policy, []).append((stage, cells))
    columns = (
        Column("Seconds"),
        Column("Rows", "Rows worked on."),
        Column("Encoder passes", "Rows put through an encoder."),
        Column("Read"),
        Column("Written"),
        Column("Peak memory", "The highest memory in use in the stage; a dash where it was not measured."),
    )
    shared = [Group("Shared by all policies", tuple(groups.pop("")))] if "" in groups else []
    order = sorted(groups, key=lambda policy: run.policies.index(policy) if policy in run.policies else len(run.policies))
    return Table("Stage", columns, (*shared, *(Group(policy, tuple(groups[policy])) for policy in order)))


def stream_table(run: Run) -> Table | None:
    """Return images and captions of each task and split; None where stream.json does not say."""
    tasks = [task for task in run.stream.get("tasks", ()) if task.get("splits")]
    if not tasks:
        return None
    splits = list(dict.fromkeys(split for task in tasks for split in task["splits"]))
    columns = [Column(f"{split} {what}") for split in splits for what in ("images", "captions")]
    rows = [
        (
            f"{place} {task.get('name', '')}",
            tuple(_count(task["splits"].get(split, {}).get(key)) for split in splits for key in ("images", "pairs")),
        )
        for place, task in enumerate(tasks, start=1)
    ]
    return Table("Task", tuple(columns), (Group("", tuple(rows)),))


def _count(value: int | None) -> Cell:
    return Cell(NOTHING if value is None else f"{value:,}")


def task_name(run: Run, index: int) -> str:
    """Return the name of a task by its place, from 0; its number where it has no scores."""
    return run.tasks[index] if 0 <= index < len(run.tasks) else f"task {index}"
