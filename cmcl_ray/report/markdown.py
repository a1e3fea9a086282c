"""The report as Markdown: the same tables and sentences, without drawings."""

import re
from collections.abc import Sequence

from cmcl_ray.report.detail_tables import cost_table, drift_table, matrix_table, stream_table
from cmcl_ray.report.runs import Run
from cmcl_ray.report.tables import Cell, Table, comparison_table, headline_table, policy_table
from cmcl_ray.report.words import DEFINITIONS, DIRECTION_NAMES, SCOPE_NAMES, opening, opening_of_several, set_aside, verdict


def render_markdown(runs: Sequence[Run], notes: Sequence[str]) -> str:
    """Return the report of one run, or of several that are compared, as Markdown.

    Args:
        runs: at least one.
        notes: warnings about the comparison, shown at the top.
    """
    parts = [f"# {escape(' / '.join(dict.fromkeys(run.label for run in runs)))}"]
    parts.extend(f"> {escape(note)}" for note in notes)
    if len(runs) > 1:
        parts.extend(
            [
                "## Comparison",
                escape(opening_of_several(runs)),
                "Mean and standard deviation over the seeds of a label.",
                render_table(comparison_table(runs)),
            ]
        )
    for run in runs:
        parts.extend(_of_run(run, alone=len(runs) == 1))
    parts.extend(["## What the figures mean", "\n".join(f"- **{name}**: {text}" for name, text in DEFINITIONS.items())])
    return "\n\n".join(part for part in parts if part) + "\n"


def _of_run(run: Run, alone: bool) -> list[str]:
    parts = [] if alone else [f"## {escape(run.label)}, seed {run.seed}"]
    parts.extend([escape(opening(run)), escape(verdict(run))])
    parts.extend(
        ["### Policies at a glance", render_table(headline_table(run)), "### All figures", render_table(policy_table(run))]
    )
    for scope, direction in run.sides:
        parts.append(f"### R@1 of each task after each task: {DIRECTION_NAMES[direction]}, {SCOPE_NAMES[scope]}")
        parts.append(render_table(matrix_table(run, scope, direction)))
    for title, table in (("Drift", drift_table(run)), ("Costs", cost_table(run)), ("Stream", stream_table(run))):
        if table:
            parts.extend([f"### {title}", render_table(table)])
    parts.extend(["### Rows set aside", "\n".join(f"- {escape(line)}" for line in set_aside(run))])
    return parts


def render_table(table: Table) -> str:
    """Return a table as Markdown, each group under its title; best values are bold."""
    parts = []
    for group in table.groups:
        if group.title:
            parts.append(f"**{escape(group.title)}**")
        head = [table.corner, *(column.title for column in table.columns)]
        lines = [head, ["---", *("---:" for _ in table.columns)]]
        lines = [[escape(text) if line is head else text for text in line] for line in lines]
        lines.extend([escape(name), *map(_cell, cells)] for name, cells in group.rows)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def escape(text: str) -> str:
    """Keep a text from being read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if cell.best else text
