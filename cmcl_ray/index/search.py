"""Search over shards of several model versions: each has query vectors of its own, its scores are put on one scale, then merged.

Shape legend: Q queries, D embedding width, K hits kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmcl_ray.index.backends.base import Index
from cmcl_ray.index.hits import Floats, Hits


@dataclass(frozen=True)
class Calibration:
    """A shift and scale of the scores of one query version against one shard; ranks inside the shard stay.

    Args:
        mean: mean score of background queries against the shard.
        sd: their standard deviation, positive.

    Raises:
        ValueError: a value is not finite, or sd is not positive.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        """Check the values."""
        if not (np.isfinite(self.mean) and np.isfinite(self.sd) and self.sd > 0):
            raise ValueError(
                f"calibration has mean {self.mean} and sd {self.sd}; expected finite numbers and sd > 0; fit it again on "
                "background queries"
            )

    def apply(self, scores: Floats) -> Floats:
        """Return (score - mean) / sd in float32; -inf stays -inf."""
        return ((scores.astype(np.float64) - self.mean) / self.sd).astype(np.float32)


RAW = Calibration(mean=0.0, sd=1.0)


@dataclass(frozen=True, eq=False)
class RoutedShard:
    """A shard with the query vectors it is to be asked with.

    Args:
        index: the shard's index.
        queries: (Q, D) float32, the same queries for all shards, encoded or mapped for this one.
        calibration: shift and scale of its scores before they meet those of other shards; by default they stay raw.
    """

    index: Index
    queries: Floats
    calibration: Calibration = RAW


def search_shards(parts: Sequence[RoutedShard], k: int) -> list[Hits]:
    """Search each shard with its own queries.

    Args:
        parts: the shards.
        k: hits per query and shard, at least 1.

    Returns:
        One Hits (Q, k) a shard, in their order, scores calibrated; ``merge_hits`` makes one ranking of them.

    Raises:
        ShapeError: queries and shard differ in width.
    """
    found = []
    for part in parts:
        hits = part.index.search(part.queries, k)
        found.append(Hits(hits.ids, part.calibration.apply(hits.scores)))
    return found
