"""What the tests of training share: streams that are drawn once, and a disk that need not be waited for."""

import os

import pytest

from cmcl_ray.data.stream import TaskStream
from tests.run.tiny import tiny_stream


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip waiting for the disk: it matters when the power fails, not when a process is killed."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def stream() -> TaskStream:
    return tiny_stream()


@pytest.fixture(scope="session")
def featured() -> TaskStream:
    return tiny_stream(features=True)
