"""The one continual loop: for each task train, bring every gallery up to date, ask it, write the figures; then the report.

Written once for all engines. Every stage leaves a manifest behind and is skipped when it is there, so the same command goes on
where a kill stopped it.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.data.images import facts_of
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.evaluate.scores import CostRow, ScoreRow, parquet_bytes, table_bytes
from cmcl_ray.index.backends.base import Backend
from cmcl_ray.index.gallery import GalleryVersion
from cmcl_ray.logs import Display
from cmcl_ray.models.base import ModelVersion, build_model
from cmcl_ray.policies.base import GalleryPolicy
from cmcl_ray.report.page import write_report
from cmcl_ray.run.beginning import check_data, check_out, read_stream, write_beginning
from cmcl_ray.run.engine import Engine, RunContext
from cmcl_ray.run.galleries import Galleries, UpdateCost
from cmcl_ray.run.scoring import Scorer
from cmcl_ray.run.settings import RunSettings
from cmcl_ray.train.checkpoints import read_checkpoint


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Args:
        out: its folder.
        report: path of the HTML page.
        stream: what it ran over.
    """

    out: str
    report: str
    stream: TaskStream


def run_continual(settings: RunSettings, engine: Engine, display: Display, known: TaskStream | None = None) -> RunResult:
    """Run a whole continual stream: train, index, query, evaluate, report.

    Args:
        settings: of the run.
        engine: where the work happens.
        display: where stages tell how far they are.
        known: the stream, where a run of the same data has read it already.

    Returns:
        Where the results lie.

    Raises:
        CmclError: anything a user can put right; the text says how.
    """
    check_out(settings)
    engine.check(settings)
    stream = known or read_stream(settings)
    check_data(settings, stream)
    # A model that does not fit the data is refused here, before anything is written.
    build_model(settings.model, facts_of(stream.pairs), settings.seed)
    write_beginning(settings, stream)
    rejected = f", {stream.rejected.num_rows} rows set aside (rejected.parquet)" if stream.rejected.num_rows else ""
    display.message(f"{settings.label} seed {settings.seed}: {len(stream.tasks)} tasks, {len(stream.pairs)} pairs{rejected}")
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    backend: Backend = build_component(settings.backend)
    context = RunContext(settings, stream, backend, display)
    engine.open(context)
    try:
        _Run(context, engine).all_tasks()
    finally:
        engine.close()
    html, _ = write_report(settings.out, [settings.out])
    return RunResult(settings.out, html, stream)


class _Run:
    """The state of a run between tasks: versions and the gallery of each policy."""

    def __init__(self, context: RunContext, engine: Engine) -> None:
        self.context, self.engine, self.settings = context, engine, context.settings
        self.policies: dict[str, GalleryPolicy] = {label: build_component(spec) for label, spec in self.settings.policies.items()}
        self.galleries = Galleries(context, engine)
        self.scorer = Scorer(context, engine, self.galleries)
        self.versions: list[ModelVersion] = []
        self.current: dict[str, GalleryVersion] = {}

    def all_tasks(self) -> None:
        """Go through the tasks, then join their tables."""
        for task in self.context.stream.tasks:
            self.versions.append(self.engine.fit(task.index))
            stage = self._stage(task.index)
            if not storage.has_manifest(stage):
                self._score_task(task.index)
            galleries = storage.read_manifest(stage)["galleries"]
            self.current = {label: self.galleries.read(gallery) for label, gallery in galleries.items()}
            for gallery in self.current.values():
                self.galleries.mend(gallery.shards, self.versions)
        self._join()

    def _stage(self, task: int) -> str:
        return storage.join(self.context.job.folder(task), "scores")

    def _score_task(self, task: int) -> None:
        """Bring every policy's gallery to the newest version, ask it everything, and write the stage."""
        name = self.context.stream.tasks[task].name
        settings = self.settings
        total = len(self.policies) * (1 + len(settings.evaluate.directions))
        scores: list[ScoreRow] = []
        costs: list[CostRow] = [self._train_cost(task)]
        samples: list[dict[str, Any]] = []
        updated: dict[str, GalleryVersion] = {}
        done = 0
        for label, policy in self.policies.items():
            updated[label], cost = self.galleries.update(label, policy, self.current.get(label), self.versions)
            costs.append(self._update_cost(label, task, cost))
            done += 1
            self.context.display.update(f"score {name}", done, total)
            begun, queries = time.monotonic(), 0
            for direction in settings.evaluate.directions:
                asked = self.scorer.ask(updated[label], direction, self.versions)
                queries += len(asked.rows)
                scores += self.scorer.score(asked, updated[label], direction)
                if task == len(self.context.stream.tasks) - 1 and settings.evaluate.samples:
                    samples += self.scorer.samples(asked, updated[label], direction, settings.evaluate.samples)
                done += 1
                self.context.display.update(f"score {name}", done, total)
            costs.append(self._cost("query", label, task, time.monotonic() - begun, queries, 0, 0))
        drift = self.scorer.drift(self.versions)
        self.galleries.point({label: gallery.id for label, gallery in updated.items()}, live=next(iter(self.policies)))
        files = {
            "scores.parquet": table_bytes(scores),
            "costs.parquet": table_bytes(costs),
            "drift.json": json.dumps(drift).encode(),
            "samples.json": json.dumps(samples).encode(),
        }
        storage.commit(self._stage(task), files, {"galleries": {label: gallery.id for label, gallery in updated.items()}})

    def _train_cost(self, task: int) -> CostRow:
        position = storage.read_manifest(self.context.job.checkpoint(task))["position"]
        row = self._cost("train", "", task, position["wall_s"], position["samples"], 2 * position["samples"], 0)
        return CostRow(**{**vars(row), "peak_memory_bytes": position["peak_memory_bytes"]})

    def _update_cost(self, label: str, task: int, cost: UpdateCost) -> CostRow:
        samples = cost.forward_passes
        return self._cost("update", label, task, cost.wall_s, samples, samples + cost.fit_passes, cost.bytes_written)

    def _cost(self, stage: str, policy: str, task: int, wall_s: float, samples: int, passes: int, written: int) -> CostRow:
        return CostRow(
            run_id=self.settings.run_id,
            label=self.settings.label,
            seed=self.settings.seed,
            stage=stage,
            policy=policy,
            task=self.context.stream.tasks[task].name,
            task_index=task,
            wall_s=wall_s,
            samples=samples,
            forward_passes=passes,
            bytes_read=0,
            bytes_written=written,
            peak_memory_bytes=0,
        )

    def _join(self) -> None:
        """Join the tables of all tasks to those of the run."""
        out, tasks = self.settings.out, [task.index for task in self.context.stream.tasks]
        stages = [self._stage(task) for task in tasks]
        manifests = [storage.read_manifest(stage) for stage in stages]

        def parts(name: str) -> Sequence[bytes]:
            return [storage.read_checked(stage, name, manifest) for stage, manifest in zip(stages, manifests, strict=True)]

        for name in ("scores.parquet", "costs.parquet"):
            table = pa.concat_tables([pq.read_table(pa.BufferReader(part)) for part in parts(name)])
            storage.write_bytes(storage.join(out, name), parquet_bytes(table))
        for name in ("drift.json", "samples.json"):
            storage.write_json(storage.join(out, name), [item for part in parts(name) for item in json.loads(part)])
        lines = [line for task in tasks for line in read_checkpoint(self.context.job.checkpoint(task)).metrics]
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        storage.write_bytes(storage.join(out, "metrics.jsonl"), text.encode())
