"""What the tests of runs share: a disk that need not be waited for, and a finished run of two tasks."""

import os
from pathlib import Path

import pytest

from cmcl_ray.logs import Silent
from cmcl_ray.run import continual
from cmcl_ray.run.study import run_config
from tests.run.tiny import SOURCE, write_config


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip waiting for the disk: it matters when the power fails, not when a process is killed."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run of two tasks that only finds images, without a report; nobody writes into it."""
    folder = tmp_path_factory.mktemp("small")
    stream = {"source": {"name": "synthetic", **SOURCE, "groups": 2}, "tasks": {"by": "group"}, "splits": {"column": "split"}}
    path = write_config(
        folder, folder / "out", stream=stream, policies={"bridge": {}, "route": {}}, evaluate={"directions": ["t2i"]}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(continual, "write_report", lambda out, runs: ("", ""))
        run_config(path, (), Silent())
    return folder / "out"
