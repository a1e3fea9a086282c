"""Embed the whole gallery again with the newest model."""

from collections.abc import Sequence

from cmcl_ray.errors import VersionError
from cmcl_ray.index.shards import Shard
from cmcl_ray.policies.base import GalleryPlan, GalleryPolicy, QueryRoute, check_version


class Reindex(GalleryPolicy):
    """All vectors and all queries come from the newest model.

    Cost of an update: the rows of all tasks through the gallery-side encoder; the rows must be kept.
    """

    def plan(self, shards: Sequence[Shard], newest_task: int, versions: Sequence[str]) -> GalleryPlan:
        """Keep nothing and embed every task up to the newest."""
        return GalleryPlan((), tuple(range(newest_task + 1)))

    def route(self, shard: Shard, versions: Sequence[str]) -> QueryRoute:
        """Ask every shard with the newest model, which made it."""
        check_version(shard, versions)
        if shard.version != versions[-1]:
            raise VersionError(
                f"shard {shard.folder} was made by model version {shard.version}; under the policy reindex all shards come from "
                f"the newest, {versions[-1]}; carry out the policy's plan first, or use the policy keep for old shards"
            )
        return QueryRoute(versions[-1])
