"""What the loop learns, keeps, writes down and refuses; going on after a kill is in test_resume.py."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmcl_ray.components import ComponentSpec
from cmcl_ray.data.images import facts_of
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.errors import CmclError, ConfigError, IntegrityError
from cmcl_ray.models.base import build_model, weights_id
from cmcl_ray.train import loop
from cmcl_ray.train.checkpoints import read_checkpoint, read_weights
from cmcl_ray.train.job import FitJob, plan_task, row_facts
from cmcl_ray.train.loop import fit_task
from cmcl_ray.train.world import World
from tests.run.tiny import EWC, REPLAY, tiny_job, tiny_stream


def lines_of(job: FitJob, task: int) -> list[dict[str, Any]]:
    return read_checkpoint(job.checkpoint(task)).metrics


@pytest.fixture(scope="module")
def trained(stream: TaskStream, tmp_path_factory: pytest.TempPathFactory) -> FitJob:
    """Two tasks with replay and EWC, a line of metrics for every step."""
    job = tiny_job(tmp_path_factory.mktemp("trained"), stream, {"replay": REPLAY, "ewc": EWC}, epochs=4)
    for task in (0, 1):
        fit_task(job, task, World())
    return job


def test_the_loss_falls(trained: FitJob) -> None:
    """From about log of the batch to clearly less, over 16 steps."""
    losses = [line["train/loss"] for line in lines_of(trained, 0)]
    assert len(losses) == 16
    assert losses[0] == pytest.approx(math.log(16), abs=0.8)
    assert losses[-1] < losses[0] - 0.4


def test_versions_name_weights_and_parents(trained: FitJob, stream: TaskStream) -> None:
    """A version is the digest of the weights that lie in its folder, and knows what it was trained from."""
    first, second = trained.version(0), trained.version(1)
    assert (first.parent, second.parent) == (None, first.id)
    assert (first.task, second.task) == (0, 1)
    assert first.data == stream.fingerprint
    assert [weights_id(read_weights(version.folder)) for version in (first, second)] == [first.id, second.id]
    assert Path(second.folder) == Path(trained.out) / "tasks" / "01_chalkboard" / "checkpoint"


def test_the_position_says_what_was_done(trained: FitJob) -> None:
    position = read_checkpoint(trained.checkpoint(1)).position
    expected = {"task": 1, "task_name": "chalkboard", "step": 16, "steps": 16, "best_loss": None}
    assert {key: position[key] for key in expected} == expected
    # 16 new rows and half as many from memory a step; 6 images with 2 captions each are kept.
    assert position["samples"] == 16 * (16 + 8)
    assert position["memory_rows"] == 12
    assert position["wall_s"] > 0
    assert position["peak_memory_bytes"] > 2**20


def test_metrics_name_every_term_once_a_step(trained: FitJob) -> None:
    first, second = lines_of(trained, 0), lines_of(trained, 1)
    assert [line["step"] for line in second] == list(range(1, 17))
    assert {line["task"] for line in second} == {1}
    # Nothing is held before the first importance is there.
    assert "strategy/ewc/penalty" not in first[0]
    penalties = [line["strategy/ewc/penalty"] for line in second]
    assert penalties[0] == 0.0
    assert max(penalties) > 0
    assert {"train/loss", "train/lr", "time/step_s"} <= set(second[0])


def test_lines_come_every_so_often_and_at_the_end(stream: TaskStream, tmp_path: Path) -> None:
    job = tiny_job(tmp_path, stream, log_every=3)
    seen: list[tuple[int, int, set[str]]] = []
    fit_task(job, 0, World(), progress=lambda done, total, facts: seen.append((done, total, set(facts))))
    assert seen == [(step, 8, {"loss", "pairs/s"}) for step in (3, 6, 8)]
    assert [line["step"] for line in lines_of(job, 0)] == [3, 6, 8]


def test_a_task_starts_from_the_weights_before_it(stream: TaskStream, tmp_path: Path) -> None:
    """With a rate of 0 a task ends as the one before it ended; under joint it ends as the run began."""
    for name, strategies in (("finetune", {}), ("joint", {"joint": {}})):
        job = tiny_job(tmp_path / name, stream, strategies)
        fit_task(job, 0, World())
        still = FitJob(**{**vars(job), "train": tiny_job("", stream, lr=0.0).train})
        fit_task(still, 1, World())
        begun = weights_id(build_model(job.model, facts_of(stream.pairs), job.seed).state_dict())
        assert job.version(1).id == (begun if name == "joint" else job.version(0).id)
        assert job.version(0).id != begun


def test_the_first_task_of_all_strategies_is_the_same(stream: TaskStream, trained: FitJob, tmp_path: Path) -> None:
    """Nothing is remembered yet, so plain fine-tuning ends the first task in the same bits."""
    job = tiny_job(tmp_path, stream, epochs=4)
    assert fit_task(job, 0, World()).id == trained.version(0).id


def test_the_global_generator_plays_no_part(featured: TaskStream, tmp_path: Path) -> None:
    """Dropout is seeded by position, whatever was drawn before."""
    versions = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        versions.add(fit_task(tiny_job(tmp_path / str(seed), featured), 0, World()).id)
    assert len(versions) == 1


def test_seeds_differ_by_position() -> None:
    seeds = {
        loop._mix(seed, 21, task, step, rank) for seed in range(3) for task in range(3) for step in range(9) for rank in (0, 1)
    }
    assert len(seeds) == 3 * 3 * 9 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_dropout_is_drawn_anew_at_every_step(featured: TaskStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator stands elsewhere at every step of a run, and at the same places in a run that is repeated."""
    plain, runs = loop.rate_at, []
    for name in ("one", "two"):
        seeds: list[int] = []

        def watched(*arguments: Any, seeds: list[int] = seeds) -> float:
            seeds.append(torch.initial_seed())
            return plain(*arguments)

        monkeypatch.setattr(loop, "rate_at", watched)
        job = tiny_job(tmp_path / name, featured)
        for task in (0, 1):
            fit_task(job, task, World())
        runs.append(seeds)
    assert len(runs[0]) == len(set(runs[0])) == 8 + 8
    assert runs[0] == runs[1]


