"""Exact search over raw vectors, whatever finds the candidates.

A fast first pass (a matrix product, a library) proposes a few more candidates than asked for; each is scored again in float64
and rounded to float32, always in the same order of additions. So a score depends on the query and the vector alone: not on the
batch, the block, the shard or the backend, and equal vectors tie exactly. The error bound of the first pass proves that no
better vector was left out; where it cannot (long ties, collapsed embeddings), everything near the cut is scored again. Price:
some percent of a large batch, and up to one float64 pass over the gallery for each query that meets more than SPARE equal scores.

Shape legend: N gallery rows, Q queries, U queries left unproven, D embedding width, C candidates, K hits kept, P pairs of a query
and a row.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from cmcl_ray import storage
from cmcl_ray.errors import DataError, ShapeError
from cmcl_ray.index.arrays import open_array, write_array
from cmcl_ray.index.backends.base import Index
from cmcl_ray.index.hits import Floats, Hits, Ids, check_k, no_hits

VECTORS, IDS = "vectors.npy", "ids.npy"
SPARE = 16  # candidates beyond k
_CHUNK = 1 << 21  # numbers held at once when scoring again: 16 MB in float64
# Relative rounding of the operands of a float32 product under torch's precision setting (TF32 keeps 11 bits, bfloat16 8).
_OPERAND_ERROR = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-8}


class RawIndex(Index):
    """Vectors in float32 in order of id; subclasses give the first pass.

    Args:
        vectors: (N, D) float32, rows in ascending order of id.
        ids: (N,) int64 ascending.
    """

    def __init__(self, vectors: Floats, ids: Ids) -> None:
        self._vectors_ND = vectors
        self._ids_N = ids

    @property
    def count(self) -> int:
        """Number of vectors."""
        return len(self._ids_N)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._vectors_ND.shape[1])

    @abstractmethod
    def _candidates(self, queries: Floats, count: int) -> tuple[Floats, Ids]:
        """Return scores (Q, count) in any order and row positions (Q, count) of the best rows by a float32 product."""

    @abstractmethod
    def _with(self, vectors: Floats, ids: Ids) -> Self:
        """Return an index of the same kind over other vectors."""

    def search(self, queries: Floats, k: int) -> Hits:
        """Find the best vectors of each query; see Index.search."""
        check_k(k)
        queries_QD = self._check_queries(queries)
        if not self.count or not len(queries_QD):
            return no_hits(len(queries_QD), k)
        kept, proposed = min(k, self.count), min(k + SPARE, self.count)
        first_QC, rows_QC = self._candidates(queries_QD, proposed)
        scores_QC = rescore(self._vectors_ND, queries_QD, rows_QC)
        order_QK = np.lexsort((rows_QC, -scores_QC), axis=-1)[:, :kept]
        rows_QK = np.take_along_axis(rows_QC, order_QK, axis=1)
        scores_QK = np.take_along_axis(scores_QC, order_QK, axis=1)
        if proposed < self.count:
            error_Q = self._first_pass_error(queries_QD)
            worst_Q = scores_QK[:, -1].astype(np.float64)
            # A row that was not proposed scores at most the lowest proposed one plus the error.
            open_U = np.flatnonzero(worst_Q <= first_QC.min(axis=1) + error_Q)
            if len(open_U):
                rows_QK[open_U], scores_QK[open_U] = self._complete(queries_QD[open_U], (worst_Q - error_Q)[open_U], kept)
        hits = no_hits(len(queries_QD), k)
        hits.ids[:, :kept], hits.scores[:, :kept] = self._ids_N[rows_QK], scores_QK
        return hits

    def add(self, vectors: Floats, ids: Ids) -> Self:
        """Return a new index with further vectors; see Index.add."""
        if vectors.ndim == 2 and vectors.shape[1] != self.dim:
            raise ShapeError(
                f"vectors to add have dim {vectors.shape[1]}, the index has dim {self.dim}: they come from different models; "
                "expected one width; put them into a shard of their own"
            )
        added_ND, added_N = in_id_order(vectors, ids)
        return self._with(*in_id_order(np.concatenate([self._vectors_ND, added_ND]), np.concatenate([self._ids_N, added_N])))

    def save(self, folder: str) -> dict[str, dict[str, Any]]:
        """Write vectors.npy and ids.npy; see Index.save."""
        return {
            VECTORS: write_array(storage.join(folder, VECTORS), self._vectors_ND),
            IDS: write_array(storage.join(folder, IDS), self._ids_N),
        }

    def _check_queries(self, queries: Floats) -> Floats:
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ShapeError(
                f"queries have shape {queries.shape}, the index has dim {self.dim}: they come from different models, or one axis "
                f"is missing; expected (Q, {self.dim}); embed the queries with a version the shard can be asked by"
            )
        if not np.isfinite(queries).all():
            row = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
            raise DataError(
                f"query {row} holds a value that is not finite; expected finite numbers; look for NaN in the model that embedded "
                "it"
            )
        return np.ascontiguousarray(queries, dtype=np.float32)

    @cached_property
    def _longest(self) -> float:
        """The largest norm of a vector."""
        step = max(1, _CHUNK // self.dim)
        blocks = (self._vectors_ND[start : start + step] for start in range(0, self.count, step))
        return float(np.sqrt(max(np.einsum("nd,nd->n", block, block).max() for block in blocks)))

    def _first_pass_error(self, queries_QD: Floats) -> npt.NDArray[np.float64]:
        """Bound the difference between a float32 product in any order of additions and the score given in the end."""
        relative = 1.01 * ((self.dim + 4) * 2.0**-24 + 2.0 * _OPERAND_ERROR[torch.get_float32_matmul_precision()])
        bound_Q = relative * self._longest * np.linalg.norm(queries_QD.astype(np.float64), axis=1)
        # Products of tiny numbers round absolutely, not relatively.
        return np.asarray(bound_Q + self.dim * 2.0**-126)

    def _complete(self, queries_UD: Floats, floor_U: npt.NDArray[np.float64], kept: int) -> tuple[Ids, Floats]:
        """Score every row again whose first-pass score reaches the floor, and return rows (U, kept) and scores (U, kept)."""
        lower_U = np.nextafter(floor_U.astype(np.float32), np.float32(-np.inf))
        best = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        step = max(1, _CHUNK // len(queries_UD))
        for start in range(0, self.count, step):
            first_UN = (torch.from_numpy(queries_UD) @ torch.from_numpy(self._vectors_ND[start : start + step]).T).numpy()
            query_P, row_P = np.nonzero(first_UN >= lower_U[:, None])
            row_P += start
            score_P = rescore(self._vectors_ND, queries_UD, row_P[:, None], query_P)[:, 0]
            best = _best_pairs(
                np.concatenate([best[0], query_P]), np.concatenate([best[1], row_P]), np.concatenate([best[2], score_P]), kept
            )
        return best[1].reshape(-1, kept), best[2].reshape(-1, kept)


def _best_pairs(query_P: Ids, row_P: Ids, score_P: Floats, kept: int) -> tuple[Ids, Ids, Floats]:
    """Keep the best pairs of each query, ordered by query, then score, then row."""
    order_P = np.lexsort((row_P, -score_P, query_P))
    query_P, row_P, score_P = query_P[order_P], row_P[order_P], score_P[order_P]
    place_P = np.arange(len(query_P)) - np.searchsorted(query_P, query_P, side="left")
    return query_P[place_P < kept], row_P[place_P < kept], score_P[place_P < kept]


def rescore(vectors: Floats, queries: Floats, rows: Ids, of_query: Ids | None = None) -> Floats:
    """Score chosen rows: float64 inner products, rounded to float32, the same for a pair wherever it stands.

    Args:
        vectors: (N, D) float32.
        queries: (Q, D) float32.
        rows: (P, C) row positions.
        of_query: (P,) the query each line of rows belongs to; line p belongs to query p where absent.

    Returns:
        (P, C) float32.
    """
    scores_PC = np.empty(rows.shape, dtype=np.float32)
    step = max(1, _CHUNK // max(1, rows.shape[1] * vectors.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        products_PCD = vectors[rows[part]].astype(np.float64)
        products_PCD *= queries[part if of_query is None else of_query[part], None, :]
        scores_PC[part] = products_PCD.sum(axis=-1)
    return scores_PC


def in_id_order(vectors: Floats, ids: Ids) -> tuple[Floats, Ids]:
    """Check vectors with their ids and return them in ascending order of id, without a copy where they already are.

    Raises:
        ShapeError: the arrays do not fit each other.
        DataError: an id is negative or occurs twice, or a value is not finite.
    """
    if vectors.ndim != 2 or ids.shape != (len(vectors),):
        raise ShapeError(
            f"vectors have shape {vectors.shape} and ids have shape {ids.shape}; expected (N, D) and (N,); give one id a vector"
        )
    vectors_ND, ids_N = np.ascontiguousarray(vectors, dtype=np.float32), np.ascontiguousarray(ids, dtype=np.int64)
    if (np.diff(ids_N) <= 0).any():
        order_N = np.argsort(ids_N, kind="stable")
        vectors_ND, ids_N = vectors_ND[order_N], ids_N[order_N]
    repeated_N = np.flatnonzero(np.diff(ids_N) == 0)
    if len(repeated_N):
        raise DataError(
            f"id {ids_N[repeated_N[0]]} occurs more than once; expected every id once in an index; drop the repeated rows"
        )
    if len(ids_N) and ids_N[0] < 0:
        raise DataError(f"id {ids_N[0]} is negative; expected ids >= 0, since -1 marks a missing hit; number the rows from 0")
    step = max(1, _CHUNK // max(1, vectors_ND.shape[1]))
    for start in range(0, len(ids_N), step):
        finite_N = np.isfinite(vectors_ND[start : start + step]).all(axis=1)
        if not finite_N.all():
            raise DataError(
                f"the vector of id {ids_N[start + int(np.argmin(finite_N))]} holds a value that is not finite; expected finite "
                "numbers; look for NaN in the model that embedded it"
            )
    return vectors_ND, ids_N


def open_raw(folder: str, files: Mapping[str, Mapping[str, Any]]) -> tuple[Floats, Ids]:
    """Open the files that RawIndex.save wrote, vectors by memory map where they are local.

    Raises:
        IntegrityError: a file is missing, not listed, or damaged; the text names it.
    """
    return open_array(folder, VECTORS, files), open_array(folder, IDS, files)
