"""The report of one run or several: ``report.html``, whole in itself, and ``report.md``."""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cmcl_ray.report.detail_tables import cost_table, drift_table, matrix_table, stream_table
from cmcl_ray.report.figures import Panel, drift_lines, forgetting_curves, policy_bars, task_matrices
from cmcl_ray.report.markdown import render_markdown
from cmcl_ray.report.runs import Run, load_runs
from cmcl_ray.report.samples import questions
from cmcl_ray.report.tables import comparison_table, headline_table, policy_table
from cmcl_ray.report.words import (
    DEFINITIONS,
    DIRECTION_NAMES,
    SCOPE_NAMES,
    best_policy,
    opening,
    opening_of_several,
    policy_note,
    set_aside,
    strategy_name,
    verdict,
)
from cmcl_ray.storage import join, write_bytes


def write_report(folder: str, runs: Sequence[str]) -> tuple[str, str]:
    """Write ``report.html`` and ``report.md`` of one run, or of several that are compared.

    Args:
        folder: where the two files go, a folder or URI.
        runs: folders of runs; runs of one label are averaged over their seeds.

    Returns:
        The paths of the HTML page and of the Markdown file.

    Raises:
        IntegrityError: a file of a run is missing or damaged.
        StageError: there is no run, or two are the same label with the same seed.
    """
    loaded = load_runs(runs)
    notes = comparison_notes(loaded)
    paths = join(folder, "report.html"), join(folder, "report.md")
    write_bytes(paths[0], render_page(loaded, notes).encode())
    write_bytes(paths[1], render_markdown(loaded, notes).encode())
    return paths


def comparison_notes(runs: Sequence[Run]) -> list[str]:
    """Warn of what makes a comparison of runs unfair: other data, other tasks, or few seeds."""
    notes = []
    if len({str(run.stream.get("fingerprint", "")) for run in runs}) > 1:
        notes.append(
            "These runs did not see the same data (the fingerprints of their streams differ): "
            "differences between them prove little."
        )
    if len({tuple(run.tasks) for run in runs}) > 1:
        notes.append("These runs have different tasks or are not all finished; their means are over different tasks.")
    seeds = {label: sum(run.label == label for run in runs) for label in (run.label for run in runs)}
    if len(runs) > 1 and len(set(seeds.values())) > 1:
        notes.append(f"Seeds a label differ: {', '.join(f'{label} {count}' for label, count in seeds.items())}.")
    return notes


def render_page(runs: Sequence[Run], notes: Sequence[str]) -> str:
    """Return the HTML page of loaded runs; equal runs give equal text."""
    environment = Environment(
        loader=PackageLoader("cmcl_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup
    comparison = None
    if len(runs) > 1:
        labels = list(dict.fromkeys(run.label for run in runs))
        comparison = {
            "table": comparison_table(runs),
            "bars": policy_bars(runs, "compared"),
            "labels": labels,
            "opening": opening_of_several(runs),
        }
    return environment.get_template("page.html.j2").render(
        title=" / ".join(dict.fromkeys(run.label for run in runs)),
        notes=notes,
        comparison=comparison,
        runs=[_view(run, f"run{place}", alone=len(runs) == 1) for place, run in enumerate(runs)],
        definitions=DEFINITIONS,
    )


def _view(run: Run, key: str, alone: bool) -> dict[str, Any]:
    """Gather what the template shows of a run; among several, its first scope and direction is drawn, the rest is numbers."""
    drawn = run.sides if alone else run.sides[:1]
    return {
        "label": run.label,
        "facts": _facts(run),
        "tasks": run.tasks,
        "opening": opening(run),
        "verdict": verdict(run),
        "headline": headline_table(run),
        "policies": [(policy, policy_note(run, policy)) for policy in run.policies],
        "best": best_policy(run),
        "bars": policy_bars([run], f"{key}-bars"),
        "over_time": [_over_time(run, side, f"{key}-{'-'.join(side)}", side in drawn) for side in run.sides],
        "drift": {"panels": drift_lines(run, f"{key}-drift"), "table": drift_table(run)},
        "all_figures": policy_table(run),
        "costs": cost_table(run),
        "stream": stream_table(run),
        "set_aside": set_aside(run),
        "questions": questions(run),
        "config": json.dumps(run.facts.get("config") or {}, indent=2, sort_keys=True),
    }


def _over_time(run: Run, side: tuple[str, str], key: str, drawn: bool) -> dict[str, Any]:
    scope, direction = side
    curves: list[Panel] = forgetting_curves(run, scope, direction, f"{key}-curves") if drawn else []
    matrices: list[Panel] = task_matrices(run, scope, direction, f"{key}-matrix") if drawn else []
    return {
        "title": f"{DIRECTION_NAMES[direction].capitalize()}, {SCOPE_NAMES[scope]}",
        "curves": curves,
        "matrices": matrices,
        "table": matrix_table(run, scope, direction),
    }


def _facts(run: Run) -> list[tuple[str, str]]:
    versions = run.facts.get("versions")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    facts = [
        ("Run", run.run_id),
        ("Strategy", strategy_name(run)),
        ("Seed", str(run.seed)),
        ("Engine", str(run.facts.get("engine") or "")),
        ("Started", str(run.facts.get("started") or "")),
        ("Stream", str(run.stream.get("fingerprint") or "")[:16]),
        ("Versions", listed),
    ]
    return [(name, value) for name, value in facts if value]
