"""What embedding through the actor pool costs: the Ray engine's embed against a plain decode-and-encode loop, in images a second.

One actor with n torch threads against one process with n torch threads, over the same PNG files and weights. Ours also writes
parts with checksums, joins them and opens the result; the plain loop has all files in memory and leaves its vectors there. Its
process keeps freed memory as our workers do (on_ray/memory.py); in full there is one beside it that does not. Starting is a
case of its own.

Tried and dropped: two calls at a time in an actor, so that a part is written while the next is computed, gave 0.86 of the plain
loop where one at a time gave 0.95 (4 shared cores, 5 runs each): threads of their own make malloc and OpenMP slower than the 3
ms a part takes to write.
"""

import functools
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import measure
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from cmcl_ray import storage
from cmcl_ray.components import build_component
from cmcl_ray.data.images import facts_of
from cmcl_ray.data.pairs import Rows, make_pairs
from cmcl_ray.data.sources.base import Source, SourceData
from cmcl_ray.data.stream import TaskStream, build_stream
from cmcl_ray.logs import Silent
from cmcl_ray.models.base import build_model, weights_id
from cmcl_ray.on_ray.memory import keep_freed_memory
from cmcl_ray.run.embedding import EmbedRequest, key_of
from cmcl_ray.run.engine import RunContext
from cmcl_ray.run.settings import RunSettings, settings_from
from cmcl_ray.train.checkpoints import Checkpoint, read_weights, write_checkpoint

NAME = "embed_overhead"
TARGET = 0.90
TOLERANCE = 1e-6
# Drawing takes 1 ms an image: so many are drawn, and repeated under other ids up to the size asked for.
DRAWN = 2000


def settings_of(threads: int, out: str) -> RunSettings:
    """Return the settings of a run: tiny at its defaults, 32 pixels, parts and batches of the default sizes."""
    source = {
        "name": "synthetic", "groups": 1, "images_per_group": DRAWN - 10, "val_images_per_group": 0, "test_images_per_group": 10,
        "captions_per_image": 1,
    }  # fmt: skip
    return settings_from(
        {
            "out": out,
            "stream": {"source": source, "splits": {"column": "split"}},
            "model": {"name": "tiny"},
            "loss": {"name": "info_nce"},
            "train": {"threads": threads, "device": "cpu"},
            "index": {"backend": {"name": "exact"}},
            "policies": {"keep": {"name": "keep"}},
            # More logical CPUs than are reserved; nothing but the one actor computes.
            "engine": {"name": "ray", "num_cpus": 4, "embedders": 1, "device": "cpu", "address": "local"},
        }
    )


def repeated_stream(settings: RunSettings, images: int) -> TaskStream:
    """Return a stream of one task with so many images: the drawings again and again, each time under other ids."""
    source: Source = build_component(settings.source)
    drawn = source.read()
    rounds = math.ceil(images / drawn.pairs.images.num_rows)

    def again(table: pa.Table, columns: tuple[str, ...]) -> pa.Table:
        copies = []
        for number in range(rounds):
            copy = table
            for column in columns:
                names = pa.array([f"{name}_{number}" for name in table.column(column).to_pylist()])
                copy = copy.set_column(copy.schema.get_field_index(column), column, names)
            copies.append(copy)
        return pa.concat_tables(copies)

    every_image = again(drawn.pairs.images, ("image_id",)).slice(0, images)
    every_pair = again(drawn.pairs.pairs, ("pair_id", "image_id"))
    kept = every_pair.filter(pc.is_in(every_pair.column("image_id"), every_image.column("image_id").combine_chunks()))
    return build_stream(SourceData(make_pairs(kept, every_image), drawn.rejected), settings.stream)


# -- the plain side --------------------------------------------------------------------------------------------------------


