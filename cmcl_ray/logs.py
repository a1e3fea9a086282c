"""What a person sees while a run works: a progress display on a terminal, plain lines in a log.

The library logs through ``logging`` and installs nothing on import; commands and jobs call ``set_up``.
"""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def set_up(verbose: bool = False) -> None:
    """Install the log handler of a command: plain lines on standard error, WARNING (or DEBUG) and up of our own loggers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("cmcl_ray")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)


class Display(Protocol):
    """Where the stages of a run tell how far they are."""

    def update(self, stage: str, done: int, total: int, facts: Mapping[str, float | str] | None = None) -> None:
        """Say that ``done`` of ``total`` steps of a stage are over; ``facts`` are shown beside it."""

    def message(self, text: str) -> None:
        """Show one line that stays."""

    def close(self) -> None:
        """Take the display down."""


class Silent:
    """A display that shows nothing, for tests and libraries."""

    def update(self, stage: str, done: int, total: int, facts: Mapping[str, float | str] | None = None) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Have nothing to take down."""


def _facts(facts: Mapping[str, float | str] | None) -> str:
    values = ((name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in (facts or {}).items())
    return "  ".join(f"{name} {value}" for name, value in values)


class Bars:
    """Progress bars with time left, one a stage under way; for a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="dim", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._progress.start()

    def update(self, stage: str, done: int, total: int, facts: Mapping[str, float | str] | None = None) -> None:
        """Draw the bar of a stage; a finished one is taken away."""
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total, facts="")
        self._progress.update(self._bars[stage], completed=done, total=total, facts=_facts(facts))
        if done >= total:
            self._progress.remove_task(self._bars.pop(stage))

    def message(self, text: str) -> None:
        """Print one line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Remove all bars."""
        self._progress.stop()


class Lines:
    """Plain lines with time left, at most one a stage every few seconds; for a log file or a job."""

    def __init__(self, stream: TextIO, every_s: float = 10.0) -> None:
        self._stream = stream
        self._every_s = every_s
        self._begun: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def update(self, stage: str, done: int, total: int, facts: Mapping[str, float | str] | None = None) -> None:
        """Print where a stage is, if its last line is long enough ago."""
        now = time.monotonic()
        begun = self._begun.setdefault(stage, now)
        if done < total and now - self._shown.setdefault(stage, begun) < self._every_s:
            return
        self._shown[stage] = now
        left = f", {(now - begun) / done * (total - done):.0f} s left" if 0 < done < total else ""
        extra = _facts(facts)
        self._print(f"{stage}: {done}/{total} after {now - begun:.1f} s{left}{'  ' + extra if extra else ''}")
        if done >= total:
            del self._begun[stage], self._shown[stage]

    def message(self, text: str) -> None:
        """Print one line."""
        self._print(text)

    def close(self) -> None:
        """Have nothing to take down."""

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def display_for(stream: TextIO) -> Display:
    """Return bars where the stream is a terminal, else plain lines."""
    return Bars() if stream.isatty() else Lines(stream)
