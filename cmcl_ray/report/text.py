"""The policy table for a terminal."""

from cmcl_ray.report.runs import Run
from cmcl_ray.report.tables import NOTHING, PLUS_MINUS, Cell, Table, headline_table


def render_policy_table(run: Run) -> str:
    """Return the policies at a glance as plain ASCII lines; the best of a column has a star.

    Args:
        run: a finished run, as ``load_run`` reads it.
    """
    title = f"{run.label} (seed {run.seed}), after task {len(run.tasks)} of {len(run.tasks)}, mean over tasks, in percent"
    return f"{title}\n\n{render_table(headline_table(run))}\n\n* best of its column; t2i text to image, i2t image to text"


def render_table(table: Table) -> str:
    """Return a table as aligned plain ASCII lines, titles broken at spaces; the best of a column has a star."""
    heads = [[table.corner], *([f"{word} " for word in column.title.split()] for column in table.columns)]
    depth = max(len(head) for head in heads)
    lines = [[head[row - depth] if depth - row <= len(head) else "" for head in heads] for row in range(depth)]
    body: list[list[str]] = []
    for group in table.groups:
        if group.title:
            body.append([group.title])
        body.extend([name, *map(_plain, cells)] for name, cells in group.rows)
    # The star is part of the width, so that digits stay under each other.
    widths = [max(len(line[place]) for line in [*lines, *body] if place < len(line)) for place in range(len(heads))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*(_aligned(line, widths) for line in lines), rule, *(_aligned(line, widths) for line in body)])


def _plain(cell: Cell) -> str:
    text = cell.text.replace(PLUS_MINUS, "+-").replace(NOTHING, "-")
    return f"{text}*" if cell.best else f"{text} "


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *rest = line
    padded = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=False))]
    return "  ".join(padded).rstrip()
