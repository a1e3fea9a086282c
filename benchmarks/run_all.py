"""Run every benchmark of this folder, one after the other, and write their figures into results.md."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure

from cmcl_ray.run.settings import package_versions

FOLDER = Path(__file__).resolve().parent
HELPERS = ("measure", "run_all")
# What an environment says is told once above the table; all else in ``settings`` belongs to its row.
SHARED = ("cores", "processor", "versions")


def scripts(folder: Path) -> list[Path]:
    """Return the benchmarks of a folder, by name."""
    return sorted(path for path in folder.glob("*.py") if path.stem not in HELPERS)


def run(script: Path, quick: bool, figures: Path) -> tuple[list[dict[str, Any]], str]:
    """Run one benchmark and return its results, and what went wrong or an empty text."""
    command = [sys.executable, str(script), "--out", str(figures), *(["--quick"] if quick else [])]
    begun = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(
        f"{script.stem}: {len(results)} results, {time.monotonic() - begun:.0f} s, exit code {done.returncode}", file=sys.stderr
    )
    failed = f"`{script.stem}` ended with exit code {done.returncode}" if done.returncode else ""
    return results, failed


def verdict(result: Mapping[str, Any]) -> str:
    """Say whether a result reaches its target."""
    if not result["checked"]:
        return "answers differ"
    if result["target"] is None or result["value"] is None:
        return ""
    reached = result["value"] >= result["target"] if result["better"] == "higher" else result["value"] <= result["target"]
    return "reached" if reached else "missed"


def row(result: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    cells = [result[name] for name in ("benchmark", "case", "value", "unit", "better", "target", "spread", "runs", "checked")]
    return f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} | {verdict(result)} |"


def page(results: Sequence[Mapping[str, Any]], failures: Sequence[str], quick: bool, date: str, figures: Sequence[str]) -> str:
    """Return the text of results.md.

    Args:
        results: all results, in order.
        failures: what went wrong, a sentence each.
        quick: whether sizes were small.
        date: when the run ended.
        figures: paths of the figures, as seen from the page.
    """
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    title = "# Benchmarks" + (" (quick: small sizes, few runs)" if quick else "")
    lines = [title, "", f"{date}, {measure.processor()}, {os.cpu_count()} logical cores. {versions}.", ""]
    lines += [
        "Written by `benchmarks/run_all.py`. `value` is the median of the runs, `spread` the largest less the smallest; `checked`"
    ]
    lines += ["says that the answers of both sides were compared before timing. What misses its target stays in the table.", ""]
    lines += ["| benchmark | case | value | unit | better | target | spread | runs | checked | |", "|" + "---|" * 10]
    lines += [row(result) for result in results]
    if failures:
        lines += ["", "## Failed", "", *(f"* {failure}" for failure in failures)]
    lines += ["", "## Settings", ""]
    for result in results:
        settings = {name: value for name, value in result["settings"].items() if name not in SHARED}
        lines.append(f"* {result['benchmark']}, {result['case']}: `{json.dumps(settings)}`")
    for figure in figures:
        lines += ["", f"![{Path(figure).stem}]({figure})"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run all and write the page; exit code 1 where a benchmark failed or its answers differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few runs")
    parser.add_argument(
        "--out", metavar="DIR", default=str(FOLDER), help="where results.md and figures/ go; this folder by default"
    )
    wanted = parser.parse_args(argv)
    out = Path(wanted.out)
    results, failures = [], []
    for script in scripts(FOLDER):
        found, failed = run(script, wanted.quick, out / "figures")
        results += found
        failures += [failed] if failed else []
    figures = [f"figures/{path.name}" for path in sorted((out / "figures").glob("*.svg"))]
    text = page(results, failures, wanted.quick, time.strftime("%Y-%m-%d"), figures)
    (out / "results.md").write_text(text, encoding="utf-8")
    print(out / "results.md")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
