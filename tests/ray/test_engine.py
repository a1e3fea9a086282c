"""The Ray engine gives what the local one gives, on one worker and on two, undisturbed and killed."""

import hashlib
import json
import os
import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cmcl_ray.errors import CmclError, ConfigError, ResourceError
from cmcl_ray.logs import Silent
from cmcl_ray.on_ray.cluster import Capacity, check_capacity, ensure_ray, probe, provide_token
from cmcl_ray.run.study import run_config
from tests.ray import processes

pytestmark = pytest.mark.timeout(600)

CONFIG = "configs/run/demo.yaml"
SMALL = [
    "compare=null",
    "seeds=null",
    "strategies={replay: {images_per_task: 10}, ewc: {anchors: 32, fisher_batch: 16}}",
    "stream.source.images_per_group=60",
    "stream.source.val_images_per_group=0",
    "stream.source.test_images_per_group=20",
    "stream.source.captions_per_image=2",
    "stream.source.image_size=16",
    "model.image_size=16",
    "model.width=8",
    "model.text_width=16",
    "model.dim=16",
    "train.batch_size=16",
    "train.epochs=6",
    "train.log_every=1",
    "train.threads=1",
]
# Long enough to be killed inside the second task, and saved often enough to go on in the middle of it.
LONG = [*SMALL, "train.epochs=30", "train.checkpoint_every_steps=7"]
ON_TWO = ["engine.num_workers=2", "engine.worker_cpus=0.5", "engine.num_cpus=3"]


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights each task ended with."""
    files = sorted(out.glob("tasks/*/checkpoint/model.safetensors"))
    return {file.parts[-3]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def losses(out: Path) -> list[float]:
    """Return the loss of every step."""
    return [line["train/loss"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the local engine."""
    out = tmp_path_factory.mktemp("local")
    run_config(CONFIG, [*SMALL, "engine=local", f"out={out}"], Silent())
    return out


@pytest.mark.ray
def test_one_worker_gives_the_local_score_table(local: Path, tmp_path: Path, ray_session: str) -> None:
    run_config(CONFIG, [*SMALL, "engine=ray", f"out={tmp_path}"], Silent())
    assert digests(tmp_path) == digests(local)
    assert len(digests(local)) == 3
    assert pq.read_table(tmp_path / "scores.parquet").equals(pq.read_table(local / "scores.parquet"))


@pytest.mark.ray
def test_two_workers_give_the_losses_of_one(local: Path, tmp_path: Path, ray_session: str) -> None:
    run_config(CONFIG, [*SMALL, "engine=ray", *ON_TWO, f"out={tmp_path}"], Silent())
    one, two = losses(local), losses(tmp_path)
    assert len(one) == len(two) >= 100
    # The sums of a step are taken in another order; Adam lets that grow slowly.
    assert max(abs(a - b) for a, b in zip(one[:50], two[:50], strict=True)) < 1e-5


@pytest.mark.ray
def test_an_impossible_request_is_refused_with_numbers(tmp_path: Path, ray_session: str) -> None:
    with pytest.raises(ResourceError, match=r"the cluster has 4 CPUs, but 8 workers x 1 .* ask for 9.5"):
        run_config(CONFIG, [*SMALL, "engine=ray", "engine.num_workers=8", f"out={tmp_path}"], Silent())
    with pytest.raises(ConfigError, match=r"train\.batch_size is 16, which 3 workers cannot share equally"):
        run_config(CONFIG, [*SMALL, "engine=ray", "engine.num_workers=3", f"out={tmp_path}"], Silent())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weights of a long run on the local engine that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed")
    run_config(CONFIG, [*LONG, "engine=local", f"out={out}"], Silent())
    return digests(out)


def in_second_task(out: Path, step: int) -> bool:
    """Tell whether the second task has a progress checkpoint at a step or later, and is not done."""
    names = sorted(path.parent.name for path in out.glob("tasks/01_*/progress/step-*/manifest.json"))
    if not names or list(out.glob("tasks/01_*/checkpoint/manifest.json")):
        return False
    return int(names[-1].removeprefix("step-")) >= step


