"""Answers of a search, and how the answers of several shards become one ranking.

Shape legend: Q queries, K hits kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmcl_ray.errors import ShapeError

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

NO_ID = -1


@dataclass(frozen=True, eq=False)
class Hits:
    """The best gallery entries of each query.

    Args:
        ids: (Q, k) gallery ids, best first; -1 where fewer than k exist.
        scores: (Q, k) float32, descending, ties by lower id; -inf where fewer exist.

    Raises:
        ShapeError: the two arrays differ in shape or are not two-dimensional.
    """

    ids: Ids
    scores: Floats

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.ids.ndim != 2 or self.ids.shape != self.scores.shape:
            raise ShapeError(
                f"hits have ids of shape {self.ids.shape} and scores of shape {self.scores.shape}; expected one shape (Q, k) for "
                "both; cut them from the same ranking"
            )


def no_hits(num_queries: int, k: int) -> Hits:
    """Return k empty places for each query: ids -1, scores -inf."""
    return Hits(np.full((num_queries, k), NO_ID, dtype=np.int64), np.full((num_queries, k), -np.inf, dtype=np.float32))


def check_k(k: int) -> None:
    """Check the number of hits asked for.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1 hit per query; ask for k >= 1")


def merge_hits(parts: Sequence[Hits], k: int) -> Hits:
    """Merge the hits of several shards into the k best per query.

    Args:
        parts: one Hits a shard, each (Q, k_i); no id occurs in two parts; the order of the parts does not matter.
        k: hits kept per query, at least 1.

    Returns:
        Hits (Q, k), scores descending, ties by lower id; id -1 and score -inf where fewer exist.

    Raises:
        ShapeError: there are no parts, or they disagree on Q.
        ValueError: k is below 1.
    """
    check_k(k)
    if not parts:
        raise ShapeError("no hits were given to merge; expected one Hits a shard; search at least one shard first")
    counts = [len(part.ids) for part in parts]
    if len(set(counts)) > 1:
        raise ShapeError(
            f"hits to merge are of {counts} queries; expected one number for all parts; give each shard the same queries"
        )
    ids_QM = np.concatenate([*(part.ids for part in parts), no_hits(counts[0], k).ids], axis=1)
    scores_QM = np.concatenate([*(part.scores for part in parts), no_hits(counts[0], k).scores], axis=1)
    order_QK = np.lexsort((ids_QM, -scores_QM), axis=-1)[:, :k]
    return Hits(np.take_along_axis(ids_QM, order_QK, axis=1), np.take_along_axis(scores_QM, order_QK, axis=1))
