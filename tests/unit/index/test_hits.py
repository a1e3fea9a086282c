"""Merging is the ranking of all hits together, free of the order of the parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.errors import ShapeError
from cmcl_ray.index.hits import Hits, merge_hits


def ranked(ids, scores, k):
    """Rank plain pairs with a sort of Python's."""
    found = sorted(zip(ids, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))[:k]
    found += [(-1, -np.inf)] * (k - len(found))
    return [pair[0] for pair in found], [pair[1] for pair in found]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_merging_parts_equals_ranking_everything_in_any_order(data):
    seed, k = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(seed)
    widths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    ids = rng.permutation(50)[: sum(widths)]
    scores = rng.integers(-2, 3, size=(3, sum(widths))).astype(np.float32)
    parts, start = [], 0
    for width in widths:
        rows = [ranked(ids[start : start + width], scores[q, start : start + width], width + 1) for q in range(3)]
        parts.append(Hits(np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.float32)))
        start += width
    expected = [ranked(ids, scores[q], k) for q in range(3)]
    for some in (parts, parts[::-1], [merge_hits(parts[:1], k), *parts[1:]]):
        merged = merge_hits(some, k)
        assert merged.ids.tolist() == [row[0] for row in expected]
        assert merged.scores.tolist() == [row[1] for row in expected]
        assert merged.ids.dtype == np.int64
        assert merged.scores.dtype == np.float32


def test_no_query_merges_to_no_query():
    assert merge_hits([Hits(np.empty((0, 2), np.int64), np.empty((0, 2), np.float32))], 3).ids.shape == (0, 3)


def test_merge_refuses_what_does_not_belong_together():
    one = Hits(np.zeros((1, 2), np.int64), np.zeros((1, 2), np.float32))
    two = Hits(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.float32))
    with pytest.raises(ShapeError, match=r"of \[1, 2\] queries; expected one number .* give each shard the same queries"):
        merge_hits([one, two], 2)
    with pytest.raises(ShapeError, match=r"no hits were given .* search at least one shard"):
        merge_hits([], 2)
    with pytest.raises(ValueError, match=r"k is 0; expected at least 1"):
        merge_hits([one], 0)


def test_hits_of_two_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"ids of shape \(1, 2\) and scores of shape \(1, 3\); expected one shape"):
        Hits(np.zeros((1, 2), np.int64), np.zeros((1, 3), np.float32))
