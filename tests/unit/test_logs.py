"""What a person sees: bars on a terminal, lines elsewhere; nothing is installed before a command asks."""

import io
import logging
import re
from collections.abc import Iterator

import pytest

from cmcl_ray import logs


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The package's logger, as it was found again afterwards."""
    found = logging.getLogger("cmcl_ray")
    before = (list(found.handlers), found.propagate, found.level)
    yield found
    found.handlers[:], found.propagate = before[0], before[1]
    found.setLevel(before[2])


def test_set_up_writes_warnings_to_standard_error_once(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    root = list(logging.getLogger().handlers)
    logs.set_up()
    logs.set_up()
    logging.getLogger("cmcl_ray.train").info("quiet")
    logging.getLogger("cmcl_ray.train").warning("lr is %s", 3)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d W cmcl_ray\.train: lr is 3\n", seen.err)
    assert logging.getLogger().handlers == root
    assert len(logger.handlers) == 1


def test_verbose_shows_debug_lines(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(verbose=True)
    logging.getLogger("cmcl_ray.train").debug("step 3")
    assert capsys.readouterr().err.endswith("D cmcl_ray.train: step 3\n")


class Clock:
    """Time that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(logs, "time", made)
    return made


def test_lines_come_at_intervals_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    lines = logs.Lines(stream, every_s=10.0)
    for done in range(1, 9):
        lines.update("train sky", done, 8, {"loss": 1.23456, "task": "sky"})
        clock.now_s += 4
    assert stream.getvalue().splitlines() == [
        "train sky: 4/8 after 12.0 s, 12 s left  loss 1.235  task sky",
        "train sky: 7/8 after 24.0 s, 3 s left  loss 1.235  task sky",
        "train sky: 8/8 after 28.0 s  loss 1.235  task sky",
    ]


def test_each_stage_has_its_own_clock(clock: Clock) -> None:
    stream = io.StringIO()
    lines = logs.Lines(stream, every_s=5.0)
    lines.update("train", 0, 2)
    clock.now_s += 5
    lines.update("embed", 1, 2)
    lines.update("train", 0, 2)
    lines.update("embed", 2, 2)
    assert stream.getvalue().splitlines() == ["train: 0/2 after 5.0 s", "embed: 2/2 after 0.0 s"]


def test_a_stage_may_begin_again(clock: Clock) -> None:
    stream = io.StringIO()
    lines = logs.Lines(stream)
    lines.update("embed", 3, 3)
    clock.now_s += 60
    lines.update("embed", 3, 3)
    lines.message("gallery 3f2a is current")
    lines.close()
    assert stream.getvalue().splitlines() == ["embed: 3/3 after 0.0 s", "embed: 3/3 after 0.0 s", "gallery 3f2a is current"]


def test_an_empty_stage_is_over_at_once() -> None:
    stream = io.StringIO()
    logs.Lines(stream).update("embed", 0, 0)
    assert stream.getvalue() == "embed: 0/0 after 0.0 s\n"


def test_bars_work_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bars = logs.Bars()
    try:
        for done in range(4):
            bars.update("train [sky]", done, 3, {"loss": 0.5})
            bars.update("embed", done, 5)
        bars.update("train [sky]", 1, 3)
        bars.message("scores [t2i] are ready")
    finally:
        bars.close()
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "scores [t2i] are ready" in seen.err


def test_bars_show_names_in_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    bars = logs.Bars()
    bars.update("train [sky]", 1, 3, {"task": "[red]"})
    bars._progress.refresh()
    bars.close()
    seen = capsys.readouterr().err
    assert "[sky]" in seen
    assert "[red]" in seen


def test_silence_is_a_display_too(capsys: pytest.CaptureFixture[str]) -> None:
    silent: logs.Display = logs.Silent()
    silent.update("train", 1, 2, {"loss": 1.0})
    silent.message("done")
    silent.close()
    assert capsys.readouterr() == ("", "")


def test_the_display_follows_the_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(logs.display_for(io.StringIO()), logs.Lines)
    bars = logs.display_for(Terminal())
    bars.close()
    assert isinstance(bars, logs.Bars)
