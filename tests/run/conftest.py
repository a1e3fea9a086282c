"""What the tests of whole runs share: runs that are finished once, and copies of them to damage."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cmcl_ray import cli
from cmcl_ray.logs import Silent
from cmcl_ray.run import continual
from cmcl_ray.run.study import run_config
from tests.run.tiny import write_config

Run = Callable[..., Path]
Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip waiting for the disk: it matters when the power fails, not when a process is killed."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes longer than the tiny run it is of and has tests of its own."""
    monkeypatch.setattr(continual, "write_report", lambda folder, runs: (f"{folder}/report.html", f"{folder}/report.md"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a finished run of the tiny config, report and all; nobody writes into it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        result = run_config(write_config(folder, folder / "out"), (), Silent())
    assert result.runs == (str(folder / "out"),)
    return folder / "out"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Give a copy of the finished run, with its config beside it."""
    shutil.copytree(finished, tmp_path / "out")
    write_config(tmp_path, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def cmcl() -> Command:
    """Give the command, called in this process."""

    def call(*arguments: Any) -> Result:
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return call
