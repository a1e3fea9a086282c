"""Leave the old gallery as it is and ask each shard with the version that made it."""

from collections.abc import Sequence
from typing import Literal

from cmcl_ray.index.shards import Shard
from cmcl_ray.policies.base import GalleryPolicy, QueryRoute, check_version


class Route(GalleryPolicy):
    """Each shard is asked by the query-side encoder of its own version ("matching"); scores are put on one scale before merging.

    Cost of an update: embedding the newest task. Cost of a query: one encoder pass a version, whose query-side encoders are kept.

    Args:
        calibration: shard_z shifts and scales a shard's scores by the mean and sd of background queries' scores; none merges raw
            scores, which lets one shard win because its version scores higher.
    """

    def __init__(self, calibration: Literal["shard_z", "none"] = "shard_z") -> None:
        self.calibration = calibration

    def route(self, shard: Shard, versions: Sequence[str]) -> QueryRoute:
        """Ask a shard with its own version."""
        check_version(shard, versions)
        return QueryRoute(shard.version, calibrate=self.calibration == "shard_z")
