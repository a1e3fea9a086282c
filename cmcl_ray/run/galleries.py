"""Carrying out a gallery policy: its plan becomes shards and a gallery version, its routes become maps and calibrations.

A gallery version is enough to ask it: for every shard it names the version that encodes queries, the maps they go through, and
the calibration of the scores.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmcl_ray import storage
from cmcl_ray.data.order import permutation
from cmcl_ray.data.pairs import Pairs, Rows
from cmcl_ray.data.stream import Task
from cmcl_ray.errors import IntegrityError, VersionError
from cmcl_ray.index.embeddings import Embeddings, EmbeddingStore
from cmcl_ray.index.gallery import GalleryStore, GalleryVersion
from cmcl_ray.index.search import Calibration
from cmcl_ray.index.shards import Shard
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.policies.base import GalleryPolicy
from cmcl_ray.policies.mathematics.calibration import fit_calibration
from cmcl_ray.policies.mathematics.maps import LinearMap, fit_map
from cmcl_ray.run.embedding import EmbedRequest
from cmcl_ray.run.engine import BuildRequest, Engine, RunContext

# Keep the draws of pairs that maps and calibrations are fitted on apart from those of the order.
_FIT, _CALIBRATE = 31, 32

GALLERY_SIDE = {"t2i": "image", "i2t": "text"}
QUERY_SIDE = {"t2i": "text", "i2t": "image"}
_OTHER = {"image": "text", "text": "image"}

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class UpdateCost:
    """What making a new model live cost under one policy.

    Args:
        wall_s: seconds of embedding and fitting; work another policy had done already is counted as if done here.
        forward_passes: rows through the network for gallery entries.
        fit_passes: rows through the network for maps and calibrations.
        bytes_written: of vectors, maps and index files.
    """

    wall_s: float
    forward_passes: int
    fit_passes: int
    bytes_written: int


def rows_of_side(pairs: Pairs, rows: Rows, side: str) -> Rows:
    """Return what is embedded of some pair rows: the pair rows themselves for texts, their image rows once each for images."""
    return rows if side == "text" else np.unique(pairs.image_row[rows])


def sample(rows: Rows, count: int, *position: int) -> Rows:
    """Return at most ``count`` rows, ascending, drawn by position."""
    return rows if len(rows) <= count else np.sort(rows[permutation(len(rows), *position)[:count]])


def read_map(gallery: str, name: str) -> LinearMap:
    """Read a fitted map of a gallery by its name in a route.

    Raises:
        IntegrityError: the file is missing or damaged; the text names it.
    """
    path = storage.join(gallery, name)
    data = storage.read_bytes(path)
    try:
        return LinearMap.from_bytes(data)
    except Exception as error:  # zip and array readers raise whatever broken bytes lead them to
        raise IntegrityError(f"map {path} is damaged ({error}); expected an .npz file; remove it and run again") from None


class Galleries:
    """The galleries of a run, one for each policy.

    Args:
        context: of the run.
        engine: does the work.
    """

    def __init__(self, context: RunContext, engine: Engine) -> None:
        self._context = context
        self._engine = engine
        self._store = GalleryStore(context.gallery)
        self.embeddings = EmbeddingStore(storage.join(context.gallery, "embeddings"))

    def update(
        self, label: str, policy: GalleryPolicy, before: GalleryVersion | None, versions: Sequence[ModelVersion]
    ) -> tuple[GalleryVersion, UpdateCost]:
        """Make the newest model live under a policy.

        Args:
            label: the policy's label in the config.
            policy: plans and routes.
            before: the policy's gallery before the newest task; None for the first.
            versions: model versions by task, the newest last.

        Returns:
            The committed gallery version, and what it cost.
        """
        newest, ids = len(versions) - 1, [version.id for version in versions]
        shards: list[Shard] = []
        passes = written = 0
        embed_s = 0.0
        for side in self._sides():
            old = [shard for shard in (before.shards if before else ()) if shard.side == side]
            plan = policy.plan(old, newest, ids)
            tasks = [self._context.stream.tasks[index] for index in plan.embed]
            embedded = self._engine.embed([self.request(versions[newest], side, task.test) for task in tasks])
            requests = [BuildRequest(task.index, task.name, vectors) for task, vectors in zip(tasks, embedded, strict=True)]
            built = self._engine.build(requests)
            self.mend(plan.keep, versions)
            shards += [*plan.keep, *built]
            passes += sum(len(vectors.ids) for vectors in embedded)
            embed_s += sum(float(vectors.facts["wall_s"]) for vectors in embedded)
            written += sum(int(entry["bytes"]) for shard in built for entry in shard.files.values())
        begun_fit = time.monotonic()
        shards.sort(key=lambda shard: (shard.side, shard.task))
        routes, fit_passes = self._routes(policy, shards, versions, before)
        gallery = GalleryVersion(
            shards=tuple(shards),
            parent=before.id if before else None,
            policy=label,
            after_task=newest,
            facts={"routes": routes, "versions": {version.id: version.task for version in versions}},
        )
        self._store.commit(gallery)
        return gallery, UpdateCost(embed_s + time.monotonic() - begun_fit, passes, fit_passes, written)

    def read(self, gallery_id: str) -> GalleryVersion:
        """Read a committed gallery version."""
        return self._store.read(gallery_id)

    def mend(self, shards: Sequence[Shard], versions: Sequence[ModelVersion]) -> None:
        """Make anew what someone removed of shards, as the text of a damaged file tells them to; whole ones are left alone."""
        by_id = {version.id: version for version in versions}
        for shard in shards:
            folders = storage.join("embeddings", shard.embeddings), shard.folder
            if all(storage.has_manifest(storage.join(self._context.gallery, folder)) for folder in folders):
                continue
            task = self._context.stream.tasks[shard.task]
            (embedded,) = self._engine.embed([self.request(by_id[shard.version], shard.side, task.test)])
            self._engine.build([BuildRequest(task.index, task.name, embedded)])

    def point(self, current: Mapping[str, str], live: str) -> None:
        """Make gallery versions current, one for each policy, in one write."""
        self._store.set_current(current, live)

    def request(self, version: ModelVersion, side: str, rows: Rows) -> EmbedRequest:
        """Return the request for the entries of one side of some pair rows."""
        return EmbedRequest(version, side, rows_of_side(self._context.stream.pairs, rows, side))

    def _sides(self) -> list[str]:
        return sorted({GALLERY_SIDE[direction] for direction in self._context.settings.evaluate.directions})

    def _routes(
        self, policy: GalleryPolicy, shards: Sequence[Shard], versions: Sequence[ModelVersion], before: GalleryVersion | None
    ) -> tuple[dict[str, Any], int]:
        """Return how each shard is asked, and how many rows went through the network to learn it.

        A route without maps stays right as long as it names the same version: it is taken over from the gallery before.
        """
        ids = [version.id for version in versions]
        by_id = {version.id: version for version in versions}
        known: Mapping[str, Any] = before.facts["routes"] if before else {}
        routes: dict[str, Any] = {}
        requests: list[EmbedRequest] = []
        for shard in shards:
            route = policy.route(shard, ids)
            old = known.get(shard.name)
            if old and old["version"] == route.version and not old["maps"] and route.map_to is None:
                routes[shard.name] = old
                continue
            entry: dict[str, Any] = {"version": route.version, "maps": [], "mean": 0.0, "sd": 1.0}
            for source, target in policy.map_steps(route, ids):
                path, used = self._map(policy, _OTHER[shard.side], by_id[source], by_id[target])
                entry["maps"].append(path)
                requests += used
            if route.calibrate:
                calibration, request = self._calibration(shard, by_id[route.version])
                entry |= {"mean": calibration.mean, "sd": calibration.sd}
                requests.append(request)
            routes[shard.name] = entry
        # Maps to several shards share the newest version's vectors: each request is work once.
        once = {(request.version.id, request.side, request.rows.tobytes()): len(request.rows) for request in requests}
        return routes, sum(once.values())

    def _map(
        self, policy: GalleryPolicy, side: str, source: ModelVersion, target: ModelVersion
    ) -> tuple[str, list[EmbedRequest]]:
        """Fit a map from one version's space into another's on the own pairs of the source's task; stored by content."""
        task = self._context.stream.tasks[source.task]
        kind, count = policy.map_kind, policy.fit_pairs
        rows = sample(
            rows_of_side(self._context.stream.pairs, task.train, side), count, self._context.settings.seed, _FIT, task.index
        )
        requests = [EmbedRequest(source, side, rows), EmbedRequest(target, side, rows)]
        name = f"{kind}-{side}-{source.id}-{target.id}-{storage.digest_of(rows.tolist(), 8)}.npz"
        path = storage.join(self._context.gallery, "maps", name)
        if not storage.exists(path):
            old, new = self._engine.embed(requests)
            storage.write_bytes(path, fit_map(kind, old.vectors, new.vectors).to_bytes())
        return f"maps/{name}", requests

    def _calibration(self, shard: Shard, version: ModelVersion) -> tuple[Calibration, EmbedRequest]:
        """Learn a shard's score scale from training queries of its own task: the kind of queries it is meant for."""
        task = self._context.stream.tasks[shard.task]
        side = _OTHER[shard.side]
        count = self._context.settings.evaluate.calibration_queries
        rows = rows_of_side(self._context.stream.pairs, task.train, side)
        request = EmbedRequest(version, side, sample(rows, count, self._context.settings.seed, _CALIBRATE, task.index))
        (background,) = self._engine.embed([request])
        return fit_calibration(background.vectors, self.vectors(shard).vectors), request

    def vectors(self, shard: Shard) -> Embeddings:
        """Return the stored vectors a shard was built from."""
        return self.embeddings.open_name(shard.embeddings)

    def queries(
        self, gallery: GalleryVersion, shard: Shard, tasks: Sequence[Task], versions: Mapping[str, ModelVersion]
    ) -> Vectors:
        """Return the test queries of some tasks as one shard is asked: encoded by the version its route names, and mapped.

        Returns:
            (Q, D) unit vectors, queries of the first task first.

        Raises:
            VersionError: the route names a version this run does not have.
        """
        route = gallery.facts["routes"][shard.name]
        version = versions.get(route["version"])
        if version is None:
            raise VersionError(
                f"shard {shard.name} is asked through version {route['version']}, which this run does not have; expected one of "
                f"{', '.join(versions)}; rebuild the gallery with this run's models"
            )
        embedded = self._engine.embed([self.request(version, _OTHER[shard.side], task.test) for task in tasks])
        vectors_QD = np.concatenate([part.vectors for part in embedded])
        for name in route["maps"]:
            vectors_QD = read_map(self._context.gallery, name).apply(vectors_QD)
        return vectors_QD
