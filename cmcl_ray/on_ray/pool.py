"""The actor pool: processes that keep models loaded and embed parts, build shards, and search.

The actors live as long as the engine, so a model's loading and the import of torch are paid once a run and not once a stage.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray

from cmcl_ray.data.pairs import Rows
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.index.backends.base import Backend
from cmcl_ray.index.embeddings import EmbeddingKey, EmbeddingStore
from cmcl_ray.index.shards import Shard, build_shard
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.on_ray.memory import keep_freed_memory
from cmcl_ray.run.embedding import Embedder

# Work handed to an actor ahead of time, so that it never waits for the driver.
_AHEAD = 2


class _Worker:
    """One process of the pool."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._embedder: Embedder | None = None

    def open(self, stream: list[Any], settings: dict[str, Any], store: str) -> None:
        """Get ready for a run."""
        pairs: TaskStream = ray.get(stream[0])
        self._embedder = Embedder(pairs.pairs, **settings)
        self._store = EmbeddingStore(store)

    def embed(self, key: EmbeddingKey, part: int, version: ModelVersion, side: str, rows: Rows) -> int:
        """Embed one part, store it, and return its number."""
        if self._embedder is None:
            raise RuntimeError("no run is open in this worker")
        # Arrays out of the object store are read-only; torch wants its own.
        rows = np.array(rows)
        self._store.write_part(key, part, rows, self._embedder.embed(version, side, rows))
        return part

    def build(self, gallery: str, backend: Backend, key: EmbeddingKey, task: int, task_name: str) -> Shard:
        """Build one shard from stored embeddings."""
        return build_shard(gallery, backend, self._store.open(key), task=task, task_name=task_name)


class Pool:
    """A fixed number of workers.

    Args:
        size: number of workers.
        cpus: CPUs of each.
        gpus: GPUs of each.
    """

    def __init__(self, size: int, cpus: float, gpus: float) -> None:
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 2}
        self._actors = [ray.remote(_Worker).options(**options).remote() for _ in range(size)]
        self._opened: tuple[Any, ...] = ()

    def open(self, stream: list[Any], settings: dict[str, Any], store: str) -> None:
        """Get all workers ready for a run."""
        self._opened = (stream, settings, store)
        ray.get([actor.open.remote(*self._opened) for actor in self._actors])

    def run(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Run calls on the workers, a few ahead on each, and yield (number of the call, result) as they end."""
        waiting = list(enumerate(calls))[::-1]
        running: dict[Any, tuple[int, Any]] = {}
        for _ in range(_AHEAD):
            for actor in self._actors:
                if waiting:
                    number, arguments = waiting.pop()
                    running[getattr(actor, method).remote(*arguments)] = (number, actor)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            number, actor = running.pop(done)
            if waiting:
                following, arguments = waiting.pop()
                running[getattr(actor, method).remote(*arguments)] = (following, actor)
            yield number, ray.get(done)

    def close(self) -> None:
        """Stop the workers."""
        for actor in self._actors:
            ray.kill(actor)
