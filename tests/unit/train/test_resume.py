"""Killed is the same as not killed: wherever the second task is stopped, going on ends in the same bits.

A kill is played by an error from inside: from the progress callback, from a strategy's hook, or from the storage at any of its
writes. A real SIGKILL is sent in tests/run/test_killed.py.
"""

import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cmcl_ray import storage
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.strategies import ewc
from cmcl_ray.strategies.base import State, Step, Strategy, StrategyContext
from cmcl_ray.train.job import FitJob
from cmcl_ray.train.loop import Progress, fit_task
from cmcl_ray.train.world import World
from tests.run.tiny import EWC, REPLAY, tiny_job

STRATEGIES = {"finetune": {}, "replay": {"replay": REPLAY}, "ewc": {"ewc": EWC}, "both": {"replay": REPLAY, "ewc": EWC}}
# Two epochs of 64 pairs in batches of 16.
STEPS = 8


class Killed(Exception):
    """Stands for a SIGKILL."""


def quiet(done: int, total: int, facts: Mapping[str, float]) -> None:
    """Hear nothing."""


def killer_at(step: int) -> Progress:
    """A progress callback that stops training once so many steps are done."""

    def stop(done: int, total: int, facts: Mapping[str, float]) -> None:
        if done == step:
            raise Killed

    return stop


def fit(job: FitJob, task: int, progress: Progress = quiet) -> None:
    fit_task(job, task, World(), progress=progress)


