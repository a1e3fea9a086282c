"""A run goes on where it stopped, and one that is finished is left alone."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.logs import Silent
from cmcl_ray.run import study
from cmcl_ray.run.engines.local import LocalEngine
from cmcl_ray.run.study import run_config
from tests.run.left import contents_of, differing, times_of
from tests.run.tiny import write_config

pytestmark = pytest.mark.usefixtures("no_report")


class Killed(Exception):
    """Stands for a SIGKILL."""


def without_report(folder: Path) -> dict[str, str]:
    """Contents of a run but for its report and run.json, which names the folder."""
    contents = contents_of(folder)
    del contents["run.json"]
    contents[""] = contents[""].replace("report.html\nreport.md\n", "")
    return contents


def go_on_until_done(path: str, stop: Callable[[int], None], most: int) -> int:
    """Run a config again and again, each try being stopped somewhere, and return the number of tries."""
    for attempt in range(most):
        stop(attempt)
        try:
            run_config(path, (), Silent())
        except Killed:
            continue
        return attempt + 1
    raise AssertionError(f"not done after {most} tries")


def test_stopped_between_the_verbs_of_the_engine(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every try gets some further calls of fit, embed, build and search, before and after which it may be stopped."""
    left = [0]

    class Stopping(LocalEngine):
        def _count(self, verb: Callable[..., Any], *arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            result = verb(*arguments)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        def fit(self, *arguments: Any) -> Any:
            return self._count(super().fit, *arguments)

        def embed(self, *arguments: Any) -> Any:
            return self._count(super().embed, *arguments)

        def build(self, *arguments: Any) -> Any:
            return self._count(super().build, *arguments)

        def search(self, *arguments: Any) -> Any:
            return self._count(super().search, *arguments)

    def build(spec: Any, **runtime: Any) -> Any:
        return Stopping() if spec.kind == "engine" else build_component(spec, **runtime)

    monkeypatch.setattr(study, "build_component", build)
    path = write_config(tmp_path, tmp_path / "out")
    tries = go_on_until_done(path, lambda attempt: left.__setitem__(0, 1 + 13 * attempt), most=40)
    assert tries > 8
    assert without_report(tmp_path / "out") == without_report(finished)


def test_stopped_before_its_writes(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every try may write some files more, the last of them being lost."""
    left, plain = [0], storage.write_bytes

    def write(path: str, data: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        plain(path, data)

    monkeypatch.setattr(storage, "write_bytes", write)
    path = write_config(tmp_path, tmp_path / "out")
    tries = go_on_until_done(path, lambda attempt: left.__setitem__(0, 1 + attempt % 7 + 4 * attempt), most=60)
    assert tries > 10
    assert without_report(tmp_path / "out") == without_report(finished)


def test_a_finished_run_is_left_alone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again trains, embeds, builds and searches nothing, and writes nothing below tasks/ and gallery/."""
    for verb in ("embed", "build", "search"):
        monkeypatch.setattr(LocalEngine, verb, lambda *arguments: pytest.fail("a finished run went to work again"))
    before = times_of(copied)
    begun = time.monotonic()
    run_config(str(copied.parent / "run.yaml"), (), Silent())
    assert time.monotonic() - begun < 5
    changed = {name for name, written in times_of(copied).items() if before.get(name) != written}
    joined = {"scores.parquet", "costs.parquet", "drift.json", "samples.json", "metrics.jsonl"}
    assert changed <= joined


def test_lost_tables_come_back(copied: Path, finished: Path) -> None:
    for name in ("scores.parquet", "costs.parquet", "metrics.jsonl", "drift.json", "samples.json"):
        (copied / name).unlink()
    run_config(str(copied.parent / "run.yaml"), (), Silent())
    assert differing(copied, finished) == set()
    for name in ("costs.parquet", "metrics.jsonl"):
        assert (copied / name).read_bytes() == (finished / name).read_bytes()


def test_a_lost_stage_is_done_again(copied: Path, finished: Path) -> None:
    """Without the last task's stage manifest the stage is repeated, from embeddings that are there, to the same figures."""
    (copied / "tasks" / "02_neon" / "scores" / "manifest.json").unlink()
    (copied / "scores.parquet").unlink()
    run_config(str(copied.parent / "run.yaml"), (), Silent())
    assert differing(copied, finished) == set()


def test_two_runs_of_one_config_are_equal(finished: Path, tmp_path: Path) -> None:
    """Same seed, other folder: everything but times is the same, run id included."""
    run_config(write_config(tmp_path, tmp_path / "elsewhere"), (), Silent())
    assert without_report(tmp_path / "elsewhere") == without_report(finished)
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (finished, tmp_path / "elsewhere"))
    assert {key for key in one if one[key] != two[key]} == {"config"}
    assert {key for key in one["config"] if one["config"][key] != two["config"][key]} == {"out"}


def test_another_seed_is_another_run(finished: Path, tmp_path: Path) -> None:
    run_config(write_config(tmp_path, tmp_path / "out", seed=4), (), Silent())
    names = {name for name in differing(tmp_path / "out", finished) if name.endswith(("model.safetensors", "scores.parquet"))}
    assert len(names) == 3 + 4