@pytest.mark.ray
def test_a_killed_driver_goes_on_to_the_same_bits(undisturbed: dict[str, str], tmp_path: Path) -> None:
    arguments = [CONFIG, *LONG, "engine=ray", "engine.num_cpus=3", f"out={tmp_path / 'run'}"]
    first = processes.start(arguments, tmp_path / "first.log")
    try:
        step = random.Random(os.getpid()).randrange(7, 150)
        processes.wait_for(lambda: in_second_task(tmp_path / "run", step), first, tmp_path / "first.log")
        below = processes.descendants(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        for child in below:
            if Path(f"/proc/{child}").exists():
                os.kill(child, signal.SIGKILL)
    finally:
        processes.end(first)
    assert not list((tmp_path / "run").glob("scores.parquet"))
    second = processes.start(arguments, tmp_path / "second.log")
    try:
        assert second.wait(timeout=300) == 0, (tmp_path / "second.log").read_text()
    finally:
        processes.end(second)
    assert digests(tmp_path / "run") == undisturbed


@pytest.mark.ray
def test_a_killed_worker_goes_on_to_the_same_bits(undisturbed: dict[str, str], tmp_path: Path) -> None:
    arguments = [CONFIG, *LONG, "engine=ray", "engine.num_cpus=3", f"out={tmp_path / 'run'}"]
    process = processes.start(arguments, tmp_path / "log")
    try:
        step = random.Random(os.getpid() + 1).randrange(7, 150)
        processes.wait_for(lambda: in_second_task(tmp_path / "run", step), process, tmp_path / "log")
        processes.kill_below(process.pid, "ray::_Trainer.run")
        assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    finally:
        processes.end(process)
    assert digests(tmp_path / "run") == undisturbed


@pytest.mark.ray
def test_a_killed_member_of_a_group_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    found = {}
    step = random.Random(os.getpid() + 2).randrange(7, 100)
    for name in ("undisturbed", "killed"):
        out = tmp_path / name
        process = processes.start([CONFIG, *LONG, "engine=ray", *ON_TWO, f"out={out}"], tmp_path / f"{name}.log")
        try:
            if name == "killed":
                processes.wait_for(lambda out=out: in_second_task(out, step), process, tmp_path / f"{name}.log")
                processes.kill_below(process.pid, "ray::RayTrainWorker")
            assert process.wait(timeout=300) == 0, (tmp_path / f"{name}.log").read_text()
        finally:
            processes.end(process)
        found[name] = digests(out)
    assert len(found["killed"]) == 3
    assert found["killed"] == found["undisturbed"]


@pytest.mark.ray
def test_an_error_in_a_worker_reaches_the_user_as_one_text(tmp_path: Path, ray_session: str) -> None:
    with pytest.raises(CmclError, match="the loss of task poster is not finite at step"):
        run_config(CONFIG, [*SMALL, "engine=ray", "train.lr=1e30", "train.clip_norm=0", f"out={tmp_path}"], Silent())


def test_a_dead_address_is_refused_at_once() -> None:
    with pytest.raises(ResourceError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 .*; expected host:port of a running head"):
        probe("127.0.0.1:1")


def test_a_local_cluster_has_a_token_only_its_owner_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_token()
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    first = token.read_text()
    assert len(first) == 64
    provide_token()
    assert token.read_text() == first
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN")


def test_a_local_cluster_keeps_its_dashboard_on_loopback(ray_session_off: list[dict[str, object]]) -> None:
    """Without the dashboard stopped trainers leak placement groups (an upstream fault), so ours is always there."""
    assert ensure_ray("local", 3, verbose=False)
    (options,) = ray_session_off
    assert options["include_dashboard"] is True
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["num_cpus"] == 3


@pytest.fixture
def ray_session_off(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Record how Ray would be started, without starting it."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: calls.append(options))
    return calls


def test_requests_are_held_against_the_cluster() -> None:
    found = Capacity(cpus=4, gpus=1, node_cpus=2, node_gpus=1)
    check_capacity(found, workers=2, worker_cpus=1, worker_gpus=0.5, embedders=1, embedder_cpus=1)
    with pytest.raises(ResourceError, match=r"the cluster has 1 GPUs"):
        check_capacity(found, workers=2, worker_cpus=1, worker_gpus=1, embedders=1, embedder_cpus=0)
    with pytest.raises(ResourceError, match="2 CPUs on one node"):
        check_capacity(found, workers=1, worker_cpus=3, worker_gpus=0, embedders=1, embedder_cpus=0)
