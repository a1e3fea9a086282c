"""Score calibration: the scale of one version's scores against one shard, from background queries.

Shape legend: N gallery rows, Q queries, D embedding width.
"""

import math

import numpy as np
import numpy.typing as npt

from cmcl_ray.errors import DataError, ShapeError
from cmcl_ray.index.search import Calibration

_BLOCK = 1 << 20  # numbers converted to float64 at once: 8 MB


def fit_calibration(background_queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float32]) -> Calibration:
    """Return mean and standard deviation of the inner products of all background queries with all gallery vectors.

    No score is computed: with centred covariances C and means m of both sides, mean = mq.mg and
    sd^2 = mq' Cg mq + mg' Cq mg + tr(Cq Cg). Cost (Q + N) D^2 in float64, memory a block and D^2.

    Args:
        background_queries: (Q, D), Q >= 1; 1000 or more from training data are wanted.
        gallery: (N, D), N >= 1; the vectors of the shard.

    Returns:
        The calibration; sd 1 where all scores are equal, so that they calibrate to 0.

    Raises:
        ShapeError: the widths differ.
        DataError: a side is empty or holds a value that is not finite.
    """
    if background_queries.ndim != 2 or gallery.ndim != 2 or background_queries.shape[1] != gallery.shape[1]:
        raise ShapeError(
            f"background queries have shape {background_queries.shape} and the gallery has shape {gallery.shape}; expected (Q, "
            "D) and (N, D); embed the queries with the version the shard is asked by"
        )
    query_D, query_DD = _moments(background_queries, "background queries")
    row_D, row_DD = _moments(gallery, "gallery vectors")
    variance = float(query_D @ row_DD @ query_D + row_D @ query_DD @ row_D + np.sum(query_DD * row_DD))
    sd = math.sqrt(max(variance, 0.0))
    return Calibration(float(query_D @ row_D), sd if sd > 1e-9 else 1.0)


def _moments(vectors_ND: npt.NDArray[np.float32], what: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean (D,) and covariance (D, D), divided by N, block by block."""
    count, dim = vectors_ND.shape
    step = max(1, _BLOCK // max(1, dim))
    blocks = [slice(start, start + step) for start in range(0, count, step)]
    mean_D = sum((vectors_ND[block].sum(axis=0, dtype=np.float64) for block in blocks), np.zeros(dim)) / max(1, count)
    if not count or not np.isfinite(mean_D).all():
        raise DataError(
            f"calibration has {count} {what}, mean finite: {bool(np.isfinite(mean_D).all())}; expected at least one finite "
            "vector; set the policy's calibration to none, or look for NaN in the model"
        )
    covariance_DD = np.zeros((dim, dim))
    for block in blocks:
        centred_BD = vectors_ND[block] - mean_D
        covariance_DD += centred_BD.T @ centred_BD
    return mean_D, covariance_DD / count
