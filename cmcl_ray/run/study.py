"""From a config file to finished runs: one, or several compared in one report."""

from collections.abc import Sequence
from dataclasses import dataclass

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.logs import Display
from cmcl_ray.report.page import write_report
from cmcl_ray.report.runs import load_run
from cmcl_ray.report.text import render_policy_table
from cmcl_ray.run.continual import RunResult, run_continual
from cmcl_ray.run.engine import Engine
from cmcl_ray.run.settings import RunSettings, runs_of


@dataclass(frozen=True)
class StudyResult:
    """What a config's runs left behind.

    Args:
        runs: their folders.
        report: path of the HTML page.
        table: the policy table as text.
    """

    runs: tuple[str, ...]
    report: str
    table: str


def run_config(path: str, overrides: Sequence[str], display: Display) -> StudyResult:
    """Run all that a config file asks for, one run after the other, on one engine.

    Args:
        path: the config file.
        overrides: ``key=value`` texts.
        display: where stages tell how far they are.

    Raises:
        CmclError: anything a user can put right; the text says how.
    """
    runs = runs_of(path, list(overrides))
    engine: Engine = build_component(runs[0].engine)
    results: list[RunResult] = []
    streams: dict[str, TaskStream] = {}
    try:
        for settings in runs:
            # Runs that are compared mostly share their data: it is read once.
            data = storage.digest_of([settings.source.name, settings.source.params, settings.config["stream"]])
            results.append(run_continual(settings, engine, display, streams.get(data)))
            streams = {data: results[-1].stream}
    finally:
        engine.shutdown()
    folders = [result.out for result in results]
    report = results[0].report
    if len(runs) > 1:
        report, _ = write_report(_common(runs), folders)
    tables = [render_policy_table(load_run(folder)) for folder in folders]
    return StudyResult(tuple(folders), report, "\n\n".join(tables))


def _common(runs: Sequence[RunSettings]) -> str:
    """Return the folder the runs of a comparison lie in: <out> of <out>/<label>/seed<seed>."""
    return storage.parent(runs[0].out, 2)
