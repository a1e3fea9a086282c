"""Exact search with faiss: the same files and the same answers as ``exact``, on the raw array without an index object.

``faiss.knn`` is the kernel behind IndexFlatIP; called on the array itself it searches a memory-mapped file as it lies.
"""

import threading
from collections.abc import Mapping
from typing import Any

from cmcl_ray.errors import ConfigError
from cmcl_ray.index.backends.base import Backend, Index
from cmcl_ray.index.hits import Floats, Ids
from cmcl_ray.index.raw import RawIndex, in_id_order, open_raw

# faiss reads its threshold from a global; the lock keeps two searches from restoring each other's value. One search at a time
# costs little, since faiss uses all threads itself.
_TUNING = threading.Lock()


class Flat(Backend):
    """Exact inner-product search in faiss (IndexFlatIP's kernel); needs the extra ``cpu`` or ``gpu``."""

    name = "flat"

    def __init__(self) -> None:
        _faiss()

    def build(self, vectors: Floats, ids: Ids) -> Index:
        """Make an index over vectors; see Backend.build."""
        return FlatIndex(*in_id_order(vectors, ids))

    def open(self, folder: str, files: Mapping[str, Mapping[str, Any]]) -> Index:
        """Open an index by memory map; see Backend.open."""
        return FlatIndex(*open_raw(folder, files))


class FlatIndex(RawIndex):
    """Raw vectors searched by faiss."""

    def _with(self, vectors: Floats, ids: Ids) -> "FlatIndex":
        return FlatIndex(vectors, ids)

    def _candidates(self, queries: Floats, count: int) -> tuple[Floats, Ids]:
        faiss = _faiss()
        with _TUNING:
            before = faiss.cvar.distance_compute_blas_threshold
            # By default faiss 1.15 takes the matrix product only from queries x dim = 128,000 on (older ones: from 20 queries);
            # below that it is 5 times slower at 256 queries of width 256.
            faiss.cvar.distance_compute_blas_threshold = 1
            try:
                scores_QC, rows_QC = faiss.knn(queries, self._vectors_ND, count, metric=faiss.METRIC_INNER_PRODUCT)
            finally:
                faiss.cvar.distance_compute_blas_threshold = before
        return scores_QC, rows_QC


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"backend 'flat' needs faiss, which cannot be imported ({error}); expected faiss-cpu or a faiss-gpu build; run "
            "`pip install cmcl-ray[cpu]`, or choose the backend exact"
        ) from None
    return faiss
