"""Scoring one gallery version: every task's test queries, both scopes, in one direction.

Recall is read off the hits of the index, as a user would see them; median rank and reciprocal rank come from an exact count
over the stored vectors. Q queries of all tasks so far, D embedding width.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cmcl_ray.data.images import Pixels
from cmcl_ray.data.pairs import Pairs, Rows
from cmcl_ray.data.stream import Task
from cmcl_ray.errors import DataError
from cmcl_ray.evaluate.drift import measure_drift
from cmcl_ray.evaluate.ranking import (
    RECALLS,
    RankPart,
    exact_ranks,
    mean_reciprocal_rank,
    median_rank,
    ranks_from_hits,
    recall_at,
)
from cmcl_ray.evaluate.scores import ScoreRow
from cmcl_ray.index.gallery import GalleryVersion
from cmcl_ray.index.hits import Hits, merge_hits
from cmcl_ray.index.search import Calibration, RoutedShard
from cmcl_ray.index.shards import Shard, open_shard
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.run.engine import Engine, RunContext
from cmcl_ray.run.galleries import GALLERY_SIDE, QUERY_SIDE, Galleries, rows_of_side

THUMBNAIL = 48


@dataclass(frozen=True)
class Asked:
    """One direction's test queries of all tasks so far, and what the shards of one gallery answered.

    Args:
        rows: (Q,) rows of the query side.
        codes: (Q,) relevance codes.
        task: (Q,) task of each query.
        shards: the shards that were asked.
        parts: what each shard was asked with.
        hits: what each shard answered.
    """

    rows: Rows
    codes: Rows
    task: Rows
    shards: tuple[Shard, ...]
    parts: tuple[RoutedShard, ...]
    hits: tuple[Hits, ...]


class Scorer:
    """Scores the galleries of one run.

    Args:
        context: of the run.
        engine: embeds and searches.
        galleries: of the run.
    """

    def __init__(self, context: RunContext, engine: Engine, galleries: Galleries) -> None:
        self._context, self._engine, self._galleries = context, engine, galleries
        pairs = context.stream.pairs
        code_of_pair = pairs.relevance(np.arange(len(pairs), dtype=np.int64))
        code_of_image = np.full(pairs.images.num_rows, -1, dtype=np.int64)
        code_of_image[pairs.image_row] = code_of_pair
        self._code = {"text": code_of_pair, "image": code_of_image}

    def ask(self, gallery: GalleryVersion, direction: str, versions: Sequence[ModelVersion]) -> Asked:
        """Put all test queries of the tasks so far to every shard of a gallery.

        Args:
            gallery: the version to ask.
            direction: t2i or i2t.
            versions: model versions by task.
        """
        tasks = self._context.stream.tasks[: gallery.after_task + 1]
        side = QUERY_SIDE[direction]
        by_task = [rows_of_side(self._context.stream.pairs, task.test, side) for task in tasks]
        rows = np.concatenate(by_task)
        shards = tuple(shard for shard in gallery.shards if shard.side == GALLERY_SIDE[direction])
        by_id = {version.id: version for version in versions}
        parts = []
        for shard in shards:
            route = gallery.facts["routes"][shard.name]
            index = open_shard(self._context.gallery, shard, self._context.backend)
            queries_QD = self._galleries.queries(gallery, shard, tasks, by_id)
            parts.append(RoutedShard(index, queries_QD, Calibration(route["mean"], route["sd"])))
        hits = self._engine.search(parts, self._context.settings.evaluate.hits)
        task_Q = np.concatenate([np.full(len(some), task.index) for task, some in zip(tasks, by_task, strict=True)])
        return Asked(rows, self._code[side][rows], task_Q, shards, tuple(parts), tuple(hits))

    def score(self, asked: Asked, gallery: GalleryVersion, direction: str) -> list[ScoreRow]:
        """Return the figures of one gallery in one direction: by task and scope."""
        rows: list[ScoreRow] = []
        for task in self._context.stream.tasks[: gallery.after_task + 1]:
            of_task = asked.task == task.index
            own = [number for number, shard in enumerate(asked.shards) if shard.task == task.index]
            for scope, numbers in (("known", own), ("all", list(range(len(asked.shards))))):
                size = sum(asked.shards[number].count for number in numbers)
                values = self._figures(asked, of_task, numbers, size, GALLERY_SIDE[direction])
                rows += [
                    self._row(gallery, task, scope, direction, metric, value, int(of_task.sum()), size)
                    for metric, value in values.items()
                ]
        return rows

    def _figures(self, asked: Asked, chosen: np.ndarray, numbers: Sequence[int], size: int, side: str) -> dict[str, float]:
        codes_Q = asked.codes[chosen]
        answers = [Hits(asked.hits[number].ids[chosen], asked.hits[number].scores[chosen]) for number in numbers]
        merged = merge_hits(answers, self._context.settings.evaluate.hits)
        found = ranks_from_hits(merged, codes_Q, self._code[side], size)
        parts = []
        for number in numbers:
            stored = self._galleries.vectors(asked.shards[number])
            part = asked.parts[number]
            parts.append(
                RankPart(
                    part.queries[chosen], stored.vectors, self._code[side][stored.ids], part.calibration.mean, part.calibration.sd
                )
            )
        exact = exact_ranks(parts, codes_Q)
        figures = {f"recall@{k}": recall_at(found, k) for k in RECALLS}
        return figures | {"median_rank": median_rank(exact), "mrr": mean_reciprocal_rank(exact)}

    def _row(
        self, gallery: GalleryVersion, task: Task, scope: str, direction: str, metric: str, value: float, queries: int, size: int
    ) -> ScoreRow:
        settings = self._context.settings
        return ScoreRow(
            run_id=settings.run_id,
            label=settings.label,
            seed=settings.seed,
            strategy="+".join(settings.strategies) or "finetune",
            policy=gallery.policy,
            scope=scope,
            direction=direction,
            task=task.name,
            task_index=task.index,
            after_task=gallery.after_task,
            metric=metric,
            value=value,
            num_queries=queries,
            num_gallery=size,
        )

    def drift(self, versions: Sequence[ModelVersion]) -> list[dict[str, Any]]:
        """Return how far each branch moved on each old task's test pairs, from that task's version to the newest."""
        pairs, newest = self._context.stream.pairs, versions[-1]
        found = []
        for task in self._context.stream.tasks[: len(versions) - 1]:
            first = np.searchsorted(task.test, pairs.first_rows(task.test))
            old_image, new_image, old_text, new_text = (
                part.vectors
                for part in self._engine.embed(
                    [
                        self._galleries.request(version, side, task.test)
                        for side in ("image", "text")
                        for version in (versions[task.index], newest)
                    ]
                )
            )
            old_text, new_text = old_text[first], new_text[first]
            drift = measure_drift(old_image, new_image, old_text, new_text)
            found.append({"task": task.name, "task_index": task.index, "after_task": len(versions) - 1, **vars(drift)})
        return found

    def samples(self, asked: Asked, gallery: GalleryVersion, direction: str, count: int) -> list[dict[str, Any]]:
        """Return a few queries with their best hits, as the report shows them: some of every task, spread evenly."""
        side, gallery_side = QUERY_SIDE[direction], GALLERY_SIDE[direction]
        merged = merge_hits(asked.hits, 5)
        maker = {shard.task: shard.version for shard in asked.shards}
        task_of_id = {int(i): shard.task for shard in asked.shards for i in self._galleries.vectors(shard).ids}
        tasks = self._context.stream.tasks
        shown = []
        for number in np.linspace(0, len(asked.rows) - 1, count).round().astype(int):
            hits = []
            for item, score in zip(merged.ids[number].tolist(), merged.scores[number].tolist(), strict=True):
                if item < 0:
                    continue
                relevant = bool(self._code[gallery_side][item] == asked.codes[number])
                where = task_of_id[item]
                hits.append(
                    self._entry(gallery_side, item, tasks[where].name)
                    | {"version": maker[where], "score": round(score, 4), "relevant": relevant}
                )
            query = self._entry(side, int(asked.rows[number]), tasks[int(asked.task[number])].name)
            shown.append(
                {"direction": direction, "policy": gallery.policy, "after_task": gallery.after_task, "query": query, "hits": hits}
            )
        return shown

    def _entry(self, side: str, row: int, task: str) -> dict[str, Any]:
        pairs = self._context.stream.pairs
        if side == "text":
            return {
                "text": pairs.texts("caption", np.array([row]))[0],
                "id": pairs.texts("pair_id", np.array([row]))[0],
                "task": task,
            }
        name = pairs.images.column("image_id").take(pa.array([row]))[0].as_py()
        return {"image": thumbnail(pairs, row), "id": name, "task": task}


def thumbnail(pairs: Pairs, row: int) -> str | None:
    """Return a small PNG of an image row as a data URI; None where the stream holds features alone."""
    if not {"image", "image_uri"} & set(pairs.images.column_names):
        return None
    try:
        pixels = Pixels(THUMBNAIL).read(pairs, np.array([row]))[0]
    except DataError:
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
