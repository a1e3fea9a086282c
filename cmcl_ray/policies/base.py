"""The contract of a gallery policy: it returns values, the run loop carries them out.

A policy is asked about one side of the gallery at a time. ``versions`` are the model versions of the run in order: versions[t] is
the one after task t, the last one is the newest.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from cmcl_ray.errors import VersionError
from cmcl_ray.index.shards import Shard
from cmcl_ray.policies.mathematics.maps import MapKind


@dataclass(frozen=True)
class GalleryPlan:
    """What becomes of the gallery after a task.

    Args:
        keep: shards that stay as they are.
        embed: positions of the tasks whose rows are to be embedded with the newest model.
    """

    keep: tuple[Shard, ...]
    embed: tuple[int, ...]


@dataclass(frozen=True)
class QueryRoute:
    """How queries meet a shard.

    Args:
        version: model version whose query-side encoder makes the query vectors.
        map_to: version whose space the query vectors are then mapped into; None where they are used as they are.
        calibrate: put the scores on one scale (shard_z) before they meet those of other shards.
    """

    version: str
    map_to: str | None = None
    calibrate: bool = False


class GalleryPolicy(ABC):
    """What happens to the old gallery when the model moves; the constructor signature is its settings.

    A policy whose routes map queries also has ``map_kind`` and ``fit_pairs``: how each step of map_steps is fitted, and on how
    many pairs at most.
    """

    map_kind: MapKind
    fit_pairs: int

    def plan(self, shards: Sequence[Shard], newest_task: int, versions: Sequence[str]) -> GalleryPlan:
        """Decide what is kept and what is embedded after a task; here the old shards stay and the newest task is embedded.

        Args:
            shards: the gallery so far, one side of it.
            newest_task: position of the task just learnt.
            versions: model versions of the run, versions[newest_task] being the newest.

        Raises:
            VersionError: a shard that would be kept was made by a version that is not of this run.
        """
        kept = tuple(shard for shard in shards if shard.task != newest_task)
        for shard in kept:
            check_version(shard, versions)
        return GalleryPlan(kept, (newest_task,))

    @abstractmethod
    def route(self, shard: Shard, versions: Sequence[str]) -> QueryRoute:
        """Decide how queries meet a shard.

        Raises:
            VersionError: the shard was made by a version that is not of this run, or that this policy cannot answer for.
        """

    def map_steps(self, route: QueryRoute, versions: Sequence[str]) -> list[tuple[str, str]]:
        """Return the fitted maps that queries of a route go through, in order; here one direct map, or none.

        Args:
            route: as ``route`` returned it.
            versions: model versions of the run, oldest first.

        Returns:
            (from, to) of each map, from the query space of one version into that of an older one.
        """
        return [] if route.map_to is None else [(route.version, route.map_to)]


def check_version(shard: Shard, versions: Sequence[str]) -> None:
    """Check that a shard was made by a model version of this run.

    Raises:
        VersionError: it was not; no query of this run may meet it.
    """
    if shard.version not in versions:
        raise VersionError(
            f"shard {shard.folder} (task '{shard.task_name}', {shard.side}) was made by model version {shard.version}, which is "
            f"not of this run; expected one of {', '.join(versions) or 'no version yet'}; embed the task's rows again with a "
            "version of this run"
        )
