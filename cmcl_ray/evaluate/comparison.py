"""Comparing methods: the spread over seeds, and whether a difference on the same queries could be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmcl_ray.errors import ShapeError

# 97.5 % points of Student's t for 1 to 30 degrees of freedom.
_T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_Z_975 = 1.959964
# Resamples drawn at once, to bound memory at this x Q indices.
_CHUNK = 64


@dataclass(frozen=True)
class Summary:
    """Values over seeds: their mean, standard deviation (n-1) and 95 % t-interval; the last three are NaN for one value."""

    mean: float
    sd: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Difference:
    """A mean difference (second minus first), its 95 % interval, and the share of resamples on the other side of 0."""

    mean: float
    low: float
    high: float
    share_opposite: float


def summarise(values: Sequence[float]) -> Summary:
    """Summarise values over seeds; the interval is mean +- t_{0.975, n-1} sd / sqrt(n).

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values were given to summarise; expected at least one, one a seed; check that the runs have scores")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(mean, math.nan, math.nan, math.nan, 1)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = _t_975(count - 1) * sd / math.sqrt(count)
    return Summary(mean, sd, mean - half, mean + half, count)


def _t_975(freedom: int) -> float:
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    # Expansion of the t quantile about the normal one (Fisher and Cornish); off by less than 1e-4 from 31 on.
    z = _Z_975
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def paired_bootstrap(
    first: npt.NDArray[np.floating], second: npt.NDArray[np.floating], *, seed: int, resamples: int = 2000
) -> Difference:
    """Tell how sure a difference between two methods on the same queries is.

    Args:
        first: (Q,) a value per query under the first method, such as 100 where its rank is 1 and 0 elsewhere.
        second: (Q,) the same queries in the same order under the second method.
        seed: of the generator that draws the queries.
        resamples: number of times Q queries are drawn with replacement, at least 1.

    Returns:
        The mean of second - first, the 2.5 % and 97.5 % points of its resampled means, and the share of these on the other side
        of 0 from the mean (a resample at 0 counts as on the other side; 1.0 where the mean is 0).

    Raises:
        ShapeError: the two differ in length, or are empty.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ShapeError(
            f"paired values have shapes {first.shape} and {second.shape}; expected two of one shape (Q,) with Q at least 1; "
            "score both methods on the same queries"
        )
    difference_Q = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    generator = np.random.default_rng([seed])
    means = np.concatenate(
        [
            difference_Q[generator.integers(len(difference_Q), size=(min(_CHUNK, resamples - done), len(difference_Q)))].mean(
                axis=1
            )
            for done in range(0, resamples, _CHUNK)
        ]
    )
    mean = float(difference_Q.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(mean, float(low), float(high), float((means * np.sign(mean) <= 0).mean()))
