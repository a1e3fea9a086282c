"""How the bytes of a batch arrive.

The plan says who gets which row; a feed turns that into tensors. Rows are decoded a window at a time: the whole task where its
decoded rows fit ``cache_bytes``, else as many steps as do, the next window being decoded while this one is trained on. What
decodes is handed in: a plain function here, Ray Data on a cluster. All feeds give the same tensors for the same plan.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from cmcl_ray.data.images import Inputs
from cmcl_ray.data.order import BatchPlan, rank_rows
from cmcl_ray.data.pairs import Pairs, Rows


@dataclass(frozen=True)
class Batch:
    """Pairs of one rank at one step.

    Args:
        image: (B, 3, H, W) uint8 or (B, F) float32.
        text: (B, L, G) token ids or (B, F) float32.
        pair_id: (B,) pair rows.
        image_id: (B,) relevance codes: pairs of equal code are never negatives of each other.
        task: (B,) index of the task each pair belongs to.
    """

    image: torch.Tensor
    text: torch.Tensor
    pair_id: torch.Tensor
    image_id: torch.Tensor
    task: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        return Batch(
            *(getattr(self, name).to(device, non_blocking=True) for name in ("image", "text", "pair_id", "image_id", "task"))
        )


@dataclass(frozen=True)
class Decoded:
    """Decoded rows: arrays aligned with the rows asked for.

    Args:
        image: (n, ...) one entry an image row.
        text: (m, ...) one entry a pair row.
    """

    image: npt.NDArray[Any]
    text: npt.NDArray[Any]


class Decode(Protocol):
    """Turns image rows and pair rows into arrays."""

    def __call__(self, image_rows: Rows, pair_rows: Rows) -> Decoded:
        """Decode rows; the arrays come in the order asked for."""


@dataclass(frozen=True)
class LocalDecode:
    """Decodes in this process."""

    pairs: Pairs
    inputs: Inputs

    def __call__(self, image_rows: Rows, pair_rows: Rows) -> Decoded:
        """Decode rows one after the other."""
        return Decoded(self.inputs.image.read(self.pairs, image_rows), self.inputs.text.read(self.pairs, pair_rows))


@dataclass(frozen=True)
class RowFacts:
    """What a batch carries beside its arrays, by pair row of the whole stream.

    Args:
        image_row: (N,) image row.
        code: (N,) relevance code.
        task: (N,) task index, -1 where the row is in no task.
    """

    image_row: Rows
    code: Rows
    task: Rows


@dataclass(frozen=True)
class _Window:
    """Decoded rows of some steps, with where each row lies."""

    image_rows: Rows
    pair_rows: Rows
    decoded: Decoded

    def gather(self, rows: Rows, facts: RowFacts) -> Batch:
        """Put a batch together from decoded rows."""
        at_image = np.searchsorted(self.image_rows, facts.image_row[rows])
        at_pair = np.searchsorted(self.pair_rows, rows)
        return Batch(
            image=torch.from_numpy(self.decoded.image[at_image]),
            text=torch.from_numpy(self.decoded.text[at_pair]),
            pair_id=torch.from_numpy(rows.copy()),
            image_id=torch.from_numpy(facts.code[rows]),
            task=torch.from_numpy(facts.task[rows]),
        )


@dataclass(frozen=True)
class Feed:
    """Batches of one rank, from any step on.

    Args:
        decode: turns rows into arrays.
        facts: what batches carry beside the arrays.
        row_bytes: decoded bytes of one pair.
        cache_bytes: decoded bytes held at a time; half of it is a window where the task does not fit.
    """

    decode: Decode
    facts: RowFacts
    row_bytes: int
    cache_bytes: int

    def batches(self, plan: BatchPlan, rank: int, size: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of a rank for steps start, start + 1, ... to the end of the plan.

        An error of the decoding thread is raised where its batches would have come; leaving early waits for one window at most.
        """
        if start >= plan.steps:
            return
        everything = np.unique(np.concatenate([plan.rows, plan.memory]))
        if len(everything) * self.row_bytes <= self.cache_bytes:
            window = self._decode(everything)
            for step in range(start, plan.steps):
                yield window.gather(rank_rows(plan.batch(step), rank, size), self.facts)
            return
        share = plan.global_batch // size
        steps = max(1, self.cache_bytes // 2 // max(1, share * self.row_bytes))
        # One thread decodes ahead: two windows are in memory at a time, never more.
        with ThreadPoolExecutor(max_workers=1) as ahead:
            following = ahead.submit(self._window, plan, rank, size, start, steps)
            for first in range(start, plan.steps, steps):
                batches, window = following.result()
                if first + steps < plan.steps:
                    following = ahead.submit(self._window, plan, rank, size, first + steps, steps)
                for rows in batches:
                    yield window.gather(rows, self.facts)

    def read(self, rows: Rows) -> Batch:
        """Read pair rows as one batch, outside of any plan."""
        return self._decode(np.unique(rows)).gather(rows, self.facts)

    def _window(self, plan: BatchPlan, rank: int, size: int, first: int, steps: int) -> tuple[list[Rows], _Window]:
        batches = [rank_rows(plan.batch(step), rank, size) for step in range(first, min(first + steps, plan.steps))]
        return batches, self._decode(np.unique(np.concatenate(batches)))

    def _decode(self, rows: Rows) -> _Window:
        images = np.unique(self.facts.image_row[rows])
        return _Window(images, rows, self.decode(images, rows))