def outcome(job: FitJob, task: int = 1) -> dict[str, Any]:
    """All a task left behind but times and memory: bytes of the states, metrics, position, names of what lies around."""
    folder = Path(job.folder(task))
    result: dict[str, Any] = {path.name: path.read_bytes() for path in (folder / "checkpoint").glob("*.safetensors")}
    result["state"] = (folder / "checkpoint" / "state.json").read_bytes()
    lines = json.loads((folder / "checkpoint" / "metrics.json").read_bytes())
    result["metrics"] = [{key: value for key, value in line.items() if key != "time/step_s"} for line in lines]
    position = storage.read_manifest(str(folder / "checkpoint"))["position"]
    result["position"] = {key: value for key, value in position.items() if key not in ("wall_s", "peak_memory_bytes")}
    result["left"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return result


def spent(job: FitJob) -> float:
    return float(storage.read_manifest(job.checkpoint(1))["position"]["wall_s"])


Undisturbed = Callable[..., tuple[FitJob, dict[str, Any]]]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Give what two undisturbed tasks leave behind, trained once for each setting."""
    known: dict[str, tuple[FitJob, dict[str, Any]]] = {}

    def trained(stream: TaskStream, strategies: Mapping[str, Any], **train: Any) -> tuple[FitJob, dict[str, Any]]:
        job = tiny_job(tmp_path_factory.mktemp("whole"), stream, strategies, **train)
        key = repr((job.model, job.strategies, job.train))
        if key not in known:
            fit(job, 0)
            fit(job, 1)
            known[key] = job, outcome(job)
        return known[key]

    return trained


def stopped_copy(done: FitJob, folder: Path, task: int = 1) -> FitJob:
    """A job of the same settings in a folder of its own, in which the tasks before one are finished."""
    job = FitJob(**{**vars(done), "out": str(folder)})
    for earlier in range(task):
        # Copied by hand: a checkpoint is a folder and nothing else.
        for path in Path(done.checkpoint(earlier)).iterdir():
            storage.write_bytes(storage.join(job.checkpoint(earlier), path.name), path.read_bytes())
    return job


def goes_on_to_the_same_end(job: FitJob, expected: Mapping[str, Any]) -> None:
    assert not job.is_done(1)
    fit(job, 1)
    found = outcome(job)
    # One by one: bytes of whole files make no readable difference.
    assert {name for name in expected if found[name] != expected[name]} == set()
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("model", ["tiny", "dropout"])
@pytest.mark.parametrize("step", [2, 4, STEPS])
def test_after_any_step(
    request: pytest.FixtureRequest, undisturbed: Undisturbed, tmp_path: Path, name: str, model: str, step: int
) -> None:
    """Stopped at a step with progress checkpoints every 3: before the first, between two, and before the last is written."""
    stream: TaskStream = request.getfixturevalue("stream" if model == "tiny" else "featured")
    done, expected = undisturbed(stream, STRATEGIES[name], checkpoint_every_steps=3)
    assert expected["position"]["steps"] == STEPS
    job = stopped_copy(done, tmp_path)
    with pytest.raises(Killed):
        fit(job, 1, killer_at(step))
    assert [path.name for path in Path(job.progress(1)).glob("*")] == ([f"step-{(step - 1) // 3 * 3:09d}"] if step > 3 else [])
    goes_on_to_the_same_end(job, expected)


def test_without_any_checkpoint_inside_the_task(stream: TaskStream, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """checkpoint_every_steps 0: the task starts over and ends the same; checkpoints change nothing in what is learnt."""
    done, expected = undisturbed(stream, STRATEGIES["both"])
    _, by_step = undisturbed(stream, STRATEGIES["both"], checkpoint_every_steps=3)
    assert expected == by_step
    job = stopped_copy(done, tmp_path)
    with pytest.raises(Killed):
        fit(job, 1, killer_at(7))
    goes_on_to_the_same_end(job, expected)


def test_killed_again_and_again(featured: TaskStream, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Stopped before every checkpoint in turn, each try getting a little further."""
    done, expected = undisturbed(featured, STRATEGIES["both"], checkpoint_every_steps=3)
    job = stopped_copy(done, tmp_path)
    for step in (2, 5, 4, 7, 8):
        with pytest.raises(Killed):
            fit(job, 1, killer_at(step))
    goes_on_to_the_same_end(job, expected)
    # Each line of metrics once, in order.
    assert [line["step"] for line in expected["metrics"]] == list(range(1, STEPS + 1))


def test_the_time_of_both_tries_counts(stream: TaskStream, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Seconds up to the progress checkpoint are kept."""
    done, _ = undisturbed(stream, {}, checkpoint_every_steps=3)
    job = stopped_copy(done, tmp_path)
    with pytest.raises(Killed):
        fit(job, 1, killer_at(5))
    before = storage.read_manifest(storage.join(job.progress(1), "step-000000003"))["position"]["wall_s"]
    fit(job, 1)
    assert spent(job) > before > 0


def operations(monkeypatch: pytest.MonkeyPatch, stop_before: int = -1) -> list[str]:
    """Count the writes and removals of the storage, and stop before one of them."""
    seen: list[str] = []

    def watch(name: str) -> None:
        plain = getattr(storage, name)

        def watched(path: str, *rest: Any) -> None:
            if len(seen) == stop_before:
                raise Killed
            seen.append(f"{name} {path}")
            plain(path, *rest)

        monkeypatch.setattr(storage, name, watched)

    watch("write_bytes")
    watch("remove")
    return seen


@pytest.fixture(scope="module")
def in_full(featured: TaskStream, undisturbed: Undisturbed) -> tuple[FitJob, dict[str, Any]]:
    return undisturbed(featured, STRATEGIES["both"], checkpoint_every_steps=3)


def test_before_any_write(in_full: tuple[FitJob, dict[str, Any]], tmp_path: Path) -> None:
    """Stopped before each file that is written and before each that is removed, progress and final checkpoint alike."""
    done, expected = in_full
    with pytest.MonkeyPatch.context() as patch:
        seen = operations(patch)
        fit(stopped_copy(done, tmp_path / "count"), 1)
    copied = len(list(Path(done.checkpoint(0)).iterdir()))
    places = [place for place in range(copied, len(seen)) if not (place - copied) % 3 or seen[place].endswith("manifest.json")]
    assert len(places) > 15
    for place in places:
        folder = tmp_path / f"at-{place}"
        job = stopped_copy(done, folder)
        with pytest.MonkeyPatch.context() as patch:
            operations(patch, stop_before=place - copied)
            with pytest.raises(Killed):
                fit(job, 1)
        fit(job, 1)
        found = outcome(job)
        assert {name for name in expected if found[name] != expected[name]} == set(), seen[place]


class Memory(Strategy):
    """Counts steps and ends, moves weights by its count, and can be told to stop training inside a hook."""

    stop_in: str = ""

    def __init__(self) -> None:
        self._steps = torch.zeros(2)
        self._ends = 0

    def _maybe_stop(self, hook: str) -> None:
        if Memory.stop_in == hook:
            raise Killed

    def start(self, context: StrategyContext) -> None:
        self._maybe_stop("start")

    def terms(self, context: StrategyContext, step: Step) -> Mapping[str, torch.Tensor]:
        if self._steps[context.task.index] == 4:
            self._maybe_stop("terms")
        return {"size": 0.001 * self._steps.sum() * next(context.model.parameters()).square().sum()}

    def after_backward(
        self, context: StrategyContext, gradients: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor] | None:
        if self._steps[context.task.index] == 5:
            self._maybe_stop("after_backward")
        return {name: gradient * 0.9 for name, gradient in gradients.items()}

    def after_step(self, context: StrategyContext) -> None:
        self._steps[context.task.index] += 1
        if self._steps[context.task.index] == 7:
            self._maybe_stop("after_step")

    def finish(self, context: StrategyContext) -> Mapping[str, torch.Tensor] | None:
        self._maybe_stop("finish")
        self._ends += 1
        return {name: weight.detach() * 0.5 for name, weight in context.model.named_parameters()}

    def state_dict(self) -> State:
        return {"steps": self._steps.clone(), "ends": self._ends}

    def load_state_dict(self, state: State) -> None:
        self._steps, self._ends = state["steps"].clone(), state["ends"]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Make the double above a component the config can name."""
    module = types.ModuleType("strategy_double")
    module.Memory = Memory  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "strategy_double", module)
    monkeypatch.setattr(Memory, "stop_in", "")
    return {"double": {"name": "strategy_double:Memory"}, "replay": REPLAY}


@pytest.mark.parametrize("hook", ["start", "terms", "after_backward", "after_step", "finish"])
def test_inside_any_hook(
    stream: TaskStream,
    undisturbed: Undisturbed,
    memory: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
) -> None:
    """State that a strategy counts up step by step is what it was at the checkpoint, and finish counts once."""
    done, expected = undisturbed(stream, memory, checkpoint_every_steps=3)
    assert json.loads(expected["state"])["strategies"]["double"]["ends"] == 2
    job = stopped_copy(done, tmp_path)
    monkeypatch.setattr(Memory, "stop_in", hook)
    with pytest.raises(Killed):
        fit(job, 1)
    monkeypatch.setattr(Memory, "stop_in", "")
    goes_on_to_the_same_end(job, expected)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["ewc", "both"])
