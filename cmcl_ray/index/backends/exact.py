"""Exact search with torch, block by block over gallery and queries: no score matrix, no index to train.

A product of some queries with some gallery rows is reduced to the maxima of small tiles; only tiles that can still hold a hit are
looked into, so no row of scores is ever sorted. Price: 256 queries x block_rows float32 scores held at once (8 MiB by default).

Shape legend: N gallery rows, Q queries, D embedding width, R rows of a block, C candidates, T tiles of a block, W rows of a tile.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from cmcl_ray.errors import ConfigError
from cmcl_ray.index.backends.base import Backend, Index
from cmcl_ray.index.hits import Floats, Ids
from cmcl_ray.index.raw import RawIndex, in_id_order, open_raw

QUERY_BLOCK = 256
TILE = 64


class Exact(Backend):
    """Exact inner-product search in torch.

    Args:
        block_rows: gallery rows scored at once against 256 queries, at least 64; fewer queries take more rows.
        device: where the products run; auto takes a GPU where there is one. The gallery goes there block by block.
    """

    name = "exact"

    def __init__(self, block_rows: int = 8192, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        if block_rows < TILE:
            raise ConfigError(f"block_rows is {block_rows}; expected at least {TILE}; raise it, 8192 suits most machines")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is 'cuda', but torch sees no GPU; expected one; set device to auto or cpu")
        self._block_rows = block_rows
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._device = torch.device(chosen)

    def build(self, vectors: Floats, ids: Ids) -> Index:
        """Make an index over vectors; see Backend.build."""
        return ExactIndex(*in_id_order(vectors, ids), self._block_rows, self._device)

    def open(self, folder: str, files: Mapping[str, Mapping[str, Any]]) -> Index:
        """Open an index by memory map; see Backend.open."""
        return ExactIndex(*open_raw(folder, files), self._block_rows, self._device)


class ExactIndex(RawIndex):
    """Raw vectors searched block by block.

    Args:
        vectors: (N, D) float32, rows in ascending order of id.
        ids: (N,) int64 ascending.
        block_rows: gallery rows scored at once against 256 queries.
        device: where the products run.
    """

    def __init__(self, vectors: Floats, ids: Ids, block_rows: int, device: torch.device) -> None:
        super().__init__(vectors, ids)
        self._block_rows = block_rows
        self._device = device

    def _with(self, vectors: Floats, ids: Ids) -> "ExactIndex":
        return ExactIndex(vectors, ids, self._block_rows, self._device)

    def _candidates(self, queries: Floats, count: int) -> tuple[Floats, Ids]:
        queries_QD = torch.from_numpy(queries).to(self._device)
        best_QC = torch.full((len(queries), count), -torch.inf, device=self._device)
        rows_QC = torch.full((len(queries), count), -1, dtype=torch.int64, device=self._device)
        query_block = min(len(queries), QUERY_BLOCK)
        num_rows = self._block_rows * QUERY_BLOCK // query_block
        # One buffer for all blocks: fresh memory for each would be paged in anew, at a tenth of the product's time.
        buffer = torch.empty(query_block * min(num_rows, self.count), device=self._device)
        for start in range(0, self.count, num_rows):
            block_RD = torch.from_numpy(self._vectors_ND[start : start + num_rows]).to(self._device)
            for first in range(0, len(queries), QUERY_BLOCK):
                part = slice(first, first + QUERY_BLOCK)
                shape = len(queries_QD[part]), len(block_RD)
                # Not numpy's product: its OpenBLAS keeps a second pool of threads, which competes with torch's for the cores.
                scores_QR = torch.mm(queries_QD[part], block_RD.T, out=buffer[: shape[0] * shape[1]].view(shape))
                _take_best(scores_QR, start, best_QC[part], rows_QC[part])
        return best_QC.cpu().numpy(), rows_QC.cpu().numpy().astype(np.int64, copy=False)


def _take_best(scores_QR: torch.Tensor, start: int, best_QC: torch.Tensor, rows_QC: torch.Tensor) -> None:
    """Merge a block of scores, whose first row is ``start``, into the running best of each query, in place."""
    num_tiles = -(-scores_QR.shape[1] // TILE)
    if scores_QR.shape[1] % TILE:
        scores_QR = torch.nn.functional.pad(scores_QR, (0, num_tiles * TILE - scores_QR.shape[1]), value=-torch.inf)
    # Row r of the block lies in tile r % num_tiles: maxima over the outer axis run along contiguous memory.
    tiles_QWT = scores_QR.view(-1, TILE, num_tiles)
    maxima_QT = tiles_QWT.amax(dim=1)
    num_useful = int((maxima_QT > best_QC[:, -1:]).sum(dim=1).max())
    if num_useful == 0:
        return
    # The best C scores lie in the C tiles with the largest maxima, and in those above the running floor.
    tile_QU = maxima_QT.topk(min(num_useful, best_QC.shape[1]), dim=1).indices
    inside_QWU = tiles_QWT.gather(2, tile_QU[:, None, :].expand(-1, TILE, -1))
    offset_W = torch.arange(TILE, device=scores_QR.device) * num_tiles
    inside_rows_QWU = start + offset_W[None, :, None] + tile_QU[:, None, :]
    top = torch.cat([best_QC, inside_QWU.flatten(1)], dim=1).topk(best_QC.shape[1], dim=1)
    rows_QC.copy_(torch.cat([rows_QC, inside_rows_QWU.flatten(1)], dim=1).gather(1, top.indices))
    best_QC.copy_(top.values)
