"""All in this process: tests in milliseconds, a debugger, a machine without Ray."""

import time
from collections.abc import Sequence

from cmcl_ray import storage
from cmcl_ray.index.embeddings import Embeddings, EmbeddingStore
from cmcl_ray.index.hits import Hits
from cmcl_ray.index.search import RoutedShard, search_shards
from cmcl_ray.index.shards import Shard, build_shard
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.run.embedding import Embedder, EmbedRequest, key_of, unique_requests
from cmcl_ray.run.engine import BuildRequest, Engine, RunContext
from cmcl_ray.train.loop import fit_task
from cmcl_ray.train.world import World


class LocalEngine(Engine):
    """Runs every verb in the calling process.

    Args:
        device: auto, cpu or cuda; for embedding (training has its own setting).
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._context: RunContext | None = None

    def open(self, context: RunContext) -> None:
        """Remember the run."""
        settings = context.settings
        self._context = context
        self._store = EmbeddingStore(storage.join(context.gallery, "embeddings"))
        self._embedder = Embedder(
            context.stream.pairs, settings.model, settings.seed, settings.index.batch_rows, self._device, settings.train.threads
        )

    @property
    def context(self) -> RunContext:
        """The run that is open."""
        if self._context is None:
            raise RuntimeError("no run is open; call open first")
        return self._context

    def fit(self, task: int) -> ModelVersion:
        """Train in this process."""
        job, display = self.context.job, self.context.display
        stage = f"train {job.stream.tasks[task].name}"
        return fit_task(
            job,
            task,
            World.current(job.train.device),
            progress=lambda done, total, facts: display.update(stage, done, total, facts),
        )

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embeddings]:
        """Embed part after part; finished parts of an earlier try are kept."""
        context = self.context
        keys = [key_of(request, context.stream, context.settings.model) for request in requests]
        for key, request in unique_requests(requests, keys).items():
            if self._store.has(key):
                continue
            begun = time.monotonic()
            parts = request.parts(context.settings.index.part_rows)
            done = self._store.parts_done(key)
            for number, rows in enumerate(parts):
                if number not in done:
                    self._store.write_part(key, number, rows, self._embedder.embed(request.version, request.side, rows))
            self._store.finish(key, len(parts), {"wall_s": time.monotonic() - begun})
        return [self._store.open(key) for key in keys]

    def build(self, requests: Sequence[BuildRequest]) -> list[Shard]:
        """Build shard after shard."""
        context = self.context
        return [
            build_shard(context.gallery, context.backend, request.embeddings, task=request.task, task_name=request.task_name)
            for request in requests
        ]

    def search(self, parts: Sequence[RoutedShard], k: int) -> list[Hits]:
        """Search shard after shard."""
        return search_shards(parts, k)

    def close(self) -> None:
        """Forget the run."""
        self._context = None