def plain_decode(data: bytes) -> np.ndarray:
    """Decode one file to (3, 32, 32)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def plain_side(case: Mapping[str, Any]) -> int:
    """Serve the plain loop: everything is read before it says that it is ready."""
    if case["keep_memory"]:
        keep_freed_memory()
    settings = settings_of(case["threads"], case["out"])
    torch.set_num_threads(settings.train.threads)
    stream = repeated_stream(settings, case["images"])
    encoded: list[bytes] = stream.pairs.images.column("image").to_pylist()
    model = build_model(settings.model, facts_of(stream.pairs), settings.seed)
    model.load_state_dict(read_weights(case["weights"]))
    model.eval()
    size = settings.index.batch_rows

    def work(request: dict[str, Any]) -> dict[str, Any]:
        begun = time.perf_counter()
        parts = []
        with torch.inference_mode():
            for start in range(0, len(encoded), size):
                here = encoded[start : start + size]
                # Filled in place: np.stack would keep channels last, which is slower to encode and less exact.
                pixels = np.empty((len(here), 3, 32, 32), dtype=np.uint8)
                for position, data in enumerate(here):
                    pixels[position] = plain_decode(data)
                parts.append(model.encode_image(torch.from_numpy(pixels)).numpy())
        vectors = np.concatenate(parts)
        seconds = time.perf_counter() - begun
        if request["save"]:
            np.save(request["save"], vectors)
        return {"images_per_s": len(encoded) / seconds}

    return measure.answer_requests(work)


# -- our side --------------------------------------------------------------------------------------------------------------


class RayEmbed:
    """Embeds on the pool of the Ray engine, as a run does: one actor, its model loaded after the first call."""

    def __init__(self, settings: RunSettings, stream: TaskStream) -> None:
        begun = time.perf_counter()
        measure.equal_priority()
        self._engine = build_component(settings.engine)
        self._engine.check(settings)
        self.ray_s = time.perf_counter() - begun
        self._context = RunContext(settings, stream, build_component(settings.backend), Silent())
        self._rows: Rows = np.arange(stream.pairs.images.num_rows, dtype=np.int64)

    def prepare(self) -> str:
        """Write a checkpoint with first weights, so that nothing is left to train, and return its folder."""
        job = self._context.job
        model = build_model(job.model, facts_of(job.stream.pairs), job.seed)
        weights = dict(model.state_dict())
        write_checkpoint(job.checkpoint(0), Checkpoint(weights, {"step": 0, "version": weights_id(weights), "parent": None}))
        return job.checkpoint(0)

    def start(self) -> float:
        """Start the actor and embed one image; return the seconds that took."""
        begun = time.perf_counter()
        self._engine.open(self._context)
        self._embed(self._rows[:1])
        return time.perf_counter() - begun

    def run(self) -> float:
        """Embed all images anew and return images a second."""
        return self._embed(self._rows)[1]

    def vectors(self) -> np.ndarray:
        """Embed all images and return their vectors."""
        return np.array(self._embed(self._rows)[0])

    def _embed(self, rows: Rows) -> tuple[np.ndarray, float]:
        request = EmbedRequest(self._context.job.version(0), "image", rows)
        key = key_of(request, self._context.stream, self._context.settings.model)
        storage.remove(storage.join(self._context.gallery, "embeddings", key.name))
        begun = time.perf_counter()
        (found,) = self._engine.embed([request])
        return found.vectors, len(rows) / (time.perf_counter() - begun)

    def close(self) -> None:
        """Stop the pool and Ray."""
        self._engine.shutdown()


# -- the comparison --------------------------------------------------------------------------------------------------------


def compare(threads: int, images: int, rounds: int, sides: Mapping[str, bool]) -> list[measure.Result]:
    """Check that all sides give the same vectors, then time them in turns.

    Args:
        threads: torch threads of each process.
        images: number of images.
        rounds: runs of each side.
        sides: name of each plain side -> whether its process keeps freed memory.
    """
    with tempfile.TemporaryDirectory(prefix="cmcl-bench-") as out:
        settings = settings_of(threads, out)
        ours = RayEmbed(settings, repeated_stream(settings, images))
        case = {"threads": threads, "images": images, "out": out, "weights": ours.prepare()}
        plain = {name: measure.PlainProcess(__file__, {**case, "keep_memory": keep}) for name, keep in sides.items()}
        try:
            # The answers come when the plain processes have read everything: they do not start beside ours.
            for name, process in plain.items():
                process.ask({"save": f"{out}/{name}.npy"})
            start_s = ours.start()
            vectors = ours.vectors()
            difference = max(float(np.abs(vectors - np.load(f"{out}/{name}.npy")).max()) for name in plain)
            checked = difference <= TOLERANCE
            timed: dict[str, Callable[[], float]] = {"ours": ours.run}
            timed |= {name: functools.partial(plain_rate, process) for name, process in plain.items()}
            runs = measure.interleave(timed, rounds if checked else 0)
        finally:
            for process in plain.values():
                process.close()
            ours.close()
    facts = measure.environment(
        threads=threads, images=images, drawn=min(images, DRAWN), pixels=32, model="tiny", part_rows=settings.index.part_rows,
        batch_rows=settings.index.batch_rows, vector_difference=difference, ray_start_s=measure.rounded(ours.ray_s),
        images_per_s={name: [round(run) for run in each] for name, each in runs.items()},
    )  # fmt: skip
    counted = f"{threads} thread{'s' * (threads > 1)}"
    start = f"start: actor, import, model; {counted}"
    return [
        *(
            measure.Result.of(
                (NAME, f"1 actor / {name}, {counted}"),
                measure.ratios(runs["ours"], runs[name]),
                "ratio of images/s",
                "higher",
                TARGET,
                checked,
                facts,
            )
            for name in plain
        ),
        measure.Result.of((NAME, start), [start_s], "s", "lower", None, checked, facts),
    ]


def plain_rate(process: measure.PlainProcess) -> float:
    """Return the images a second of one run of a plain loop."""
    return float(process.ask({"save": ""})["images_per_s"])


def main() -> int:
    """Run the benchmark."""
    wanted = measure.arguments(__doc__.splitlines()[0])
    if wanted.plain:
        return plain_side(json.loads(wanted.plain))
    tuned = {"plain loop": True}
    if wanted.quick:
        return measure.conclude(compare(1, 6000, 5, tuned), wanted)
    both = {**tuned, "plain loop with malloc as it comes": False}
    return measure.conclude([*compare(1, 20_000, 7, both), *compare(2, 20_000, 7, tuned)], wanted)


if __name__ == "__main__":
    sys.exit(main())
