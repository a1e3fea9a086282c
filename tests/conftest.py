"""What several test folders share: where the real data lies, and one Ray session for the whole test run."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Give the folder with the real datasets: CMCL_DATA, else shared/data beside the repository; skip without it."""
    root = Path(os.environ.get("CMCL_DATA") or REPOSITORY.parent / "shared" / "data").resolve()
    if not (root / "emoji").is_dir():
        pytest.skip(f"skipped: {root / 'emoji'} not found")
    return root


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Start one local Ray for all tests marked ray and give its address; it ends with the test run."""
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.fail("a Ray session is up already; expected none before the fixture ray_session; ask for the fixture first")
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # A token of this session's own: otherwise ray.init writes one below HOME.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # A report to Ray Train costs up to one interval, by default 2 s.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }
    # Undoes what ray.init itself sets, too.
    with mock.patch.dict(os.environ, settings):
        # Without the dashboard Ray Tune leaks placement groups and hangs; "local" ignores what other sessions left behind.
        session = ray.init(address="local", num_cpus=4, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
        try:
            yield session.address_info["address"]
        finally:
            session.disconnect()
