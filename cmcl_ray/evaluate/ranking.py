"""Ranks of the right answer, and what is read off them.

A query and a gallery item are relevant to each other when their relevance codes are equal. The rank of a query is that of its
best relevant item; irrelevant items with the same score count as if they came first, and further relevant items are not held
against it, so a constant encoder never scores. Source: methods of VSE++ (best of several captions), ties made pessimistic.

Shape legend: Q queries, N gallery items, K hits kept, D embedding width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cmcl_ray.errors import ShapeError
from cmcl_ray.index.hits import Hits

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

# The rank of a query whose relevant items cannot be placed: beyond any gallery, and the mean of two of them fits int64.
UNRANKED = 2**62
RECALLS = (1, 5, 10)
# One block of scores is at most 1024 x 8192 float32 = 32 MiB.
QUERY_BLOCK = 1024
GALLERY_BLOCK = 8192
# Blocks are filled up to a multiple of this, so that no column is computed by the ragged-edge code of the matrix product.
_ALIGN = 64


@dataclass(frozen=True)
class RankPart:
    """Part of a gallery that is met by its own query vectors and scale, such as the shards of one model version.

    Args:
        queries: (Q, D) float32, the queries in the space of this part.
        vectors: (N, D) float32, the items; N may be 0.
        codes: (N,) int64 relevance code of each item.
        mean: taken off each score before parts are compared.
        sd: what the rest is divided by, above 0.
    """

    queries: Float32s
    vectors: Float32s
    codes: Int64s
    mean: float = 0.0
    sd: float = 1.0


def ranks_from_hits(hits: Hits, query_codes: Int64s, code_of_id: Int64s | Mapping[int, int], gallery_size: int) -> Int64s:
    """Rank each query's best relevant hit within a hit list.

    Where unseen items could tie with the best relevant hit (its score reaches the end of a list shorter than the gallery) the
    query counts as unranked. So recall at k is exact only for lists longer than k by the width of a tie, and never too high:
    ask the index for a few more.

    Args:
        hits: ids and scores (Q, K), best first; id -1 where fewer exist.
        query_codes: (Q,) relevance code of each query.
        code_of_id: relevance code by item id, an array indexed by id or a mapping.
        gallery_size: number of items that were searched.

    Returns:
        (Q,) int64 ranks from 1; UNRANKED where no relevant hit is in the list.

    Raises:
        ShapeError: hits and codes disagree on Q.
        ValueError: a hit has an id without a code.
    """
    if hits.ids.shape[0] != len(query_codes):
        raise ShapeError(
            f"hits hold {hits.ids.shape[0]} queries, query_codes {len(query_codes)}; expected one code a query; "
            "pass the codes of the queries that were searched"
        )
    if not hits.ids.size:
        return np.full(len(query_codes), UNRANKED, dtype=np.int64)
    given_QK = hits.ids >= 0
    relevant_QK = given_QK & (_codes_of(hits.ids, given_QK, code_of_id) == query_codes[:, None])
    best_Q = np.where(relevant_QK & ~np.isnan(hits.scores), hits.scores, -np.inf).max(axis=1)
    # "Not below" instead of "at least": a score that is not a number counts against the query.
    rivals_QK = given_QK & ~relevant_QK & ~(hits.scores < best_Q[:, None])
    ranks_Q = 1 + rivals_QK.sum(axis=1, dtype=np.int64)
    count_Q = given_QK.sum(axis=1)
    last_Q = np.take_along_axis(hits.scores, np.maximum(count_Q - 1, 0)[:, None], axis=1)[:, 0]
    open_end_Q = (count_Q < gallery_size) & ~(last_Q < best_Q)
    return np.where(relevant_QK.any(axis=1) & ~open_end_Q, ranks_Q, UNRANKED)


def _codes_of(ids_QK: Int64s, given_QK: npt.NDArray[np.bool_], code_of_id: Int64s | Mapping[int, int]) -> Int64s:
    unique, place = np.unique(ids_QK[given_QK], return_inverse=True)
    if isinstance(code_of_id, Mapping):
        missing = [int(item) for item in unique if int(item) not in code_of_id]
    else:
        missing = [int(item) for item in unique[unique >= len(code_of_id)]]
    if missing:
        raise ValueError(
            f"{len(missing)} hits have an id without a relevance code, the first is {missing[0]}; expected a code for every item "
            "of the gallery; pass code_of_id for the gallery that was searched"
        )
    codes = np.asarray([code_of_id[int(item)] for item in unique], dtype=np.int64)
    codes_QK = np.full(ids_QK.shape, -1, dtype=np.int64)
    codes_QK[given_QK] = codes[place]
    return codes_QK


def exact_ranks(parts: Sequence[RankPart], query_codes: Int64s) -> Int64s:
    """Rank each query's best relevant item among the items of all parts.

    Two passes over blocks of scores, of which one is held at a time: the best relevant score, then the irrelevant items that are
    not below it. Both passes cut the same blocks, filled up to one shape, so that equal vectors get equal scores. Memory beside
    the inputs is that of a few blocks, under 250 MiB, whatever Q and N.

    Args:
        parts: the gallery; all parts hold the same Q queries, each in its own space.
        query_codes: (Q,) relevance code of each query.

    Returns:
        (Q,) int64 ranks from 1; UNRANKED where no item is relevant.

    Raises:
        ShapeError: arrays of a part disagree.
        ValueError: a scale is not above 0.
    """
    for number, part in enumerate(parts):
        _check(number, part, len(query_codes))
    width = min(GALLERY_BLOCK, _aligned(max((len(part.vectors) for part in parts), default=0) or 1))
    ranks_Q = np.full(len(query_codes), UNRANKED, dtype=np.int64)
    for start in range(0, len(query_codes), QUERY_BLOCK):
        rows = slice(start, min(start + QUERY_BLOCK, len(query_codes)))
        ranks_Q[rows] = _ranks_of_block(parts, rows, query_codes, width).numpy()
    return ranks_Q


def _ranks_of_block(parts: Sequence[RankPart], rows: slice, query_codes: Int64s, width: int) -> torch.Tensor:
    codes_Q = torch.as_tensor(query_codes[rows], dtype=torch.int64)
    best_Q = torch.full((len(codes_Q),), -torch.inf)
    has_relevant_Q = torch.zeros(len(codes_Q), dtype=torch.bool)
    for scores_QN, codes_N in _blocks(parts, rows, width):
        relevant_QN = codes_Q[:, None] == codes_N
        has_relevant_Q |= relevant_QN.any(dim=1)
        scores_QN.masked_fill_(relevant_QN.logical_not_() | scores_QN.isnan(), -torch.inf)
        best_Q = torch.maximum(best_Q, scores_QN.amax(dim=1))
    rivals_Q = torch.zeros(len(codes_Q), dtype=torch.int64)
    for scores_QN, codes_N in _blocks(parts, rows, width):
        rival_QN = (scores_QN < best_Q[:, None]).logical_not_()
        rival_QN &= codes_Q[:, None] != codes_N
        rivals_Q += rival_QN.sum(dim=1)
    return torch.where(has_relevant_Q, 1 + rivals_Q, UNRANKED)


def _blocks(parts: Sequence[RankPart], rows: slice, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield calibrated scores (Q, N) of one block of queries against each block of items, with the items' codes."""
    height = _aligned(rows.stop - rows.start)
    for part in parts:
        queries_QD = _filled(part.queries[rows], height)
        for start in range(0, len(part.vectors), width):
            codes_N = torch.as_tensor(part.codes[start : start + width], dtype=torch.int64)
            scores_QN = queries_QD @ _filled(part.vectors[start : start + width], width).T
            yield scores_QN[: rows.stop - rows.start, : len(codes_N)].sub_(part.mean).div_(part.sd), codes_N


