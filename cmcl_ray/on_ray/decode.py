"""Decoding with Ray Data: CPU tasks turn stored rows into arrays, the feed of a training worker collects them.

The rows of a window go in as blocks of row numbers and come back as arrays with those numbers, in whatever order; each array is
put in its place. The same readers run as in one process, so the bytes are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data

from cmcl_ray.data.feed import Decoded
from cmcl_ray.data.images import Inputs
from cmcl_ray.data.pairs import Rows
from cmcl_ray.on_ray.cluster import quiet_data


@dataclass(frozen=True)
class RayDecode:
    """Decodes rows with Ray Data.

    Args:
        stream: reference to the task stream in the object store, shared by all processes of a node without a copy.
        inputs: how rows become arrays.
        block_rows: rows a task decodes; small blocks spread well, each costs about 20 ms.
        concurrency: decoding tasks at a time.
    """

    stream: Any
    inputs: Inputs
    block_rows: int
    concurrency: int

    def __call__(self, image_rows: Rows, pair_rows: Rows) -> Decoded:
        """Decode image rows in parallel; texts and given features, which are cheap to read, in this process."""
        pairs = ray.get(self.stream[0]).pairs
        if self.inputs.image.describe()["reader"] == "features":
            image = self.inputs.image.read(pairs, image_rows)
        else:
            image = self._images(image_rows)
        return Decoded(image, self.inputs.text.read(pairs, pair_rows))

    def _images(self, rows: Rows) -> np.ndarray:
        quiet_data()
        blocks = max(1, -(-len(rows) // self.block_rows))
        dataset = ray.data.from_numpy(np.array_split(rows, blocks)).map_batches(
            _read_images,
            fn_kwargs={"stream": self.stream, "reader": self.inputs.image},
            batch_size=None,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=self.concurrency),
        )
        found: np.ndarray | None = None
        done = 0
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            if found is None:
                found = np.empty((len(rows), *batch["image"].shape[1:]), dtype=batch["image"].dtype)
            found[np.searchsorted(rows, batch["row"])] = batch["image"]
            done += len(batch["row"])
        if found is None or done != len(rows):
            raise RuntimeError(f"Ray Data returned {done} of {len(rows)} rows")
        return found


def _read_images(batch: Mapping[str, np.ndarray], stream: Any, reader: Any) -> dict[str, np.ndarray]:
    # The reference travels inside a list: as a plain argument Ray would put the whole stream into every task's arguments.
    pairs = ray.get(stream[0]).pairs
    rows = np.array(batch["data"])
    return {"row": rows, "image": reader.read(pairs, rows)}