def test_small_windows_of_rows_change_nothing(stream: TaskStream, trained: FitJob, tmp_path: Path) -> None:
    """A cache too small for the task decodes it window by window, to the same weights."""
    job = tiny_job(tmp_path, stream, {"replay": REPLAY, "ewc": EWC}, epochs=4, cache_bytes=50_000)
    for task in (0, 1):
        fit_task(job, task, World())
    assert job.version(1).id == trained.version(1).id


def test_gradients_are_clipped(stream: TaskStream, tmp_path: Path) -> None:
    """AdamW's first step has the same size whatever the gradient's; from the second on clipping shows."""
    ids = {clip: fit_task(tiny_job(tmp_path / str(clip), stream, clip_norm=clip), 0, World()).id for clip in (0.0, 0.01, 1e6)}
    assert ids[0.0] == ids[1e6]
    assert ids[0.01] != ids[0.0]


def test_bfloat16_trains_too(stream: TaskStream, tmp_path: Path) -> None:
    """Weights stay in float32 and the losses are near those of float32."""
    jobs = [tiny_job(tmp_path / precision, stream, precision=precision) for precision in ("fp32", "bf16")]
    for job in jobs:
        fit_task(job, 0, World())
    plain, half = ([line["train/loss"] for line in lines_of(job, 0)] for job in jobs)
    assert half == pytest.approx(plain, rel=0.2)
    assert half != plain
    assert {weight.dtype for weight in read_weights(jobs[1].checkpoint(0)).values()} == {torch.float32}


def val_loss(job: FitJob, weights: dict[str, torch.Tensor]) -> float:
    """Mean InfoNCE over the validation batches, written out."""
    stream, task = job.stream, job.stream.tasks[0]
    model = build_model(job.model, facts_of(stream.pairs), job.seed)
    model.load_state_dict(weights)
    model.eval()
    inputs, total = model.inputs(), 0.0
    for start in range(0, len(task.val), job.train.batch_size):
        rows = task.val[start : start + job.train.batch_size]
        with torch.no_grad():
            image = model.encode_image(torch.from_numpy(inputs.image.read(stream.pairs, stream.pairs.image_row[rows])))
            text = model.encode_text(torch.from_numpy(inputs.text.read(stream.pairs, rows)))
        scores = model.logit_scale().detach() * image @ text.T
        own = stream.pairs.image_row[rows]
        shut = torch.from_numpy((own[:, None] == own[None, :]) & ~np.eye(len(rows), dtype=bool))
        scores = scores.masked_fill(shut, -torch.inf)
        total -= float((scores.log_softmax(0).diagonal() + scores.log_softmax(1).diagonal()).sum()) / 2
    return total / len(task.val)


def test_the_best_weights_on_validation_pairs_are_kept(featured: TaskStream, tmp_path: Path) -> None:
    """Features say nothing here, so training overfits: an earlier epoch is best, and its weights are what is kept."""
    job = tiny_job(tmp_path, featured, keep="best", epochs=40, lr=0.02)
    fit_task(job, 0, World())
    losses = [line["val/loss"] for line in lines_of(job, 0) if "val/loss" in line]
    assert len(losses) == 40
    assert min(losses) < losses[-1] - 0.1
    left = read_checkpoint(job.checkpoint(0))
    assert left.position["best_loss"] == min(losses)
    assert val_loss(job, left.model) == pytest.approx(min(losses), rel=1e-5)
    assert left.best == {}
    last = tiny_job(tmp_path / "last", featured, epochs=40, lr=0.02)
    fit_task(last, 0, World())
    assert val_loss(last, read_weights(last.checkpoint(0))) == pytest.approx(losses[-1], rel=1e-5)


def test_best_weights_need_validation_pairs(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, tiny_stream(val_images_per_group=0), keep="best")
    with pytest.raises(ConfigError, match=r"train.keep is best, but task poster has no validation pairs.*set train.keep=last"):
        fit_task(job, 0, World())