def _filled(vectors_ND: Float32s, height: int) -> torch.Tensor:
    """Copy vectors into a float32 tensor with zero rows up to a height."""
    filled = torch.zeros(height, vectors_ND.shape[1])
    filled[: len(vectors_ND)] = torch.from_numpy(np.array(vectors_ND, dtype=np.float32))
    return filled


def _aligned(count: int) -> int:
    return -(-count // _ALIGN) * _ALIGN


def _check(number: int, part: RankPart, num_queries: int) -> None:
    if part.queries.shape[0] != num_queries:
        raise ShapeError(
            f"part {number} holds {part.queries.shape[0]} queries, query_codes {num_queries}; expected the same queries in every "
            "part; encode all of them for each part"
        )
    if part.queries.shape[1] != part.vectors.shape[1]:
        raise ShapeError(
            f"part {number} has queries of dim {part.queries.shape[1]} and vectors of dim {part.vectors.shape[1]}; expected "
            "equal dims; encode the queries with the model version of the part, or map them into its space"
        )
    if len(part.codes) != len(part.vectors):
        raise ShapeError(
            f"part {number} has {len(part.vectors)} vectors and {len(part.codes)} codes; expected one code a vector; "
            "pass the codes of the same items"
        )
    if not part.sd > 0:
        raise ValueError(
            f"part {number} has sd {part.sd}; expected a scale above 0; calibrate on more than one score, or pass 1.0"
        )


def recall_at(ranks: Int64s, k: int) -> float:
    """Return recall@k in percent: 100 x the share of queries with rank <= k; 0 to 100, higher is better.

    Raises:
        ValueError: there are no ranks.
    """
    return 100.0 * float((_some(ranks) <= k).mean())


def median_rank(ranks: Int64s) -> float:
    """Return floor(median of the 0-based ranks) + 1 (as in VSE++); from 1, lower is better.

    Infinite where the median query is unranked.

    Raises:
        ValueError: there are no ranks.
    """
    ordered = np.sort(_some(ranks))
    low, high = int(ordered[(len(ordered) - 1) // 2]), int(ordered[len(ordered) // 2])
    return float("inf") if high >= UNRANKED else float((low - 1 + high - 1) // 2 + 1)


def mean_reciprocal_rank(ranks: Int64s) -> float:
    """Return the mean of 1/rank, 0 for an unranked query; 0 to 1, higher is better.

    Raises:
        ValueError: there are no ranks.
    """
    ranks = _some(ranks)
    return float(np.where(ranks < UNRANKED, 1.0 / ranks, 0.0).mean())


def ranking_values(ranks: Int64s) -> dict[str, float]:
    """Return every metric of the score table by its name there: recall@1, recall@5, recall@10, median_rank, mrr."""
    recalls = {f"recall@{k}": recall_at(ranks, k) for k in RECALLS}
    return {**recalls, "median_rank": median_rank(ranks), "mrr": mean_reciprocal_rank(ranks)}


def _some(ranks: Int64s) -> Int64s:
    if not len(ranks):
        raise ValueError(
            "no ranks were given (0 queries); expected at least one query; give the task a test split that is not empty"
        )
    return ranks
