"""A continual run small enough for tests: three tasks of 32 drawn images, a second or two in all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cmcl_ray.components import ComponentSpec
from cmcl_ray.data.pairs import make_pairs
from cmcl_ray.data.sources.base import SourceData
from cmcl_ray.data.sources.synthetic import Synthetic
from cmcl_ray.data.splits import SplitSettings
from cmcl_ray.data.stream import StreamSettings, TaskStream, build_stream
from cmcl_ray.train.job import FitJob
from cmcl_ray.train.settings import TrainSettings

SOURCE = {
    "groups": 3,
    "images_per_group": 32,
    "val_images_per_group": 8,
    "test_images_per_group": 12,
    "captions_per_image": 2,
    "image_size": 16,
}
MODEL = {"image_size": 16, "width": 8, "text_width": 16, "dim": 16, "buckets": 256, "length": 12}
TRAIN = {"epochs": 2, "batch_size": 16, "lr": 0.01, "threads": 1, "log_every": 1}
EWC = {"anchors": 16, "fisher_batch": 8}
REPLAY = {"images_per_task": 6}
CONFIG: dict[str, Any] = {
    "seed": 3,
    "stream": {"source": {"name": "synthetic", **SOURCE}, "tasks": {"by": "group"}, "splits": {"column": "split"}},
    "model": {"name": "tiny", **MODEL},
    "loss": {"name": "info_nce"},
    "strategies": {"replay": REPLAY},
    "train": TRAIN,
    "index": {"backend": {"name": "exact"}},
    "policies": {"keep": {}, "bridge": {}, "route": {}, "route_raw": {"name": "route", "calibration": "none"}, "reindex": {}},
    "evaluate": {"calibration_queries": 50, "samples": 2},
    "engine": {"name": "local"},
}


def write_config(folder: Path, out: Path | str, **sections: Any) -> str:
    """Write a config of its own folder and return its path; ``sections`` replace those of CONFIG."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without a base.yaml beside it the file would be merged over the project's own.
    (folder / "base.yaml").write_text("{}\n")
    path = folder / "run.yaml"
    # JSON is YAML, too.
    path.write_text(json.dumps({**CONFIG, "out": str(out), **sections}))
    return str(path)


def tiny_stream(features: bool = False, **source: Any) -> TaskStream:
    """Return the stream of CONFIG; with ``features`` every image has 12 numbers and every caption 10 as well."""
    data = Synthetic(**{**SOURCE, **source}).read()
    if features:
        rng = np.random.default_rng(5)
        tables = {"image_features": (data.pairs.images, 12), "text_features": (data.pairs.pairs, 10)}
        images, pairs = (
            table.append_column(
                name,
                pa.FixedSizeListArray.from_arrays(rng.standard_normal(table.num_rows * width).astype(np.float32), width),
            )
            for name, (table, width) in tables.items()
        )
        data = SourceData(make_pairs(pairs, images), data.rejected)
    return build_stream(data, StreamSettings(splits=SplitSettings(column="split")))


def tiny_job(out: Path | str, stream: TaskStream, strategies: Mapping[str, Mapping[str, Any]] = {}, **train: Any) -> FitJob:
    """Return a job on a stream: two_branch with dropout where the stream has features, else tiny."""
    featured = "image_features" in stream.pairs.images.column_names
    model = ComponentSpec("model", "two_branch", {"hidden": 16, "dim": 8, "dropout": 0.4}, "model")
    return FitJob(
        out=str(out),
        seed=3,
        stream=stream,
        model=model if featured else ComponentSpec("model", "tiny", MODEL, "model"),
        loss=ComponentSpec("loss", "info_nce", {}, "loss"),
        strategies={
            label: ComponentSpec(
                "strategy",
                str(params.get("name", label)),
                {key: value for key, value in params.items() if key != "name"},
                f"strategies.{label}",
            )
            for label, params in strategies.items()
        },
        train=TrainSettings(**{**TRAIN, **train}),
    )
