"""What the benchmarks share: interleaved runs, their median and spread, JSON lines, figures, a plain process to compare with."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cmcl_ray.run.settings import package_versions


@dataclass(frozen=True)
class Result:
    """One figure of a benchmark.

    Args:
        benchmark: name of the script.
        case: what was measured.
        value: median of the runs; None where nothing was timed.
        unit: of the value.
        better: whether a higher or a lower value is the better one.
        target: what the value should reach; None where there is no target.
        spread: largest run less smallest run, in the unit of the value.
        runs: how often it was measured.
        checked: whether the answers of both sides were compared before timing, and were equal.
        settings: sizes, threads, versions, and under ``each`` the value of every run.
    """

    benchmark: str
    case: str
    value: float | None
    unit: str
    better: Literal["higher", "lower"]
    target: float | None
    spread: float | None
    runs: int
    checked: bool
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: tuple[str, str],
        each: Sequence[float],
        unit: str,
        better: Literal["higher", "lower"],
        target: float | None,
        checked: bool,
        settings: Mapping[str, Any],
    ) -> "Result":
        """Join the runs of one case, ``name`` being (benchmark, case); an empty ``each`` says that nothing was timed."""
        value = statistics.median(each) if each else None
        spread = max(each) - min(each) if each else None
        facts = {**settings, "each": [rounded(run) for run in each]}
        return cls(*name, rounded(value), unit, better, target, rounded(spread), len(each), checked, facts)

    def line(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)


def rounded(value: Any) -> Any:
    """Return a number with four significant digits, anything else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def ratios(ours: Sequence[float], plain: Sequence[float]) -> list[float]:
    """Return ours / plain, pair by pair: what slows the machine for a while slows both halves of a pair."""
    return [one / other for one, other in zip(ours, plain, strict=True)]


def interleave(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run the sides one after the other, round after round, and return the runs of each."""
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            runs[name].append(run())
    return runs


def environment(**sizes: Any) -> dict[str, Any]:
    """Return settings of a result: sizes, the machine and versions of packages."""
    load = round(os.getloadavg()[0], 1)
    return {**sizes, "cores": os.cpu_count(), "processor": processor(), "load": load, "versions": package_versions()}


def equal_priority() -> None:
    """Let Ray's workers run at the priority of other processes; to be called before Ray starts.

    Ray lowers it (niceness 15): on a busy machine a ratio would then say how busy it is.
    """
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # the name is spelled so


def processor() -> str:
    """Return the model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class PlainProcess:
    """The other side of a comparison: the same script in a process of its own, without Ray, answering one request a line.

    Args:
        script: the script; started with ``--plain``, it hands its work to ``answer_requests``.
        settings: what the work needs to know, a JSON value.
    """

    def __init__(self, script: str, settings: Mapping[str, Any]) -> None:
        command = [sys.executable, script, "--plain", json.dumps(settings)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; the process does nothing between two of them."""
        self.send(request)
        return self.receive()

    def send(self, request: Mapping[str, Any]) -> None:
        """Hand over a request without waiting for its answer."""
        print(json.dumps(request), file=self._process.stdin, flush=True)

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(
                f"the plain process ended with code {self._process.wait()}; expected an answer; see its text above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process: nothing more is asked of it."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def answer_requests(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> int:
    """Answer requests from standard input, a JSON value a line, until it ends."""
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)
    return 0


def arguments(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes and few runs: under 50 s on 2 cores")
    parser.add_argument("--figure", metavar="PATH", help="draw the runs into this file (.svg, .png, .pdf)")
    parser.add_argument("--out", metavar="DIR", help="write the lines and the figure into this folder")
    parser.add_argument("--plain", metavar="JSON", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def conclude(results: Sequence[Result], wanted: argparse.Namespace) -> int:
    """Print and draw the results.

    Returns:
        The exit code: 1 where answers differed. A missed target is a figure, not a failure.
    """
    for result in results:
        print(result.line(), flush=True)
    if wanted.figure:
        draw(results, wanted.figure)
    if wanted.out:
        folder = Path(wanted.out)
        folder.mkdir(parents=True, exist_ok=True)
        name = results[0].benchmark
        (folder / f"{name}.jsonl").write_text("".join(f"{result.line()}\n" for result in results), encoding="utf-8")
        draw(results, str(folder / f"{name}.svg"))
    return 0 if all(result.checked for result in results) else 1


def draw(results: Sequence[Result], path: str) -> None:
    """Draw every run of every case, their median and the target."""
    # Without pyplot: no backend is chosen and no global state is left behind.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(results), 3.2), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        each = result.settings["each"]
        axes.plot(range(1, len(each) + 1), each, "o", color="#1f5fa8", label="run")
        if result.value is not None:
            axes.axhline(result.value, color="#1f5fa8", linewidth=1, label="median")
        if result.target is not None:
            axes.axhline(result.target, color="#b3541e", linewidth=1, linestyle="--", label="target")
        axes.set_title(result.case, fontsize=9)
        axes.set_ylabel(result.unit, fontsize=8)
        axes.set_xlabel("run", fontsize=8)
        axes.set_xticks(range(1, len(each) + 1))
        axes.tick_params(labelsize=8)
        # From zero: a difference of a few percent must not look like a cliff.
        axes.set_ylim(0, 1.15 * max([*each, result.target or 0.0, 1e-9]))
        axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(results[0].benchmark, fontsize=10)
    figure.savefig(path)
