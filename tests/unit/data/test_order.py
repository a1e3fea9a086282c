"""Who gets which row: every plan is a partition, free of the number of workers and of what was asked before."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.data.order import BatchPlan, check_batch, permutation, rank_rows
from cmcl_ray.errors import ConfigError

NOTHING = np.empty(0, dtype=np.int64)


def rows_from(first: int, count: int) -> np.ndarray:
    """Return distinct rows that are neither ascending nor next to each other."""
    return first + 3 * np.random.default_rng(count).permutation(count).astype(np.int64)


def plan_of(rows: int, batch: int, **settings_: object) -> BatchPlan:
    given_ = {"memory": NOTHING, "memory_batch": 0, "epochs": 2, "seed": 5, "task": 1, **settings_}
    return BatchPlan(rows=rows_from(100, rows), batch_size=batch, **given_)


def batches_of(plan: BatchPlan) -> list[np.ndarray]:
    return [plan.batch(step) for step in range(plan.steps)]


shapes = st.fixed_dictionaries(
    {"rows": st.integers(1, 40), "batch": st.integers(1, 12), "epochs": st.integers(1, 3), "seed": st.integers(0, 9)}
)


@given(shapes)
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_each_row_at_most_once_and_leaves_out_less_than_a_batch(shape: dict[str, int]) -> None:
    plan = plan_of(**shape)
    batches = batches_of(plan)
    assert len(batches) == plan.steps == plan.epochs * plan.steps_per_epoch
    assert {len(batch) for batch in batches} == {plan.batch_size} == {plan.global_batch}
    for epoch in range(plan.epochs):
        seen = np.concatenate(batches[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch])
        assert set(seen) <= set(plan.rows)
        if len(plan.rows) >= plan.batch_size:
            assert len(set(seen)) == len(seen) == len(plan.rows) // plan.batch_size * plan.batch_size
        else:
            # Smaller than a batch: gone through again, so that no row comes twice more often than another.
            counts = np.unique(seen, return_counts=True)[1]
            assert len(counts) == len(plan.rows)
            assert counts.max() - counts.min() <= 1


@given(shapes, st.integers(1, 15), st.integers(1, 7), st.sampled_from([1, 2, 4]))
@settings(max_examples=60, deadline=None)
def test_ranks_share_out_the_global_batch_whatever_their_number(
    shape: dict[str, int], memory: int, memory_batch: int, size: int
) -> None:
    plan = plan_of(**shape, memory=rows_from(1000, memory), memory_batch=memory_batch)
    for batch in batches_of(plan):
        parts = [rank_rows(batch, rank, size) for rank in range(size)]
        assert sorted(np.concatenate(parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        if not len(batch) % size:
            assert np.array_equal(np.stack(parts, axis=1).reshape(-1), batch)
        # Each rank gets its share of memory rows, too.
        counts = [int((part >= 1000).sum()) for part in parts]
        assert max(counts) - min(counts) <= 1


@given(shapes, st.integers(0, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_a_batch_does_not_depend_on_the_batches_asked_for_before(shape: dict[str, int], memory: int, data: st.DataObject) -> None:
    given_ = {**shape, "memory": rows_from(1000, memory), "memory_batch": 2 if memory else 0}
    in_order = batches_of(plan_of(**given_))
    plan = plan_of(**given_)
    for step in data.draw(st.lists(st.integers(0, plan.steps - 1), max_size=12)):
        assert np.array_equal(plan.batch(step), in_order[step])
        assert np.array_equal(plan_of(**given_).batch(step), in_order[step])


@given(shapes, st.integers(1, 15), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_memory_rows_come_once_each_before_any_comes_again(shape: dict[str, int], memory: int, memory_batch: int) -> None:
    plan = plan_of(**shape, memory=rows_from(1000, memory), memory_batch=memory_batch)
    batches = batches_of(plan)
    assert all((batch[: plan.batch_size] < 1000).all() and (batch[plan.batch_size :] >= 1000).all() for batch in batches)
    drawn = np.concatenate([batch[plan.batch_size :] for batch in batches])
    assert len(drawn) == plan.steps * memory_batch
    for first in range(0, len(drawn), memory):
        round_ = drawn[first : first + memory]
        assert len(set(round_)) == len(round_)
        assert set(round_) <= set(plan.memory)


def test_memory_does_not_move_the_new_rows() -> None:
    plain, mixed = plan_of(23, 5), plan_of(23, 5, memory=rows_from(1000, 4), memory_batch=3)
    for alone, joined in zip(batches_of(plain), batches_of(mixed), strict=True):
        assert np.array_equal(alone, joined[:5])


@given(st.lists(st.integers(1, 17), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_single_task_batches_hold_one_task_and_cover_each(sizes: list[int], batch: int, seed: int) -> None:
    groups = tuple(rows_from(1000 * number, size) for number, size in enumerate(sizes))
    plan = replace(plan_of(1, batch, seed=seed, groups=groups), rows=np.concatenate(groups))
    for epoch in range(plan.epochs):
        seen: dict[int, list[int]] = {number: [] for number in range(len(sizes))}
        for within in range(plan.steps_per_epoch):
            rows = plan.batch(epoch * plan.steps_per_epoch + within)
            assert len(rows) == batch
            assert len(set(rows // 1000)) == 1
            seen[int(rows[0] // 1000)].extend(rows)
        for number, size in enumerate(sizes):
            assert set(seen[number]) <= set(groups[number])
            assert len(seen[number]) == max(1, size // batch) * batch
            if size >= batch:
                assert len(set(seen[number])) == len(seen[number])


def test_single_task_batches_of_several_tasks_are_mixed_in_time() -> None:
    groups = (rows_from(0, 40), rows_from(1000, 40))
    plan = replace(plan_of(1, 2, epochs=1, groups=groups), rows=np.concatenate(groups))
    owners = [int(plan.batch(step)[0] >= 1000) for step in range(plan.steps)]
    assert sum(owners) == 20
    assert 10 < np.abs(np.diff(owners)).sum() < 30


def test_epochs_seeds_and_tasks_have_orders_of_their_own() -> None:
    plan = plan_of(30, 30, epochs=3)
    orders = [*batches_of(plan), replace(plan, seed=6).batch(0), replace(plan, task=2).batch(0)]
    for number, one in enumerate(orders):
        for other in orders[number + 1 :]:
            assert sorted(one) == sorted(other)
            assert not np.array_equal(one, other)


def test_a_permutation_follows_from_its_position_alone() -> None:
    assert permutation(8, 3, 1, 4).tolist() == permutation(8, 3, 1, 4).tolist()
    # Moves only if numpy's generator does: then no run goes on bit for bit across that upgrade.
    assert permutation(8, 3, 1, 4).tolist() == [2, 7, 5, 0, 6, 1, 3, 4]
    assert permutation(8, 3, 1, 4).dtype == np.int64


def test_a_step_outside_of_the_plan_is_refused() -> None:
    plan = plan_of(10, 4)
    for step in (-1, 4):
        with pytest.raises(IndexError, match=rf"step {step} is outside of the plan; expected 0 to 3; ask for"):
            plan.batch(step)


def test_a_global_batch_must_divide_over_the_workers() -> None:
    plan = plan_of(10, 4, memory=rows_from(1000, 3), memory_batch=2)
    check_batch(plan, 3)
    expected = r"has 6 rows \(4 new, 2 from memory\), which 4 workers .* expected a multiple of 4; change train.batch_size"
    with pytest.raises(ConfigError, match=expected):
        check_batch(plan, 4)
