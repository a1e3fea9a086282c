"""Training that is stopped stays stopped: its worker is not taken for a lost one."""

import time
from pathlib import Path

import pytest
import ray

from cmcl_ray.components import build_component
from cmcl_ray.logs import Silent
from cmcl_ray.run.beginning import read_stream
from cmcl_ray.run.engine import RunContext
from cmcl_ray.run.settings import settings_from


class Heard(Silent):
    """Remembers that training has begun."""

    steps = 0

    def update(self, stage, done, total, facts=None):
        self.steps = done


@pytest.mark.ray
def test_a_stopped_worker_is_not_started_anew(tmp_path: Path, ray_session: str) -> None:
    source = {"name": "synthetic", "groups": 1, "images_per_group": 40, "val_images_per_group": 0, "test_images_per_group": 5}
    settings = settings_from(
        {
            "out": str(tmp_path),
            "stream": {"source": source, "splits": {"column": "split"}},
            "model": {"name": "tiny", "width": 8},
            "loss": {"name": "info_nce"},
            "train": {"epochs": 100_000, "batch_size": 8, "threads": 1, "device": "cpu"},
            "index": {"backend": {"name": "exact"}},
            "policies": {"keep": {"name": "keep"}},
            "engine": {"name": "ray", "device": "cpu"},
        }
    )
    engine = build_component(settings.engine)
    engine.check(settings)
    display = Heard()
    engine.open(RunContext(settings, read_stream(settings), build_component(settings.backend), display))
    try:
        fitting = engine._fitting
        end = time.monotonic() + 120
        while not display.steps:
            assert time.monotonic() < end
            engine._show()
            time.sleep(0.1)
        engine.close()
        assert not fitting._thread.is_alive()
        # Its CPU comes back and stays free: nothing is started in its place.
        free = ray.cluster_resources()["CPU"] - 0.5
        end = time.monotonic() + 30
        while ray.available_resources()["CPU"] < free:
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(2)
        assert ray.available_resources()["CPU"] == free
    finally:
        engine.shutdown()
