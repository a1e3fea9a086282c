"""Maps between the embedding spaces of two model versions, fitted on rows that both embed.

Every kind is ``(z - mean) matrix + shift``, renormalised. Fits run in float64.

Shape legend: N pairs, D embedding width.
"""

import io
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from cmcl_ray.errors import DataError, ShapeError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
MapKind = Literal["identity", "mean", "procrustes", "ridge", "affine"]

RIDGE = 1e-3  # strength over the mean squared singular value of the source


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A map ``z -> (z - mean) matrix + shift``.

    Args:
        matrix: (D, D) float32, applied from the right.
        shift: (D,) float32, added after the matrix.
        mean: (D,) float32, taken away before it.
    """

    matrix: Floats
    shift: Floats
    mean: Floats

    def apply(self, vectors: Floats) -> Floats:
        """Map vectors (N, D) and renormalise them to unit length, in float32; a vector mapped to zero stays zero.

        Raises:
            ShapeError: the vectors have another width than the map.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ShapeError(
                f"vectors have shape {vectors.shape}, the map takes dim {len(self.mean)}; expected (N, {len(self.mean)}); use "
                "the map fitted on vectors of the same version"
            )
        mapped_ND = (vectors - self.mean) @ self.matrix + self.shift
        norms_N1 = np.linalg.norm(mapped_ND, axis=1, keepdims=True)
        return np.asarray(mapped_ND / np.maximum(norms_N1, np.float32(1e-12)), dtype=np.float32)

    def to_bytes(self) -> bytes:
        """Return the map as the bytes of an ``.npz`` file; equal maps give equal bytes."""
        stream = io.BytesIO()
        np.savez(stream, matrix=self.matrix, shift=self.shift, mean=self.mean)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Make a map from what to_bytes returned."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return cls(stored["matrix"], stored["shift"], stored["mean"])


def compose(first: LinearMap, second: LinearMap) -> LinearMap:
    """Return the map that applies ``first``, then ``second``, without renormalising in between.

    It equals applying one after the other where the first keeps lengths (rotations); else the two differ by that renormalisation.
    """
    shift_D = (first.shift - second.mean) @ second.matrix + second.shift
    return LinearMap(first.matrix @ second.matrix, shift_D.astype(np.float32), first.mean)


def fit_map(kind: MapKind, source: Floats, target: Floats) -> LinearMap:
    """Fit a map on the same rows embedded by two versions.

    Args:
        kind: identity; mean (a shift); procrustes (a rotation or reflection); ridge (any matrix, drawn towards zero with
            r = 1e-3 tr(A'A)/D); affine (procrustes of the centred rows, and the shift between the means).
        source: (N, D) rows in the space the map starts from.
        target: (N, D) the same rows in the space it leads to.

    Raises:
        ShapeError: the two differ in shape.
        DataError: there are no rows, or a value is not finite.

    Source: Schoenemann 1966 for procrustes; mean as in SDC, ridge as the closed form of LDC.
    """
    if source.ndim != 2 or source.shape != target.shape:
        raise ShapeError(
            f"a map has source rows of shape {source.shape} and target rows of shape {target.shape}; expected (N, D) for both; "
            "embed the same rows with both versions"
        )
    finite = bool(np.isfinite(source).all() and np.isfinite(target).all())
    if not len(source) or not finite:
        raise DataError(
            f"a {kind} map was to be fitted on {len(source)} pairs, all finite: {finite}; expected at least one pair of finite "
            "vectors; keep pairs to fit on, and look for NaN in the model"
        )
    a_ND, b_ND = source.astype(np.float64), target.astype(np.float64)
    zero_D, one_DD = np.zeros(a_ND.shape[1]), np.eye(a_ND.shape[1])
    if kind == "identity":
        return _linear_map(one_DD, zero_D, zero_D)
    if kind == "mean":
        return _linear_map(one_DD, (b_ND - a_ND).mean(axis=0), zero_D)
    if kind == "procrustes":
        return _linear_map(_rotation(a_ND, b_ND), zero_D, zero_D)
    if kind == "ridge":
        gram_DD = a_ND.T @ a_ND
        # The tiny addend keeps the solve defined where every source row is zero.
        strength = RIDGE * np.trace(gram_DD) / len(zero_D) + 1e-12
        return _linear_map(np.linalg.solve(gram_DD + strength * one_DD, a_ND.T @ b_ND), zero_D, zero_D)
    a_D, b_D = a_ND.mean(axis=0), b_ND.mean(axis=0)
    return _linear_map(_rotation(a_ND - a_D, b_ND - b_D), b_D, a_D)


def _rotation(source_ND: Doubles, target_ND: Doubles) -> Doubles:
    """Return the orthogonal matrix Q that makes source Q nearest to target in squared error."""
    left_DD, _, right_DD = np.linalg.svd(source_ND.T @ target_ND)
    return np.asarray(left_DD @ right_DD)


def _linear_map(matrix_DD: Doubles, shift_D: Doubles, mean_D: Doubles) -> LinearMap:
    return LinearMap(matrix_DD.astype(np.float32), shift_D.astype(np.float32), mean_D.astype(np.float32))
