"""Replay: which images are kept, which rows they bring, and what survives a checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.data.pairs import Pairs
from cmcl_ray.data.stream import Task, TaskStream
from cmcl_ray.errors import ConfigError
from cmcl_ray.strategies.mathematics.memory import smallest_keys
from cmcl_ray.strategies.replay import Replay, rows_of_images
from cmcl_ray.train.checkpoints import flatten, unflatten
from cmcl_ray.train.job import plan_task
from cmcl_ray.train.settings import TrainSettings
from tests.unit.strategies.worlds import context_of, stream_of


def ids_of(stream: TaskStream, rows: np.ndarray) -> list[str]:
    return [stream.pairs.images.column("image_id")[int(image)].as_py() for image in stream.pairs.image_row[rows]]


def filled(stream: TaskStream, tasks: int, seed: int = 0, **settings: object) -> Replay:
    strategy = Replay(**settings)
    for task in range(tasks):
        strategy.finish(context_of(stream, task, seed=seed))
    return strategy


@pytest.mark.parametrize("kept", [1, 3, 100])
def test_kept_images_come_with_exactly_their_training_pairs_of_earlier_tasks(kept: int) -> None:
    stream = stream_of()
    strategy = filled(stream, 2, images_per_task=kept)
    request = strategy.rows(stream, stream.tasks[2])
    assert request is not None
    expected = []
    for task, ids in zip(stream.tasks, strategy.state_dict()["memory"], strict=False):
        assert len(ids) == min(kept, 7)
        assert set(ids) <= set(ids_of(stream, task.train))
        expected += [int(row) for row, name in zip(task.train, ids_of(stream, task.train), strict=True) if name in ids]
    assert request.rows.tolist() == expected
    # All captions of an image come with it.
    assert len(request.rows) == 2 * 2 * min(kept, 7)


def test_nothing_is_asked_for_in_the_first_task() -> None:
    stream = stream_of()
    assert Replay().rows(stream, stream.tasks[0]) is None
    # Also where the memory knows more, as after a task that is trained once more.
    assert filled(stream, 1).rows(stream, stream.tasks[0]) is None


def test_a_task_brings_only_what_lies_before_it() -> None:
    stream = stream_of()
    full = filled(stream, 3, images_per_task=2)
    request = full.rows(stream, stream.tasks[1])
    assert request is not None
    assert set(request.rows) <= set(stream.tasks[0].train)
    assert len(request.rows) == 4


def shuffled(stream: TaskStream, seed: int) -> TaskStream:
    """Return the same stream with its pairs, and its images, in another order."""
    rng = np.random.default_rng(seed)
    pairs, images = rng.permutation(len(stream.pairs)), rng.permutation(stream.pairs.images.num_rows)
    place_of_pair, place_of_image = np.argsort(pairs), np.argsort(images)
    table = Pairs(
        stream.pairs.pairs.take(pa.array(pairs)),
        stream.pairs.images.take(pa.array(images)),
        place_of_image[stream.pairs.image_row[pairs]],
    )
    tasks = tuple(
        Task(task.index, task.name, *(np.sort(place_of_pair[rows]) for rows in (task.train, task.val, task.test)))
        for task in stream.tasks
    )
    return replace(stream, pairs=table, tasks=tasks)


def test_the_same_images_are_kept_for_any_order_of_rows() -> None:
    stream = stream_of()
    memory = filled(stream, 3, images_per_task=3).state_dict()["memory"]
    for seed in range(4):
        turned = shuffled(stream, seed)
        strategy = filled(turned, 3, images_per_task=3)
        assert strategy.state_dict()["memory"] == memory
        request = strategy.rows(turned, turned.tasks[2])
        assert sorted(ids_of(turned, request.rows)) == sorted(2 * (memory[0] + memory[1]))


def test_the_choice_is_the_bottom_k_of_the_task_and_merges() -> None:
    stream = stream_of()
    memory = filled(stream, 1, seed=4, images_per_task=3, salt=2).state_dict()["memory"]
    ids = ids_of(stream, stream.tasks[0].train)
    assert memory == [smallest_keys(ids, 3, (4, 2))]
    parts = [name for part in (ids[:5], ids[5:]) for name in smallest_keys(part, 3, (4, 2))]
    assert memory == [smallest_keys(parts, 3, (4, 2))]


def test_every_rank_keeps_the_same_images() -> None:
    stream = stream_of()
    kept = []
    for rank in range(4):
        strategy = Replay(images_per_task=3)
        strategy.finish(context_of(stream, 0, rank=rank, size=4))
        kept.append(strategy.state_dict())
    assert all(each == kept[0] for each in kept)


def test_seed_and_salt_change_what_is_kept_and_all_images_have_the_same_chance() -> None:
    stream = stream_of(images=63)
    names = sorted(set(ids_of(stream, stream.tasks[0].train)))
    assert len(names) == 17
    counts = dict.fromkeys(names, 0)
    for salt in range(300):
        strategy = Replay(images_per_task=3, salt=salt)
        strategy.finish(context_of(stream, 0))
        for name in strategy.state_dict()["memory"][0]:
            counts[name] += 1
    # Four and a half standard deviations of a share of 3 in 17 over 300 draws.
    assert all(abs(count / 300 - 3 / 17) < 0.1 for count in counts.values())
    by_seed = [filled(stream, 1, seed=seed, images_per_task=3).state_dict()["memory"][0] for seed in range(8)]
    assert len({tuple(each) for each in by_seed}) > 4


def test_the_state_survives_a_checkpoint() -> None:
    stream = stream_of()
    first = filled(stream, 2, images_per_task=3)
    tensors, rest = flatten({"replay": first.state_dict()})
    assert tensors == {}
    back = Replay(images_per_task=3)
    back.load_state_dict(unflatten(tensors, json.loads(json.dumps(rest)))["replay"])
    assert back.state_dict() == first.state_dict()
    one, other = (each.rows(stream, stream.tasks[2]) for each in (first, back))
    assert np.array_equal(one.rows, other.rows)
    first.finish(context_of(stream, 2))
    back.finish(context_of(stream, 2))
    assert back.state_dict() == first.state_dict()
    assert len(back.state_dict()["memory"]) == 3


def test_ending_a_task_twice_is_ending_it_once() -> None:
    stream = stream_of()
    strategy = filled(stream, 2)
    before = strategy.state_dict()["memory"]
    strategy.finish(context_of(stream, 1))
    assert strategy.state_dict()["memory"] == before


@pytest.mark.parametrize(("negatives", "cross"), [("cross", True), ("within", False)])
def test_memory_rows_join_every_batch_in_their_share(negatives: str, cross: bool) -> None:
    stream = stream_of()
    request = filled(stream, 1, images_per_task=3, share=0.5, negatives=negatives).rows(stream, stream.tasks[1])
    assert request.share == 0.5
    assert request.cross_task_negatives is cross
    plan = plan_task(stream, stream.tasks[1], [request], TrainSettings(batch_size=6), 0)
    assert (plan.batch_size, plan.memory_batch) == (6, 3)
    for step in range(plan.steps):
        rows = plan.batch(step)
        assert np.isin(rows[:6], stream.tasks[1].train).all()
        assert np.isin(rows[6:], request.rows).all()


def test_rows_of_images_leaves_out_unknown_images_and_other_splits() -> None:
    stream = stream_of()
    task = stream.tasks[0]
    ids = [*ids_of(stream, task.test[:1]), *ids_of(stream, task.train[:1]), "never seen"]
    assert ids_of(stream, rows_of_images(stream, task, ids)) == [ids[1]] * 2
    assert len(rows_of_images(stream, task, [])) == 0


@pytest.mark.parametrize("params", [{"images_per_task": 0}, {"share": 0.0}, {"share": 1.5}, {"share": float("nan")}])
def test_settings_that_cannot_work_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"images_per_task is \d+ and share .*; expected at least 1, and above 0 up to 1"):
        build_component(ComponentSpec("strategy", "replay", params, "strategies.replay"))