def test_a_loss_that_is_not_finite_is_named(featured: TaskStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loop.rate_at
    monkeypatch.setattr(loop, "rate_at", lambda step, steps, settings: math.nan if step == 2 else plain(step, steps, settings))
    job = tiny_job(tmp_path, featured)
    with pytest.raises(CmclError, match=r"the loss of task poster is not finite at step 4: .*nan.*lower train.lr"):
        fit_task(job, 0, World())
    assert not job.is_done(0)


def test_a_validation_loss_that_is_not_finite_is_named(
    featured: TaskStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken weights at the end of an epoch are seen before another loss is logged."""
    plain = loop.rate_at
    monkeypatch.setattr(loop, "rate_at", lambda step, steps, settings: math.nan if step == 3 else plain(step, steps, settings))
    job = tiny_job(tmp_path, featured, keep="best", log_every=100)
    with pytest.raises(CmclError, match=r"not finite at step 4: {'val/loss': nan}"):
        fit_task(job, 0, World())


def test_a_batch_that_does_not_divide_is_refused(stream: TaskStream, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a global batch has 16 rows \(16 new, 0 from memory\), which 3 workers cannot share"):
        fit_task(tiny_job(tmp_path, stream), 0, World(0, 3))


def test_the_task_before_must_be_whole(stream: TaskStream, tmp_path: Path, trained: FitJob) -> None:
    job = tiny_job(tmp_path, stream)
    with pytest.raises(IntegrityError, match=r"00_poster/checkpoint/manifest.json is missing"):
        fit_task(job, 1, World())


def test_the_plan_joins_what_strategies_ask_for(stream: TaskStream, trained: FitJob) -> None:
    """Replay's rows join every batch, joint's rows make one epoch with the task's own, by task where negatives stay within."""
    from cmcl_ray.strategies.base import RowRequest

    first, second = stream.tasks[:2]
    settings = trained.train
    plain = plan_task(stream, second, [], settings, 3)
    assert (plain.rows.tolist(), plain.global_batch, plain.steps) == (second.train.tolist(), 16, 16)
    mixed = plan_task(stream, second, [RowRequest(first.train[:4], 0.5), RowRequest(first.train[2:6], 0.25)], settings, 3)
    assert mixed.memory.tolist() == first.train[:6].tolist()
    assert (mixed.memory_batch, mixed.global_batch) == (12, 28)
    joint = plan_task(stream, second, [RowRequest(first.train, None, False, True)], settings, 3)
    assert joint.rows.tolist() == sorted([*first.train, *second.train])
    assert [group.tolist() for group in joint.groups] == [first.train.tolist(), second.train.tolist()]
    assert plan_task(stream, second, [RowRequest(first.train[:0], 0.5)], settings, 3).memory_batch == 0


def test_rows_know_their_task_and_what_they_are_judged_by(stream: TaskStream) -> None:
    facts = row_facts(stream)
    for task in stream.tasks:
        for rows in (task.train, task.val, task.test):
            assert set(facts.task[rows]) == {task.index}
    assert facts.code.tolist() == stream.pairs.image_row.tolist()
    # Rows of no task say so.
    left = TaskStream(stream.pairs, stream.tasks[:2], stream.manifest, stream.rejected)
    assert set(row_facts(left).task[stream.tasks[2].train]) == {-1}


def test_checkpoints_by_the_clock(stream: TaskStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a minute that is over at once, every logged step leaves a checkpoint, and only the newest stays."""
    names: list[list[str]] = []
    plain = loop.write_checkpoint

    def watched(folder: str, checkpoint: Any) -> None:
        plain(folder, checkpoint)
        names.append(sorted(path.name for path in Path(folder).parent.iterdir()))

    monkeypatch.setattr(loop, "write_checkpoint", watched)
    job = tiny_job(tmp_path, stream, log_every=3, checkpoint_every_minutes=1e-9)
    fit_task(job, 0, World())
    steps = [f"step-{step:09d}" for step in (3, 6, 8)]
    assert names == [steps[:1], steps[:2], steps[1:], ["checkpoint", "progress"]]
    assert json.loads((Path(job.checkpoint(0)) / "manifest.json").read_text())["position"]["step"] == 8


def test_the_job_names_its_folders(stream: TaskStream) -> None:
    job = tiny_job("s3://bucket/run", stream)
    assert job.folder(2) == "s3://bucket/run/tasks/02_neon"
    assert job.checkpoint(2) == "s3://bucket/run/tasks/02_neon/checkpoint"
    assert job.progress(2) == "s3://bucket/run/tasks/02_neon/progress"


def test_a_loss_by_another_name(stream: TaskStream, tmp_path: Path) -> None:
    job = FitJob(**{**vars(tiny_job(tmp_path, stream)), "loss": ComponentSpec("loss", "triplet", {"margin": 0.1}, "loss")})
    fit_task(job, 0, World())
    assert lines_of(job, 0)[0]["train/loss"] == pytest.approx(0.2 * 15, rel=0.9)
