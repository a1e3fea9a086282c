"""The engine on Ray: Ray Data decodes, a worker or a Ray Train group fits, an actor pool embeds and builds."""

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import ray

from cmcl_ray import storage
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.errors import CmclError, ConfigError
from cmcl_ray.index.embeddings import Embeddings, EmbeddingStore
from cmcl_ray.index.hits import Hits
from cmcl_ray.index.search import RoutedShard, search_shards
from cmcl_ray.index.shards import Shard
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.on_ray.cluster import capacity, check_capacity, ensure_ray
from cmcl_ray.on_ray.fit import Fitting, RemoteJob, Workers
from cmcl_ray.on_ray.monitor import Monitor
from cmcl_ray.on_ray.pool import Pool
from cmcl_ray.run.embedding import EmbedRequest, key_of, unique_requests
from cmcl_ray.run.engine import BuildRequest, Engine, RunContext
from cmcl_ray.run.settings import RunSettings


class RayEngine(Engine):
    """Runs the verbs on a Ray cluster: the one a job runs in, one at an address, or one started on this machine.

    Args:
        num_workers: training processes; the global batch is shared between them.
        worker_cpus: logical CPUs a training process reserves.
        worker_gpus: GPUs a training process reserves.
        embedders: embedding processes.
        embedder_cpus: logical CPUs an embedding process reserves.
        embedder_gpus: GPUs an embedding process reserves; a share such as 0.5 puts two on a GPU.
        decode_rows: images a decoding task takes.
        decoders: decoding tasks at a time.
        max_failures: lost training workers a run survives.
        address: ``host:port``, ``auto`` or ``local``; null takes RAY_ADDRESS, else local.
        num_cpus: logical CPUs of a cluster started here; null for the machine's, or as many as a small one needs.
        device: auto, cpu or cuda; for embedding (training has its own setting).
        verbose: print the lines of Ray's workers.
    """

    def __init__(
        self,
        num_workers: int = 1,
        worker_cpus: float = 1.0,
        worker_gpus: float = 0.0,
        embedders: int = 1,
        embedder_cpus: float = 0.5,
        embedder_gpus: float = 0.0,
        decode_rows: int = 512,
        decoders: int = 2,
        max_failures: int = 3,
        address: str | None = None,
        num_cpus: int | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self._workers = Workers(num_workers, worker_cpus, worker_gpus, decode_rows, decoders, max_failures)
        self._embedders, self._embedder_cpus, self._embedder_gpus = embedders, embedder_cpus, embedder_gpus
        self._address, self._num_cpus, self._device, self._verbose = address, num_cpus, device, verbose
        self._owns_ray = False
        self._pool: Pool | None = None
        self._fitting: Fitting | None = None
        self._shared: tuple[TaskStream, list[Any]] | None = None
        if min(num_workers, embedders, decode_rows, decoders) < 1:
            raise ValueError(
                f"num_workers, embedders, decode_rows and decoders are {num_workers}, {embedders}, {decode_rows} and {decoders}; "
                "expected at least 1 of each"
            )

    def check(self, settings: RunSettings) -> None:
        """Refuse what cannot be: a folder only this machine sees, and a request the cluster can never satisfy."""
        if settings.train.batch_size % self._workers.count:
            raise ConfigError(
                f"train.batch_size is {settings.train.batch_size}, which {self._workers.count} workers cannot share equally; "
                "expected a multiple of engine.num_workers; change one of them"
            )
        cpus = self._num_cpus or self._local_cpus()
        self._owns_ray = ensure_ray(self._address, cpus, self._verbose) or self._owns_ray
        check_capacity(
            capacity(), self._workers.count, self._workers.cpus, self._workers.gpus, self._embedders, self._embedder_cpus
        )

    def _local_cpus(self) -> int:
        """Return logical CPUs for a cluster started here: the machine's, or on a small one as many as the processes reserve."""
        wanted = self._workers.count * self._workers.cpus + self._embedders * self._embedder_cpus + 1
        return max(os.cpu_count() or 1, math.ceil(wanted))

    def open(self, context: RunContext) -> None:
        """Share the stream with the cluster, start or reuse the pool, and begin training."""
        self.close()
        settings = context.settings
        self._context = context
        self._store = EmbeddingStore(storage.join(context.gallery, "embeddings"))
        if self._shared is None or self._shared[0] is not context.stream:
            self._shared = (context.stream, [ray.put(context.stream)])
        self._stream = self._shared[1]
        self._monitor = Monitor.remote()
        job = context.job
        # The slow starts of both kinds of process overlap.
        if not all(job.is_done(task.index) for task in context.stream.tasks):
            self._fitting = Fitting(RemoteJob.of(job, self._stream, self._workers, self._monitor))
        if self._pool is None:
            self._pool = Pool(self._embedders, self._embedder_cpus, self._embedder_gpus)
        embedder = {
            "model": settings.model,
            "seed": settings.seed,
            "batch_rows": settings.index.batch_rows,
            "device": self._device,
            "threads": settings.train.threads,
        }
        self._pool.open(self._stream, embedder, storage.join(context.gallery, "embeddings"))

    def fit(self, task: int) -> ModelVersion:
        """Wait for a task's checkpoint; later tasks are trained meanwhile."""
        if self._fitting is not None:
            self._fitting.wait(task, self._show)
        self._show()
        return self._context.job.version(task)

    def _show(self) -> None:
        readings, failure = ray.get(self._monitor.ask.remote())
        if failure:
            raise CmclError(failure)
        for stage, done, total, facts in readings:
            self._context.display.update(stage, done, total, facts)

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embeddings]:
        """Embed the parts of all requests that are not stored, on the pool."""
        context = self._context
        keys = [key_of(request, context.stream, context.settings.model) for request in requests]
        missing = {key: request for key, request in unique_requests(requests, keys).items() if not self._store.has(key)}
        if missing and self._pool is not None:
            begun = time.monotonic()
            calls, counts = [], {}
            for key, request in missing.items():
                parts = request.parts(context.settings.index.part_rows)
                counts[key] = len(parts)
                done = self._store.parts_done(key)
                calls += [
                    (key, number, request.version, request.side, rows) for number, rows in enumerate(parts) if number not in done
                ]
            for _ in self._pool.run("embed", calls):
                pass
            total = sum(len(request.rows) for request in missing.values())
            for key, request in missing.items():
                wall_s = (time.monotonic() - begun) * len(request.rows) / total
                self._store.finish(key, counts[key], {"wall_s": wall_s})
        return [self._store.open(key) for key in keys]

    def build(self, requests: Sequence[BuildRequest]) -> list[Shard]:
        """Build shards on the pool."""
        if self._pool is None:
            raise RuntimeError("no run is open; call open first")
        gallery, backend = self._context.gallery, self._context.backend
        calls = [(gallery, backend, request.embeddings.key, request.task, request.task_name) for request in requests]
        built = dict(self._pool.run("build", calls))
        return [built[number] for number in range(len(requests))]

    def search(self, parts: Sequence[RoutedShard], k: int) -> list[Hits]:
        """Search in the driver, whose shards are memory-mapped files."""
        return search_shards(parts, k)

    def close(self) -> None:
        """Stop what is left of the run's training."""
        if self._fitting is not None:
            self._fitting.stop()
            self._fitting = None

    def shutdown(self) -> None:
        """Stop the pool, and Ray where this engine started it."""
        self.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._shared = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False
