"""Leave the old gallery as it is and map new query vectors into the space of each shard's version."""

import itertools
from collections.abc import Sequence
from typing import Literal

from cmcl_ray.errors import ConfigError, VersionError
from cmcl_ray.index.shards import Shard
from cmcl_ray.policies.base import GalleryPolicy, QueryRoute, check_version


class Bridge(GalleryPolicy):
    """Queries come from the newest model and are mapped into each shard's space ("transported, query side").

    A map goes from the query-side vectors of one version to those of an older one, fitted on pairs of the newest task that both
    versions embed; the items of old tasks are not needed.

    Cost of an update: embedding the newest task, fit_pairs queries through the older query-side encoders, and small solves.

    Args:
        map: kind of map; affine (a rotation and a shift) is the one to use where no old pairs are kept to choose by.
        chain: compose the maps of single steps, each fitted when its task was the newest, instead of fitting one map to each old
            version; needs only the previous encoder, but errors add up.
        fit_pairs: most pairs a map is fitted on; at least ten times the embedding width is wanted.

    Source: LDC, SDC and QDC fit such maps between versions, for class prototypes.
    """

    def __init__(
        self, map: Literal["affine", "procrustes", "ridge", "mean"] = "affine", chain: bool = False, fit_pairs: int = 2000
    ) -> None:
        if fit_pairs < 1:
            raise ConfigError(f"fit_pairs is {fit_pairs}; expected at least 1 pair to fit a map on; set it to 2000 or so")
        self.map_kind = map
        self.chain = chain
        self.fit_pairs = fit_pairs

    def route(self, shard: Shard, versions: Sequence[str]) -> QueryRoute:
        """Ask with the newest model, mapped into the space of the shard's version where that is an older one."""
        check_version(shard, versions)
        newest = versions[-1]
        return QueryRoute(newest, map_to=None if shard.version == newest else shard.version)

    def map_steps(self, route: QueryRoute, versions: Sequence[str]) -> list[tuple[str, str]]:
        """Return the fitted maps that queries of a route go through: one, or one a step where they are chained.

        Raises:
            VersionError: a version of the route is not of this run, or the target is newer than the queries.
        """
        source, target = route.version, route.map_to or route.version
        for version in (source, target):
            if version not in versions:
                raise VersionError(
                    f"no map goes from version {source} to {target}: {version} is not of this run; expected two of "
                    f"{', '.join(versions) or 'no version yet'}; embed the rows again with a version of this run"
                )
        # A task that changed no weight repeats its version: every step between equal ones falls away.
        oldest, newest = versions.index(target), len(versions) - 1 - list(reversed(versions)).index(source)
        if oldest > newest:
            raise VersionError(
                f"a map from version {source} to {target} would go forward in time; expected an older target; embed the queries "
                f"with {target}"
            )
        path = [target, *versions[oldest + 1 : newest], source] if self.chain else [target, source]
        steps = [(later, earlier) for earlier, later in itertools.pairwise(path) if earlier != later]
        return steps[::-1]
