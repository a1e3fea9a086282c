"""Shards of several versions are asked with their own queries; calibration keeps ranks inside a shard."""

import numpy as np
import pytest

from cmcl_ray.index.backends.exact import Exact
from cmcl_ray.index.hits import merge_hits
from cmcl_ray.index.search import Calibration, RoutedShard, search_shards


def test_every_shard_gets_its_own_queries_and_calibration():
    rng = np.random.default_rng(0)
    galleries = [rng.standard_normal((9, 4)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32)]
    queries = [rng.standard_normal((2, 4)).astype(np.float32), rng.standard_normal((2, 3)).astype(np.float32)]
    ids = [np.arange(9), np.arange(100, 105)]
    calibrations = [Calibration(0.5, 2.0), Calibration(-1.0, 0.25)]
    indexes = [Exact().build(vectors, some) for vectors, some in zip(galleries, ids, strict=True)]
    parts = [RoutedShard(*part) for part in zip(indexes, queries, calibrations, strict=True)]
    found = search_shards(parts, 6)
    scores = np.concatenate([(q @ v.T - c.mean) / c.sd for q, v, c in zip(queries, galleries, calibrations, strict=True)], axis=1)
    order = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(merge_hits(found, 6).ids, np.concatenate(ids)[order[:, :6]])
    for part, hits in zip(parts, found, strict=True):
        raw = part.index.search(part.queries, 6)
        np.testing.assert_array_equal(hits.ids, raw.ids)
    assert np.isneginf(found[1].scores[:, 5]).all()


def test_without_calibration_scores_stay_bit_for_bit():
    index = Exact().build(np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32), np.arange(9))
    queries = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(search_shards([RoutedShard(index, queries)], 4)[0].scores, index.search(queries, 4).scores)


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_calibration_that_would_reorder_is_refused(mean, sd):
    with pytest.raises(ValueError, match=rf"mean {mean} and sd {sd}; expected finite numbers and sd > 0"):
        Calibration(mean, sd)
