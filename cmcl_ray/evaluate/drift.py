"""How far each branch moved between two model versions, and how much of it both branches did together.

Of the squared drift e = e_image + e_text, one rigid map shared by both branches explains ``common``, one map a branch explains
``differential`` more, and ``residual`` is what no rigid map explains; the three sum to 1. Decide on ``differential``: near 0
the branches moved together, which favours re-embedding; above it an untouched gallery loses less than it seems.

Shape legend: N pairs, D embedding width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmcl_ray.errors import ShapeError

Vectors = npt.NDArray[np.floating]

NO_DRIFT = 1e-8
PAIRS_PER_DIM = 4


@dataclass(frozen=True)
class Drift:
    """Drift between two versions on one set of pairs.

    Args:
        image: mean squared distance of an image's two vectors, 0 (did not move) to 4.
        text: the same for texts.
        cosine_image: mean cosine of an image's two vectors, 1 (did not move) to -1.
        cosine_text: the same for texts.
        common: share of the drift explained by one rigid map for both branches; None where it cannot be told.
        differential: further share explained by a rigid map a branch; None where it cannot be told.
        residual: share no rigid map explains; None where it cannot be told.
    """

    image: float
    text: float
    cosine_image: float
    cosine_text: float
    common: float | None
    differential: float | None
    residual: float | None


def measure_drift(old_image: Vectors, new_image: Vectors, old_text: Vectors, new_text: Vectors) -> Drift:
    """Measure the drift of both branches and split it into common, differential and residual shares.

    Maps z -> (z - m) Q + m' with Q orthogonal are fitted on the pairs at even positions and judged on those at odd ones. Give
    one pair an image, or the same image stands in both halves.

    Args:
        old_image: (N, D) unit vectors of the older version.
        new_image: (N, D) of the newer version, same images.
        old_text: (N, D) of the older version; row i belongs to image row i.
        new_text: (N, D) of the newer version, same texts.

    Returns:
        The drift; the shares are None where the fitting half has fewer than 4 x D pairs or nothing moved (e < 1e-8).

    Raises:
        ShapeError: the four arrays differ in shape, or hold no pair.
    """
    shapes = [array.shape for array in (old_image, new_image, old_text, new_text)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or not shapes[0][0]:
        raise ShapeError(
            f"drift was asked for arrays of shapes {', '.join(map(str, shapes))}; expected four of one shape (N, D) with N at "
            "least 1; pass the same pairs embedded by both versions"
        )
    images, texts = (_pair(old_image, new_image), _pair(old_text, new_text))
    shares = _shares(images, texts)
    return Drift(_squared(*images), _squared(*texts), _cosine(*images), _cosine(*texts), *(shares or (None, None, None)))


_Pair = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _pair(old: Vectors, new: Vectors) -> _Pair:
    return np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)


def _squared(old_ND: npt.NDArray[np.float64], new_ND: npt.NDArray[np.float64]) -> float:
    return float(np.square(new_ND - old_ND).sum(axis=1).mean())


def _cosine(old_ND: npt.NDArray[np.float64], new_ND: npt.NDArray[np.float64]) -> float:
    norms_N = np.linalg.norm(old_ND, axis=1) * np.linalg.norm(new_ND, axis=1)
    return float(((old_ND * new_ND).sum(axis=1) / np.maximum(norms_N, 1e-12)).mean())


def _shares(images: _Pair, texts: _Pair) -> tuple[float, float, float] | None:
    fit, judged = slice(0, None, 2), slice(1, None, 2)
    num_fit, dim = images[0][fit].shape
    if num_fit < PAIRS_PER_DIM * dim:
        return None
    total = sum(_squared(old[judged], new[judged]) for old, new in (images, texts))
    if total < NO_DRIFT:
        return None
    both = [np.concatenate([image[fit], text[fit]]) for image, text in zip(images, texts, strict=True)]
    shared = _Rigid.fitted(both[0], both[1])
    own = [_Rigid.fitted(old[fit], new[fit]) for old, new in (images, texts)]
    rest_shared = sum(_squared(shared(old[judged]), new[judged]) for old, new in (images, texts))
    rest_own = sum(_squared(rigid(old[judged]), new[judged]) for rigid, (old, new) in zip(own, (images, texts), strict=True))
    return 1 - rest_shared / total, (rest_shared - rest_own) / total, rest_own / total


@dataclass(frozen=True)
class _Rigid:
    """A map z -> (z - m) Q + m' with orthogonal Q (D, D)."""

    mean_D: npt.NDArray[np.float64]
    rotation_DD: npt.NDArray[np.float64]
    target_D: npt.NDArray[np.float64]

    @classmethod
    def fitted(cls, old_ND: npt.NDArray[np.float64], new_ND: npt.NDArray[np.float64]) -> "_Rigid":
        """Solve the orthogonal Procrustes problem (Schoenemann 1966) on centred vectors."""
        mean_D, target_D = old_ND.mean(axis=0), new_ND.mean(axis=0)
        left, _, right = np.linalg.svd((old_ND - mean_D).T @ (new_ND - target_D))
        return cls(mean_D, left @ right, target_D)

    def __call__(self, vectors_ND: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (vectors_ND - self.mean_D) @ self.rotation_DD + self.target_D
