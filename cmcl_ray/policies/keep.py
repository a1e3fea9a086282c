"""Leave the old gallery as it is and ask it with the newest model."""

from collections.abc import Sequence

from cmcl_ray.index.shards import Shard
from cmcl_ray.policies.base import GalleryPolicy, QueryRoute, check_version


class Keep(GalleryPolicy):
    """The seed paper's "no reindexing": stored vectors stay, queries come from the newest model.

    Cost of an update: embedding the newest task, nothing else.
    Source: Wang, Herranz, van de Weijer 2021 (arXiv 2104.06806).
    """

    def route(self, shard: Shard, versions: Sequence[str]) -> QueryRoute:
        """Ask every shard with the newest model."""
        check_version(shard, versions)
        return QueryRoute(versions[-1])
