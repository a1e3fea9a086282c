"""Ranks are pessimistic, blockwise and equal to a slow twin."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.errors import ShapeError
from cmcl_ray.evaluate import ranking
from cmcl_ray.evaluate.ranking import (
    UNRANKED,
    RankPart,
    exact_ranks,
    mean_reciprocal_rank,
    median_rank,
    ranking_values,
    ranks_from_hits,
    recall_at,
)
from cmcl_ray.index.hits import Hits


def hits_of(scores_QN, k):
    """The k best per query, ties by lower id, -1 where fewer exist: the contract of an index."""
    num_queries, count = scores_QN.shape
    ids_QK = np.full((num_queries, k), -1, dtype=np.int64)
    top_QK = np.full((num_queries, k), -np.inf, dtype=np.float32)
    for query in range(num_queries):
        order = sorted(range(count), key=lambda item: (-scores_QN[query, item], item))[:k]
        ids_QK[query, : len(order)] = order
        top_QK[query, : len(order)] = scores_QN[query, order]
    return Hits(ids_QK, top_QK)


def slow_ranks(scores_QN, query_codes, codes_N):
    """Obvious twin: walk over every item."""
    ranks = []
    for scores_N, code in zip(scores_QN, query_codes, strict=True):
        relevant = [score for score, item in zip(scores_N, codes_N, strict=True) if item == code]
        if not relevant:
            ranks.append(UNRANKED)
            continue
        best = max(relevant)
        ranks.append(1 + sum(score >= best for score, item in zip(scores_N, codes_N, strict=True) if item != code))
    return np.asarray(ranks)


def coarse_parts(rng, num_queries, sizes, dim=3, num_codes=6):
    """Parts of small whole numbers, so that scores are exact and often tie."""
    return [
        RankPart(
            rng.integers(-1, 2, (num_queries, dim)).astype(np.float32),
            rng.integers(-1, 2, (size, dim)).astype(np.float32),
            rng.integers(0, num_codes, size),
            mean=float(rng.integers(-1, 2)),
            sd=float(rng.choice([0.5, 1.0, 2.0])),
        )
        for size in sizes
    ]


def slow_scores(parts):
    return np.concatenate([(part.queries @ part.vectors.T - part.mean) / part.sd for part in parts], axis=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_queries=st.integers(1, 9),
    sizes=st.lists(st.integers(0, 17), min_size=1, max_size=4),
    blocks=st.sampled_from([(2, 3, 1), (4, 64, 4), (1024, 8192, 64)]),
)
def test_exact_ranks_equal_the_slow_twin_for_any_blocks(seed, num_queries, sizes, blocks):
    rng = np.random.default_rng([seed])
    parts = coarse_parts(rng, num_queries, sizes)
    query_codes = rng.integers(0, 7, num_queries)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("QUERY_BLOCK", "GALLERY_BLOCK", "_ALIGN"), blocks, strict=True):
            patch.setattr(ranking, name, value)
        ranks = exact_ranks(parts, query_codes)
    assert ranks.dtype == np.int64
    codes_N = np.concatenate([part.codes for part in parts])
    np.testing.assert_array_equal(ranks, slow_ranks(slow_scores(parts), query_codes, codes_N))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), num_queries=st.integers(1, 7), count=st.integers(1, 15), k=st.integers(1, 18))
def test_a_hit_list_gives_the_exact_rank_or_none(seed, num_queries, count, k):
    rng = np.random.default_rng([seed])
    (part,) = coarse_parts(rng, num_queries, [count])
    query_codes = rng.integers(0, 7, num_queries)
    scores_QN = slow_scores([part]).astype(np.float32)
    expected = slow_ranks(scores_QN, query_codes, part.codes)
    ranks = ranks_from_hits(hits_of(scores_QN, k), query_codes, part.codes, count)
    if k >= count:
        np.testing.assert_array_equal(ranks, expected)
    assert ((ranks == expected) | (ranks == UNRANKED)).all()
    # Without ties, recall is exact below the length of the list.
    distinct_QN = scores_QN + 1e-3 * rng.permuted(np.tile(np.arange(count, dtype=np.float32), (num_queries, 1)), axis=1)
    sure = ranks_from_hits(hits_of(distinct_QN, k), query_codes, part.codes, count)
    for smaller in range(1, min(k, count)):
        assert recall_at(sure, smaller) == recall_at(slow_ranks(distinct_QN, query_codes, part.codes), smaller)
    named = {item: int(code) for item, code in enumerate(part.codes)}
    np.testing.assert_array_equal(ranks, ranks_from_hits(hits_of(scores_QN, k), query_codes, named, count))


def test_ties_come_first_but_relevant_twins_do_not_count():
    hits = Hits(np.array([[4, 2, 0, 1]]), np.array([[0.9, 0.5, 0.5, 0.5]], dtype=np.float32))
    codes = np.array([7, 7, 3, 5, 8])
    assert ranks_from_hits(hits, np.array([7]), codes, 4).tolist() == [3]
    # The same list out of a larger gallery: an unseen item may tie as well.
    assert ranks_from_hits(hits, np.array([7]), codes, 5).tolist() == [UNRANKED]
    assert ranks_from_hits(hits, np.array([8]), codes, 5).tolist() == [1]
    assert ranks_from_hits(hits, np.array([5]), codes, 5).tolist() == [UNRANKED]


def test_a_list_padded_with_nothing_is_whole_when_it_holds_the_gallery():
    hits = Hits(np.array([[1, 0, -1]]), np.array([[0.5, 0.5, -np.inf]], dtype=np.float32))
    assert ranks_from_hits(hits, np.array([2]), np.array([2, 3]), 2).tolist() == [2]
    empty = Hits(np.empty((2, 0), dtype=np.int64), np.empty((2, 0), dtype=np.float32))
    assert ranks_from_hits(empty, np.array([2, 3]), np.array([2, 3]), 2).tolist() == [UNRANKED, UNRANKED]


def test_scores_that_are_no_numbers_are_never_a_success():
    vectors = np.full((5, 3), np.nan, dtype=np.float32)
    ranks = exact_ranks([RankPart(vectors[:2], vectors, np.arange(5))], np.array([0, 4]))
    assert ranks.tolist() == [5, 5]
    hits = Hits(np.array([[0, 1, 2]]), np.full((1, 3), np.nan, dtype=np.float32))
    assert ranks_from_hits(hits, np.array([0]), np.arange(3), 3).tolist() == [3]


@pytest.mark.parametrize(("count", "dim"), [*itertools.product((2, 63, 65, 1001), (3, 32, 100))])
def test_o27_a_constant_encoder_scores_nothing(count, dim):
    """Equal vectors must get equal scores wherever they stand in a block, and in whichever part."""
    vector = np.random.default_rng([count, dim]).normal(size=dim).astype(np.float32)
    vector /= np.linalg.norm(vector)
    vectors = np.tile(vector, (count, 1))
    ranks = exact_ranks([RankPart(vectors, vectors, np.arange(count))], np.arange(count))
    assert (ranks == count).all()
    cut = count // 3 + 1
    halves = [RankPart(vectors, vectors[:cut], np.arange(cut)), RankPart(vectors, vectors[cut:], np.arange(cut, count))]
    assert (exact_ranks(halves, np.arange(count)) == count).all()
    assert recall_at(ranks, 1) == 0


def test_o27_a_perfect_encoder_scores_all():
    vectors = np.eye(37, dtype=np.float32)
    assert ranking_values(exact_ranks([RankPart(vectors, vectors, np.arange(37))], np.arange(37))) == {
        "recall@1": 100.0,
        "recall@5": 100.0,
        "recall@10": 100.0,
        "median_rank": 1.0,
        "mrr": 1.0,
    }


def test_o27_random_vectors_find_k_of_n():
    rng = np.random.default_rng([27])
    queries, vectors = (rng.normal(size=(size, 16)).astype(np.float32) for size in (900, 200))
    ranks = exact_ranks([RankPart(queries, vectors, np.arange(200))], rng.integers(0, 200, 900))
    for k in (1, 5, 10):
        share = k / 200
        assert abs(recall_at(ranks, k) - 100 * share) < 4 * 100 * np.sqrt(share * (1 - share) / 900)


def test_o26_other_shards_never_help():
    rng = np.random.default_rng([26])
    own, other, third = coarse_parts(rng, 11, [9, 14, 6])
    query_codes = rng.integers(0, 6, 11)
    others = [RankPart(part.queries, part.vectors, part.codes + 100, part.mean, part.sd) for part in (other, third)]
    known, two, three = (exact_ranks(parts, query_codes) for parts in ([own], [own, others[0]], [own, *others]))
    assert (known <= two).all()
    assert (two <= three).all()


def test_parts_come_in_any_order():
    rng = np.random.default_rng([5])
    parts = coarse_parts(rng, 6, [5, 8, 3])
    query_codes = rng.integers(0, 6, 6)
    expected = exact_ranks(parts, query_codes)
    for order in itertools.permutations(parts):
        np.testing.assert_array_equal(exact_ranks(order, query_codes), expected)


def test_no_part_or_no_query_is_no_fault():
    assert exact_ranks([], np.array([1, 2])).tolist() == [UNRANKED, UNRANKED]
    part = RankPart(np.empty((0, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32), np.arange(4))
    assert exact_ranks([part], np.empty(0, dtype=np.int64)).tolist() == []


def test_metrics_of_known_ranks():
    ranks = np.array([1, 2, 4, UNRANKED])
    assert recall_at(ranks, 1) == 25.0
    assert recall_at(ranks, 4) == 75.0
    assert median_rank(ranks) == 3.0  # floor(median of 0, 1, 3, far) + 1 = floor(2) + 1
    assert median_rank(np.array([1, 2])) == 1.0  # floor(0.5) + 1
    assert median_rank(np.array([9, 3, 5])) == 5.0
    assert median_rank(np.array([1, UNRANKED])) == float("inf")
    assert mean_reciprocal_rank(ranks) == pytest.approx((1 + 0.5 + 0.25) / 4)


def test_messages():
    queries, vectors = np.ones((2, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32)
    with pytest.raises(ShapeError, match=r"part 0 holds 2 queries, query_codes 3; expected the same"):
        exact_ranks([RankPart(queries, vectors, np.arange(4))], np.arange(3))
    with pytest.raises(ShapeError, match=r"queries of dim 2 and vectors of dim 3; expected equal dims"):
        exact_ranks([RankPart(queries[:, :2], vectors, np.arange(4))], np.arange(2))
    with pytest.raises(ShapeError, match=r"4 vectors and 5 codes; expected one code a vector"):
        exact_ranks([RankPart(queries, vectors, np.arange(5))], np.arange(2))
    with pytest.raises(ValueError, match=r"sd 0.0; expected a scale above 0; calibrate"):
        exact_ranks([RankPart(queries, vectors, np.arange(4), sd=0.0)], np.arange(2))
    hits = Hits(np.array([[5, 0]]), np.ones((1, 2), dtype=np.float32))
    with pytest.raises(ShapeError, match=r"hits hold 1 queries, query_codes 2; expected one code a query"):
        ranks_from_hits(hits, np.arange(2), np.arange(6), 6)
    with pytest.raises(ValueError, match=r"1 hits have an id without a relevance code, the first is 5"):
        ranks_from_hits(hits, np.arange(1), np.arange(3), 6)
    with pytest.raises(ValueError, match=r"the first is 5; expected a code for every item"):
        ranks_from_hits(hits, np.arange(1), {0: 3}, 6)
    with pytest.raises(ValueError, match=r"no ranks were given \(0 queries\); expected at least one"):
        recall_at(np.empty(0, dtype=np.int64), 1)
