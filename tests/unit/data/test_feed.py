"""Feeds: the same batches by every route, bounded, and honest about errors."""

import gc
import threading
import time
import weakref
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.data.feed import Batch, Decoded, Feed, LocalDecode, RowFacts
from cmcl_ray.data.images import Features, Inputs
from cmcl_ray.data.order import BatchPlan, rank_rows
from cmcl_ray.data.pairs import make_pairs
from cmcl_ray.errors import DataError

STREAM_ROWS, ROW_BYTES = 120, 24
# Three captions an image, two in three images, and images in another order than pairs.
FACTS = RowFacts(
    image_row=(np.arange(STREAM_ROWS, dtype=np.int64) // 3)[::-1].copy(),
    code=np.arange(STREAM_ROWS, dtype=np.int64) // 3 % 30,
    task=np.arange(STREAM_ROWS, dtype=np.int64) % 4,
)


@dataclass
class CountingDecode:
    """Turns row numbers into arrays and keeps count of what it gave and of what is still alive."""

    calls: list[tuple[int, int]] = field(default_factory=list)
    alive: int = 0
    most_alive: int = 0
    fails_at: int = -1
    takes_s: float = 0.0

    def __call__(self, image_rows: np.ndarray, pair_rows: np.ndarray) -> Decoded:
        time.sleep(self.takes_s)
        if len(self.calls) == self.fails_at:
            raise DataError("image 'i7' does not decode; expected a picture; mend it")
        self.calls.append((len(image_rows), len(pair_rows)))
        image = np.stack([image_rows, -image_rows], axis=1).astype(np.float32)
        text = np.repeat(pair_rows[:, None, None], 3, axis=1)
        image.flags.writeable = text.flags.writeable = False
        decoded = Decoded(image, text)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(decoded, self._let_go)
        return decoded

    def _let_go(self) -> None:
        self.alive -= 1


def plan_of(rows: int = 40, batch: int = 6, memory: int = 0, memory_batch: int = 0, epochs: int = 2) -> BatchPlan:
    mixed = np.random.default_rng(rows).permutation(STREAM_ROWS).astype(np.int64)
    return BatchPlan(mixed[:rows], mixed[rows : rows + memory], batch, memory_batch, epochs, seed=3, task=0)


def feed_of(cache_rows: int, decode: CountingDecode | None = None) -> Feed:
    return Feed(decode or CountingDecode(), FACTS, ROW_BYTES, cache_rows * ROW_BYTES)


def assert_batch_of(batch: Batch, rows: np.ndarray) -> None:
    image_rows = FACTS.image_row[rows]
    assert batch.pair_id.tolist() == rows.tolist()
    assert batch.image.tolist() == np.stack([image_rows, -image_rows], axis=1).tolist()
    assert batch.text.tolist() == np.repeat(rows[:, None, None], 3, axis=1).tolist()
    assert batch.image_id.tolist() == FACTS.code[rows].tolist()
    assert batch.task.tolist() == FACTS.task[rows].tolist()


@given(
    rows=st.integers(2, 60),
    batch=st.integers(1, 8),
    memory=st.integers(0, 20),
    size=st.sampled_from([1, 2, 4]),
    cache_rows=st.integers(0, 130),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("error")
def test_every_feed_gives_the_rows_of_the_plan_from_any_step(
    rows: int, batch: int, memory: int, size: int, cache_rows: int, data: st.DataObject
) -> None:
    memory_batch = 2 if memory else 0
    plan = plan_of(rows, batch * size, memory, memory_batch * size)
    start, rank = data.draw(st.integers(0, plan.steps)), data.draw(st.integers(0, size - 1))
    batches = list(feed_of(cache_rows).batches(plan, rank, size, start))
    assert len(batches) == plan.steps - start
    for step, found in enumerate(batches, start):
        assert_batch_of(found, rank_rows(plan.batch(step), rank, size))


def test_cached_and_windowed_feeds_give_equal_tensors() -> None:
    plan = plan_of(memory=9, memory_batch=2)
    cached, windowed = (list(feed_of(rows).batches(plan, 1, 2, 3)) for rows in (STREAM_ROWS, 10))
    for one, other in zip(cached, windowed, strict=True):
        for name in ("image", "text", "pair_id", "image_id", "task"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_task_that_fits_is_decoded_once_and_each_image_once() -> None:
    decode, plan = CountingDecode(), plan_of(rows=40, memory=5, memory_batch=2)
    list(feed_of(45, decode).batches(plan, 0, 2))
    assert decode.calls == [(len(np.unique(FACTS.image_row[np.concatenate([plan.rows, plan.memory])])), 45)]


def test_windows_stay_within_half_of_the_cache_and_two_are_held_at_most() -> None:
    decode, plan = CountingDecode(takes_s=0.001), plan_of(rows=100, batch=6, epochs=3)
    gc.disable()
    try:
        for _ in feed_of(40, decode).batches(plan, 0, 2):
            time.sleep(0.0005)
    finally:
        gc.enable()
    # Half of 40 rows are 6 steps of 3 rows a rank.
    assert len(decode.calls) == -(-plan.steps // 6)
    assert max(pairs for _, pairs in decode.calls) <= 18
    assert sum(pairs for _, pairs in decode.calls) <= plan.steps * 3
    assert decode.most_alive <= 2


def test_a_cache_smaller_than_a_batch_decodes_step_by_step() -> None:
    decode, plan = CountingDecode(), plan_of()
    list(feed_of(0, decode).batches(plan, 0, 1))
    assert len(decode.calls) == plan.steps
    assert max(pairs for _, pairs in decode.calls) <= 6


def test_nothing_is_decoded_after_the_last_step() -> None:
    for cache_rows in (0, STREAM_ROWS):
        decode, plan = CountingDecode(), plan_of()
        assert list(feed_of(cache_rows, decode).batches(plan, 0, 1, plan.steps)) == []
        assert decode.calls == []


def test_the_next_window_is_decoded_while_this_one_is_used() -> None:
    decode, plan = CountingDecode(), plan_of()
    batches = feed_of(0, decode).batches(plan, 0, 1)
    next(batches)
    deadline = time.monotonic() + 10
    while len(decode.calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(decode.calls) == 2
    batches.close()


@pytest.mark.parametrize(("cache_rows", "fails_at", "good"), [(0, 3, 3), (0, 0, 0), (24, 1, 2), (STREAM_ROWS, 0, 0)])
def test_an_error_of_the_decoding_thread_reaches_the_caller_after_the_good_batches(
    cache_rows: int, fails_at: int, good: int
) -> None:
    plan, seen = plan_of(), []
    with pytest.raises(DataError, match="image 'i7' does not decode; expected a picture; mend it"):  # noqa: PT012
        for batch in feed_of(cache_rows, CountingDecode(fails_at=fails_at)).batches(plan, 0, 1):
            seen.append(batch)
    assert len(seen) == good


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    decode, begun = CountingDecode(takes_s=0.05), time.monotonic()
    batches = feed_of(0, decode).batches(plan_of(), 0, 1)
    next(batches)
    batches.close()
    assert time.monotonic() - begun < 5
    assert threading.active_count() == before
    assert len(decode.calls) <= 2


def test_rows_outside_of_any_plan_are_read_in_their_order() -> None:
    rows = np.array([50, 3, 50, 119, 0])
    assert_batch_of(feed_of(0).read(rows), rows)


def test_a_batch_moves_as_a_whole() -> None:
    batch = feed_of(0).read(np.array([1, 2]))
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    for name in ("image", "text", "pair_id", "image_id", "task"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape


def test_the_local_decoder_reads_both_sides() -> None:
    def vectors(values: np.ndarray) -> pa.FixedSizeListArray:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

    image_NF, text_NF = np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(18, dtype=np.float32).reshape(6, 3)
    names = [f"i{i}" for i in range(4)]
    of_pair = [3, 0, 0, 1, 2, 3]
    pairs = make_pairs(
        pa.table(
            {
                "pair_id": [f"p{i}" for i in range(6)],
                "image_id": [names[i] for i in of_pair],
                "caption": ["text"] * 6,
                "text_features": vectors(text_NF),
            }
        ),
        pa.table({"image_id": names, "image_features": vectors(image_NF)}),
    )
    decode = LocalDecode(pairs, Inputs(Features("image", 2), Features("text", 3)))
    facts = RowFacts(pairs.image_row, pairs.image_row, np.zeros(6, dtype=np.int64))
    rows = np.array([5, 2, 0])
    batch = Feed(decode, facts, 20, 1000).read(rows)
    assert np.array_equal(batch.image.numpy(), image_NF[[3, 0, 3]])
    assert np.array_equal(batch.text.numpy(), text_NF[rows])
