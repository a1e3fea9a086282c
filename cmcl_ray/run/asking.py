"""Asking the gallery of a finished run: a text finds images, an image file finds captions."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.data.images import Features, facts_of
from cmcl_ray.data.pairs import Pairs, make_pairs
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.errors import DataError, StageError, VersionError, did_you_mean
from cmcl_ray.index.backends.base import Backend
from cmcl_ray.index.gallery import GalleryStore, GalleryVersion
from cmcl_ray.index.hits import merge_hits
from cmcl_ray.index.search import Calibration, RoutedShard, search_shards
from cmcl_ray.index.shards import Shard, open_shard
from cmcl_ray.models.base import build_model, encode_rows
from cmcl_ray.run.beginning import check_data, read_stream
from cmcl_ray.run.galleries import read_map
from cmcl_ray.run.settings import RunSettings, settings_from
from cmcl_ray.train.checkpoints import read_weights
from cmcl_ray.train.job import FitJob


@dataclass(frozen=True)
class Answer:
    """One hit.

    Args:
        rank: from 1.
        score: cosine, or calibrated score where the policy calibrates.
        id: image_id or pair_id.
        text: its caption, or the first one of its image.
        task: name of the task it came with.
        version: model version that made its vector.
    """

    rank: int
    score: float
    id: str
    text: str
    task: str
    version: str


def open_settings(folder: str) -> RunSettings:
    """Return the settings a run's folder was made with.

    Raises:
        StageError: the folder holds no run.
    """
    path = storage.join(storage.absolute(folder), "run.json")
    if not storage.exists(path):
        raise StageError(
            f"folder {folder} holds no run.json; expected the folder of a run, such as runs/demo/replay/seed0; check it"
        )
    described = storage.read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
        raise StageError(f"file {path} is no run's; expected an object with config; give the folder of a run")
    # The folder may have been moved since.
    return settings_from({**described["config"], "out": storage.absolute(folder)})


def ask_run(folder: str, query: str, policy: str | None = None, hits: int = 10) -> list[Answer]:
    """Ask a run's gallery.

    Args:
        folder: of the run.
        query: a text, or the path of an image file.
        policy: label of the policy whose gallery is asked; the live one unless given.
        hits: answers wanted, at least 1.

    Raises:
        StageError: no run, no such gallery, or the data changed since the run.
        DataError: the run's model takes features and cannot encode a raw query.
        IntegrityError: a stored file is damaged.
    """
    if hits < 1:
        raise DataError(f"{hits} hits were asked for; expected at least 1; give -k 10")
    settings = open_settings(folder)
    store = GalleryStore(storage.join(settings.out, "gallery"))
    current = store.current()
    label = policy or current.live
    if label not in current.policies:
        raise StageError(
            f"run {folder} has no gallery of policy '{label}'{did_you_mean(label, current.policies)}; expected one of "
            f"{', '.join(current.policies)}"
        )
    gallery = store.read(current.policies[label])
    stream = read_stream(settings)
    check_data(settings, stream)
    side = _side_of(query)
    asked = _query_pairs(query, side)
    shards = [shard for shard in gallery.shards if shard.side != side]
    if not shards:
        raise StageError(
            f"gallery '{label}' of run {folder} holds no {'texts' if side == 'image' else 'images'}; ask it the other way"
        )
    parts = [_routed(settings, stream, gallery, shard, asked, side) for shard in shards]
    merged = merge_hits(search_shards(parts, hits), hits)
    return _answers(stream, shards, merged.ids[0].tolist(), merged.scores[0].tolist())


def _side_of(query: str) -> str:
    if os.path.isfile(query):
        return "image"
    if query.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")):
        raise DataError(f"image file {query} is missing; expected a file, or a text; check the path")
    return "text"


def _query_pairs(query: str, side: str) -> Pairs:
    """Put a query into a pairs table of one row, so that the readers of the model take it in."""
    image = storage.read_bytes(query) if side == "image" else b""
    return make_pairs(
        pa.table({"pair_id": ["query"], "image_id": ["query"], "caption": [query]}),
        pa.table({"image_id": ["query"], "image": pa.array([image], pa.binary())}),
    )


def _routed(
    settings: RunSettings, stream: TaskStream, gallery: GalleryVersion, shard: Shard, asked: Pairs, side: str
) -> RoutedShard:
    route: dict[str, Any] = gallery.facts["routes"][shard.name]
    made: dict[str, int] = dict(gallery.facts["versions"])
    if route["version"] not in made:
        raise VersionError(
            f"shard {shard.folder} is asked through version {route['version']}, which its gallery does not know; expected one of "
            f"{', '.join(made)}; rebuild the gallery"
        )
    job = FitJob(settings.out, settings.seed, stream, settings.model, settings.loss, settings.strategies, settings.train)
    model = build_model(settings.model, facts_of(stream.pairs), settings.seed)
    if isinstance(model.inputs().reader(side), Features):
        raise DataError(
            f"model {settings.model.name} takes feature vectors, so a raw {side} cannot be encoded; expected a run whose model "
            "reads pixels and captions, such as model tiny; search that run"
        )
    model.load_state_dict(read_weights(job.checkpoint(made[route["version"]])))
    vector_1D = encode_rows(model.eval(), asked, side, np.zeros(1, dtype=np.int64), 1, torch.device("cpu"))
    for name in route["maps"]:
        vector_1D = read_map(storage.join(settings.out, "gallery"), name).apply(vector_1D)
    backend: Backend = build_component(settings.backend)
    index = open_shard(storage.join(settings.out, "gallery"), shard, backend)
    return RoutedShard(index, vector_1D, Calibration(route["mean"], route["sd"]))


def _answers(stream: TaskStream, shards: Sequence[Shard], ids: Sequence[int], scores: Sequence[float]) -> list[Answer]:
    pairs, side = stream.pairs, shards[0].side
    task_of = np.full(len(pairs) if side == "text" else pairs.images.num_rows, -1, dtype=np.int64)
    for task in stream.tasks:
        task_of[task.test if side == "text" else pairs.image_row[task.test]] = task.index
    by_task = {shard.task: shard for shard in shards}
    answers = []
    for rank, (row, score) in enumerate(((row, score) for row, score in zip(ids, scores, strict=True) if row >= 0), start=1):
        pair = row if side == "text" else int(np.flatnonzero(pairs.image_row == row)[0])
        name = pairs.texts("pair_id", np.array([pair]))[0] if side == "text" else pairs.images.column("image_id")[row].as_py()
        shard = by_task[int(task_of[row])]
        answers.append(Answer(rank, score, name, pairs.texts("caption", np.array([pair]))[0], shard.task_name, shard.version))
    return answers


def render_answers(answers: Sequence[Answer]) -> str:
    """Return answers as a text table."""
    head = f"{'':>3}  {'score':>7}  {'id':<32}  {'task':<16}  {'version':<16}  caption"
    lines = [f"{a.rank:>3}  {a.score:>7.4f}  {a.id:<32}  {a.task:<16}  {a.version:<16}  {a.text}" for a in answers]
    return "\n".join([head, *lines])
