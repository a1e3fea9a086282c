"""Calibration is the mean and deviation of all scores, and undoes another scale of a shard (oracle O23)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_ray.errors import DataError, ShapeError
from cmcl_ray.index.backends.exact import Exact
from cmcl_ray.index.hits import merge_hits
from cmcl_ray.index.search import Calibration, RoutedShard, search_shards
from cmcl_ray.policies.mathematics import calibration
from cmcl_ray.policies.mathematics.calibration import fit_calibration
from tests.unit.policies.worlds import unit


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), queries=st.integers(1, 7), rows=st.integers(1, 30), offset=st.floats(0, 50))
def test_mean_and_deviation_of_all_scores(seed, queries, rows, offset):
    rng = np.random.default_rng(seed)
    asked = (rng.standard_normal((queries, 4)) + offset).astype(np.float32)
    gallery = (rng.standard_normal((rows, 4)) + offset).astype(np.float32)
    scores = asked.astype(np.float64) @ gallery.astype(np.float64).T
    found = fit_calibration(asked, gallery)
    assert found.mean == pytest.approx(scores.mean(), abs=1e-6)
    assert found.sd == pytest.approx(scores.std() if scores.size > 1 else 1.0, rel=1e-5)


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    asked, gallery = unit(rng.standard_normal((5, 8))), unit(rng.standard_normal((37, 8)))
    whole = fit_calibration(asked, gallery)
    monkeypatch.setattr(calibration, "_BLOCK", 3 * 8)
    cut = fit_calibration(asked, gallery)
    assert (cut.mean, cut.sd) == (pytest.approx(whole.mean, abs=1e-12), pytest.approx(whole.sd, abs=1e-12))


def test_equal_scores_calibrate_to_zero():
    asked, gallery = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
    found = fit_calibration(asked, gallery)
    assert found == Calibration(4.0, 1.0)


def test_what_gives_no_scale_is_refused():
    good = np.ones((3, 4), np.float32)
    with pytest.raises(ShapeError, match=r"background queries have shape \(3, 4\) and the gallery has shape \(3, 3\)"):
        fit_calibration(good, good[:, :3])
    with pytest.raises(DataError, match=r"calibration has 0 background queries.*set the policy's calibration to none"):
        fit_calibration(good[:0], good)
    with pytest.raises(DataError, match=r"calibration has 3 gallery vectors, mean finite: False"):
        fit_calibration(good, good * np.nan)


class Scaled:
    """An index whose model scores on another scale."""

    def __init__(self, index, factor, shift):
        self._index, self._factor, self._shift = index, factor, shift

    def search(self, queries, k):
        hits = self._index.search(queries, k)
        return type(hits)(hits.ids, (hits.scores * self._factor + self._shift).astype(np.float32))


def test_a_shard_of_another_scale_wins_or_loses_only_without_calibration():
    rng = np.random.default_rng(23)
    galleries = [unit(rng.standard_normal((1000, 64))) for _ in range(2)]
    asked = [unit(x + 1.2 * rng.standard_normal(x.shape) / 8) for x in galleries]
    queries = np.concatenate(asked)
    plain = [Exact(device="cpu").build(x, np.arange(1000) + 1000 * task) for task, x in enumerate(galleries)]
    scales = [fit_calibration(queries[::4], x) for x in galleries]
    scaled = Calibration(0.6 * scales[1].mean - 0.05, 0.6 * scales[1].sd)
    indexes = [plain[0], Scaled(plain[1], 0.6, -0.05)]

    def second_task(parts):
        ids = merge_hits(search_shards(parts, 10), 10).ids
        return ids, 100 * (ids[1000:, 0] == np.arange(1000, 2000)).mean()

    _, raw_recall = second_task([RoutedShard(index, queries) for index in indexes])
    expected, best = second_task([RoutedShard(*part) for part in zip(plain, [queries] * 2, scales, strict=True)])
    calibrated = [RoutedShard(indexes[0], queries, scales[0]), RoutedShard(indexes[1], queries, scaled)]
    found, recall = second_task(calibrated)
    assert raw_recall == pytest.approx(13.3, abs=8)
    assert best == pytest.approx(99.6, abs=1)
    assert recall == pytest.approx(best, abs=0.2)
    # Rounding to float32 may swap near-equal scores of the two shards, no more.
    assert (found == expected).mean() > 0.999
    for part, hits in zip(calibrated, search_shards(calibrated, 10), strict=True):
        np.testing.assert_array_equal(hits.ids, part.index.search(queries, 10).ids)