def test_inside_the_importance_pass(
    stream: TaskStream, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, batch: int
) -> None:
    """Stopped in EWC's finish: only that pass is repeated, and the steps of the task are not."""
    done, expected = undisturbed(stream, STRATEGIES[name], checkpoint_every_steps=3)
    job = stopped_copy(done, tmp_path)
    plain, calls = ewc.squared_gradients, []

    def stopping(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == batch:
            raise Killed
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ewc, "squared_gradients", stopping)
        with pytest.raises(Killed):
            fit(job, 1)
    seen: list[int] = []
    fit(job, 1, lambda step, total, facts: seen.append(step))
    assert seen == []
    assert {key for key, value in outcome(job).items() if value != expected[key]} == set()


@pytest.mark.parametrize("step", [2, 5, STEPS])
@pytest.mark.parametrize("name", ["finetune", "both"])
def test_with_the_best_weights_kept(featured: TaskStream, undisturbed: Undisturbed, tmp_path: Path, name: str, step: int) -> None:
    """The best weights so far and their loss come back, whichever epoch they are from."""
    train = {"checkpoint_every_steps": 3, "keep": "best", "epochs": 2, "lr": 0.2}
    done, expected = undisturbed(featured, STRATEGIES[name], **train)
    job = stopped_copy(done, tmp_path)
    with pytest.raises(Killed):
        fit(job, 1, killer_at(step))
    goes_on_to_the_same_end(job, expected)


def test_a_damaged_progress_checkpoint_is_named(in_full: tuple[FitJob, dict[str, Any]], tmp_path: Path) -> None:
    job = stopped_copy(in_full[0], tmp_path)
    with pytest.raises(Killed):
        fit(job, 1, killer_at(5))
    path = Path(job.progress(1)) / "step-000000003" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(storage.IntegrityError, match=r"step-000000003/optimizer\.safetensors is damaged.*remove the folder"):
        fit(job, 1)


def test_a_finished_task_is_left_alone(in_full: tuple[FitJob, dict[str, Any]], tmp_path: Path) -> None:
    """Asked for again it is read and not trained, and what a kill after its end left over goes."""
    job = stopped_copy(in_full[0], tmp_path, task=2)
    storage.write_bytes(storage.join(job.progress(1), "step-000000008", "model.safetensors"), b"left over")
    times = {path: path.stat().st_mtime_ns for path in Path(job.checkpoint(1)).iterdir()}
    version = fit_task(job, 1, World(), progress=killer_at(1))
    assert version == job.version(1)
    assert times == {path: path.stat().st_mtime_ns for path in Path(job.checkpoint(1)).iterdir()}
    assert not Path(job.progress(1)).exists()
