"""SIGKILL to the command at random moments of the second task; the same command again ends as if nothing had been."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cmcl_ray import cli
from cmcl_ray.logs import Silent
from cmcl_ray.run import continual
from cmcl_ray.run.study import run_config
from tests.run.left import contents_of
from tests.run.tiny import CONFIG, EWC, REPLAY, TRAIN, write_config

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
STEPS = 24
# A checkpoint after every other step, so that many kills come while one is being written.
SECTIONS = {
    "stream": {**CONFIG["stream"], "source": {**CONFIG["stream"]["source"], "groups": 2}},
    "strategies": {"replay": REPLAY, "ewc": EWC},
    "train": {**TRAIN, "epochs": STEPS // 4, "checkpoint_every_steps": 2},
    "policies": {"keep": {}, "route": {}},
    "evaluate": {"directions": ["t2i"], "calibration_queries": 20, "samples": 1},
}


def start(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cmcl_ray.cli", "run", str(folder / "run.yaml"), "engine=local"]
    # The folder of the package, wherever the tests are run from.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def steps_done(folder: Path) -> int:
    """How far the second task is: the step of its newest checkpoint, one more than all when it is over."""
    task = folder / "out" / "tasks" / "01_chalkboard"
    if (task / "checkpoint" / "manifest.json").exists():
        return STEPS + 1
    return max((int(path.name[5:]) for path in task.glob("progress/step-*")), default=-1)


@contextlib.contextmanager
def no_reports() -> Iterator[None]:
    """Leave out the report, which takes longer than the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continual, "write_report", lambda out, runs: ("", ""))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with no_reports():
        run_config(write_config(folder, folder / "out", **SECTIONS), (), Silent())
    return folder / "out"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of runs that were killed in the second task, at a random step or when it was scored, and then run again."""
    folders = {seed: tmp_path_factory.mktemp(f"killed-{seed}") for seed in SEEDS}
    moments = {seed: (random.Random(seed).randint(1, STEPS + 1), random.Random(seed).uniform(0, 0.03)) for seed in SEEDS}
    for folder in folders.values():
        write_config(folder, folder / "out", **SECTIONS)
    running = {seed: start(folder) for seed, folder in folders.items()}
    deadline = time.monotonic() + 200
    while running:
        assert time.monotonic() < deadline, "the second task was never reached"
        for seed, process in list(running.items()):
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            if steps_done(folders[seed]) >= moments[seed][0]:
                time.sleep(moments[seed][1])
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
                process.communicate()
                del running[seed]
        time.sleep(0.002)
    process = start(folders[SEEDS[0]])
    with no_reports():
        # The same command without the cost of another start.
        for seed in SEEDS[1:]:
            result = CliRunner().invoke(cli.main, ["run", str(folders[seed] / "run.yaml"), "engine=local"])
            assert result.exit_code == 0, result.output
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()
    return folders


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_are_bit_identical(undisturbed: Path, killed: dict[int, Path], seed: int) -> None:
    for path in sorted(undisturbed.glob("tasks/*/checkpoint/*.safetensors")):
        other = killed[seed] / "out" / path.relative_to(undisturbed)
        digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (path, other)]
        assert digests[0] == digests[1], path.relative_to(undisturbed)


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_and_galleries_are_those_of_the_undisturbed_run(undisturbed: Path, killed: dict[int, Path], seed: int) -> None:
    one, two = contents_of(undisturbed), contents_of(killed[seed] / "out")
    assert one["scores.parquet"] == two["scores.parquet"]
    # Names that no kill leaves behind on purpose: the report, and what was being written at that moment.
    lost = {name for name in two.keys() - one.keys() if "/.writing-" in name}
    different = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)} - lost - {"", "run.json"}
    assert different == set()
