"""Figures of the report: small panels, one drawing each, that a page sets side by side or under each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cmcl_ray.evaluate.comparison import summarise
from cmcl_ray.evaluate.continual import Matrix, final_average
from cmcl_ray.report.runs import Run
from cmcl_ray.report.svg import ACCENT, INK, drawing, series_color, to_svg
from cmcl_ray.report.words import DIRECTION_NAMES, SCOPE_NAMES, best_policy

# Strength of the colour of a full score, so that the figure on it stays readable in both schemes.
_FULL = 0.6
# Width of the page's text in inches of 72 CSS pixels.
_PAGE = 15.4


@dataclass(frozen=True)
class Panel:
    """One drawing under a title."""

    title: str
    svg: str


def _panel(
    title: str, key: str, size: tuple[float, float], margins: tuple[float, float, float, float], draw: Callable[[Axes], None]
) -> Panel:
    with drawing():
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        # Margins in inches; fixed ones draw several times faster than a layout engine.
        left, bottom, right, top = margins
        across, down = size
        axes = figure.add_axes((left / across, bottom / down, 1 - (left + right) / across, 1 - (bottom + top) / down))
        axes.patch.set_alpha(0)
        draw(axes)
        return Panel(title, to_svg(figure, title, key))


def policy_bars(runs: Sequence[Run], key: str, scope: str = "all") -> list[Panel]:
    """Draw the final R@1 of each policy, a panel a direction; with several labels a bar each, with their spread over seeds.

    Args:
        runs: of one label or of several.
        key: prefix of the ids in the drawings, different for each call on a page.
        scope: known or all.
    """
    labels = list(dict.fromkeys(run.label for run in runs))
    policies = list(dict.fromkeys(policy for run in runs for policy in run.policies))
    best = best_policy(runs[0]) if len(labels) == 1 else None
    panels = []
    for direction in dict.fromkeys(direction for run in runs for found, direction in run.sides if found == scope):

        def draw(axes: Axes, direction: str = direction) -> None:
            height = 0.76 / len(labels)
            for place, label in enumerate(labels):
                for row, policy in enumerate(policies):
                    of_label = [run for run in runs if run.label == label]
                    color = (ACCENT if policy == best else series_color(7)) if len(labels) == 1 else series_color(place)
                    middle = row + (place - (len(labels) - 1) / 2) * height
                    _bar(axes, middle, height, _finals(of_label, policy, scope, direction), color)
            axes.set_yticks(range(len(policies)), policies)
            axes.set_ylim(len(policies) - 0.5, -0.5)
            axes.set_xlim(0, 100)
            axes.grid(visible=True, axis="x")
            axes.spines["left"].set_visible(False)
            axes.set_xlabel("R@1 in percent, mean over tasks")

        title = f"{DIRECTION_NAMES[direction].capitalize()}, {SCOPE_NAMES[scope]}"
        left = 0.15 + 0.085 * max(map(len, policies))
        tall = 0.55 + len(policies) * max(0.3, 0.22 * len(labels) + 0.12)
        panels.append(_panel(title, f"{key}-{direction}", (4.9, tall), (left, 0.5, 0.3, 0.05), draw))
    return panels


def _finals(runs: Sequence[Run], policy: str, scope: str, direction: str) -> list[float]:
    matrices = [run.matrix(policy, scope, direction) for run in runs]
    return [value for matrix in matrices if matrix is not None and math.isfinite(value := final_average(matrix))]


def _bar(axes: Axes, middle: float, height: float, values: Sequence[float], color: str) -> None:
    if not values:
        return
    summary = summarise(values)
    axes.barh(middle, summary.mean, height=height * 0.9, color=color)
    reach = summary.mean
    if math.isfinite(summary.sd):
        axes.errorbar(summary.mean, middle, xerr=summary.sd, color=INK, linewidth=1, capsize=2)
        reach += summary.sd
    axes.text(reach + 1.2, middle, f"{summary.mean:.1f}", va="center", fontsize=10)


def forgetting_curves(run: Run, scope: str, direction: str, key: str) -> list[Panel]:
    """Draw R@1 of each task after each update, a panel a policy."""
    panels: list[Panel] = []
    per_row = math.ceil(len(run.policies) / math.ceil(len(run.policies) / 5))
    wide = min(3.6, (_PAGE - 0.5 * (per_row - 1)) / per_row)
    for policy, matrix_TT in _matrices(run, scope, direction):

        def draw(axes: Axes, matrix_TT: Matrix = matrix_TT) -> None:
            lines = [[(step + 1, float(row[task])) for step, row in enumerate(matrix_TT)] for task in range(len(matrix_TT))]
            _lines(axes, lines)
            axes.set_ylim(0, 102)

        panels.append(_panel(policy, f"{key}-{len(panels)}", (wide, 2.2), (0.38, 0.5, 0.1, 0.1), draw))
    return panels


def task_matrices(run: Run, scope: str, direction: str, key: str) -> list[Panel]:
    """Draw R@1 of each task (across) after each task (down), darker is better, a panel a policy."""
    panels: list[Panel] = []
    side = 0.52 + 0.42 * len(run.tasks)
    for policy, matrix_TT in _matrices(run, scope, direction):

        def draw(axes: Axes, matrix_TT: Matrix = matrix_TT) -> None:
            for step, task in np.argwhere(np.isfinite(matrix_TT)):
                value = float(matrix_TT[step, task])
                axes.add_patch(
                    Rectangle((task + 0.53, step + 0.53), 0.94, 0.94, color=ACCENT, alpha=_FULL * value / 100, linewidth=0)
                )
                axes.text(task + 1, step + 1, f"{value:.0f}", ha="center", va="center")
            axes.set_xlim(0.5, len(matrix_TT) + 0.5)
            axes.set_ylim(len(matrix_TT) + 0.5, 0.5)
            _whole_ticks(axes.set_xticks, len(matrix_TT))
            _whole_ticks(axes.set_yticks, len(matrix_TT))
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_xlabel("task asked")
            axes.set_ylabel("after task")

        panels.append(_panel(policy, f"{key}-{len(panels)}", (side + 0.12, side), (0.5, 0.5, 0.02, 0.02), draw))
    return panels


def drift_lines(run: Run, key: str) -> list[Panel]:
    """Draw how far each task's vectors moved since the task was new, a panel a branch; none where no drift was measured."""
    if not run.drift:
        return []
    highest = max(float(entry[branch]) for entry in run.drift for branch in ("image", "text"))
    panels = []
    for branch in ("image", "text"):

        def draw(axes: Axes, branch: str = branch) -> None:
            lines: list[list[tuple[int, float]]] = [[] for _ in run.tasks]
            for entry in run.drift:
                if 0 <= entry["task_index"] < len(lines):
                    lines[entry["task_index"]].append((entry["after_task"] + 1, float(entry[branch])))
            # At its own time a task has not moved.
            _lines(axes, [sorted({place + 1: 0.0, **dict(line)}.items()) if line else [] for place, line in enumerate(lines)])
            axes.set_ylim(0, highest * 1.08 or 1)
            axes.set_ylabel("mean squared distance")

        panels.append(_panel(f"{branch.capitalize()} branch", f"{key}-{branch}", (4.9, 2.6), (0.62, 0.5, 0.15, 0.1), draw))
    return panels


def _matrices(run: Run, scope: str, direction: str) -> list[tuple[str, Matrix]]:
    found = [(policy, run.matrix(policy, scope, direction)) for policy in run.policies]
    return [(policy, matrix_TT) for policy, matrix_TT in found if matrix_TT is not None]


def _lines(axes: Axes, lines: Sequence[Sequence[tuple[int, float]]]) -> None:
    """Draw a line a task over the updates; tasks beyond the eighth repeat colours with dashes."""
    for task, points in enumerate(lines):
        known = [(step, value) for step, value in points if math.isfinite(value)]
        style = ("-", "--", ":")[task // 8 % 3]
        if known:
            axes.plot(*zip(*known, strict=True), style, color=series_color(task), marker="o")
    _whole_ticks(axes.set_xticks, len(lines))
    axes.set_xlim(0.8, len(lines) + 0.2)
    axes.grid(visible=True, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("after task")


def _whole_ticks(set_ticks: Callable[[Sequence[int]], object], count: int) -> None:
    set_ticks(range(1, count + 1, max(1, math.ceil(count / 12))))
