"""Maps recover what they can express (oracle O21) and are chosen for what they cannot (O30)."""

import numpy as np
import pytest

from cmcl_ray.errors import DataError, ShapeError
from cmcl_ray.policies.mathematics.maps import LinearMap, compose, fit_map
from tests.unit.policies.worlds import known_recall, rotation, unit

KINDS = ["identity", "mean", "procrustes", "ridge", "affine"]
DIM, COUNT = 6, 50


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def raw(linear, rows):
    """Apply a map without renormalising."""
    return (rows - linear.mean) @ linear.matrix + linear.shift


def test_each_kind_recovers_what_it_can_express(rng):
    rows = rng.standard_normal((COUNT, DIM)).astype(np.float32)
    turn, shift = rotation(rng, DIM, 1.0), rng.standard_normal(DIM)
    free = rng.standard_normal((DIM, DIM))
    np.testing.assert_allclose(raw(fit_map("procrustes", rows, rows @ turn), rows), rows @ turn, atol=1e-5)
    np.testing.assert_allclose(raw(fit_map("mean", rows, rows + shift), rows), rows + shift, atol=1e-5)
    np.testing.assert_allclose(raw(fit_map("affine", rows, rows @ turn + shift), rows), rows @ turn + shift, atol=1e-5)
    matrix = fit_map("procrustes", rows, rows @ turn).matrix
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(DIM), atol=1e-5)
    # Ridge draws any map a little towards zero: by about its strength, a thousandth.
    np.testing.assert_allclose(raw(fit_map("ridge", rows, rows @ free), rows), rows @ free, atol=2e-2)


def test_ridge_is_its_closed_form(rng):
    a, b = rng.standard_normal((COUNT, DIM)), rng.standard_normal((COUNT, DIM))
    r = 1e-3 * np.trace(a.T @ a) / DIM
    expected = np.linalg.inv(a.T @ a + r * np.eye(DIM)) @ a.T @ b
    np.testing.assert_allclose(fit_map("ridge", a.astype(np.float32), b.astype(np.float32)).matrix, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_data_give_the_identity_map(rng, kind):
    rows = unit(rng.standard_normal((COUNT, DIM)))
    np.testing.assert_allclose(fit_map(kind, rows, rows).apply(rows), rows, atol=1e-3 if kind == "ridge" else 1e-6)


def test_mapped_vectors_have_unit_length_and_zero_stays_zero(rng):
    rows = rng.standard_normal((COUNT, DIM)).astype(np.float32)
    mapped = fit_map("affine", rows, rng.standard_normal((COUNT, DIM)).astype(np.float32)).apply(rows)
    assert mapped.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)
    zero = np.zeros((2, DIM), np.float32)
    np.testing.assert_array_equal(fit_map("ridge", zero, zero).apply(rows), np.zeros_like(rows))


def test_composed_steps_equal_the_direct_map_for_rotations(rng):
    rows = unit(rng.standard_normal((COUNT, DIM)))
    middle = (rows @ rotation(rng, DIM, 1.0)).astype(np.float32)
    last = (middle @ rotation(rng, DIM, 1.0)).astype(np.float32)
    for kind in ("procrustes", "affine"):
        first, second = fit_map(kind, rows, middle), fit_map(kind, middle, last)
        both = compose(first, second)
        np.testing.assert_allclose(both.apply(rows), fit_map(kind, rows, last).apply(rows), atol=1e-5)
        np.testing.assert_allclose(both.apply(rows), second.apply(first.apply(rows)), atol=1e-5)


def test_a_map_survives_storing_and_equal_maps_give_equal_bytes(rng):
    rows, target = rng.standard_normal((2, COUNT, DIM)).astype(np.float32)
    stored = fit_map("affine", rows, target).to_bytes()
    assert stored == fit_map("affine", rows, target).to_bytes()
    np.testing.assert_array_equal(LinearMap.from_bytes(stored).apply(rows), fit_map("affine", rows, target).apply(rows))


def test_what_cannot_be_fitted_or_mapped_is_refused(rng):
    rows = rng.standard_normal((COUNT, DIM)).astype(np.float32)
    with pytest.raises(ShapeError, match=r"source rows of shape \(50, 6\) and target rows of shape \(50, 5\); expected \(N, D\)"):
        fit_map("affine", rows, rows[:, :5])
    with pytest.raises(DataError, match=r"a ridge map was to be fitted on 0 pairs, all finite: True; expected at least one pair"):
        fit_map("ridge", rows[:0], rows[:0])
    with pytest.raises(DataError, match=r"on 50 pairs, all finite: False"):
        fit_map("mean", rows, rows * np.nan)
    with pytest.raises(ShapeError, match=r"vectors have shape \(50, 5\), the map takes dim 6"):
        fit_map("mean", rows, rows).apply(rows[:, :5])


# O30: a stale gallery mapped by maps fitted on pairs of another task; stale, mean, ridge, procrustes, affine, reindex.
TRANSPORT = {
    ("translation", 0.5): (91.6, 98.6, 87.6, 90.0, 97.0, 99.1),
    ("translation", 2.0): (6.4, 40.1, 2.1, 9.2, 22.1, 98.9),
    ("rotation", 0.2): (94.5, 92.1, 99.2, 99.2, 99.2, 99.2),
    ("rotation", 0.6): (15.1, 13.8, 99.2, 99.2, 99.2, 99.2),
    ("linear", 0.6): (85.4, 78.7, 94.3, 95.4, 94.0, 94.4),
    # Given as 0.1 in the table this is taken from; the 0.3 of O29 gives its figures, 0.1 would leave the stale gallery at 95.
    ("non-linear", 0.3): (29.6, 25.1, 73.7, 77.9, 72.1, 74.1),
}
COLUMNS = ("identity", "mean", "ridge", "procrustes", "affine")


def drifted(rng, kind, strength):
    dim = 64
    if kind == "translation":
        shift = strength * unit(rng.standard_normal((1, dim)))
        return lambda z: unit(z + shift)
    if kind == "rotation":
        turn = rotation(rng, dim, 2 * strength)
        return lambda z: unit(z @ turn)
    if kind == "linear":
        free = np.eye(dim) + strength * rng.standard_normal((dim, dim)) / 8
        return lambda z: unit(z @ free)
    first, second = rng.standard_normal((2, dim, dim)) / 8
    return lambda z: unit(z + strength * np.tanh(6 * z @ first) @ second)


def transport_row(kind, strength, seeds):
    figures = []
    for seed in range(seeds):
        rng = np.random.default_rng([30, seed])
        drift, pairs = drifted(rng, kind, strength), []
        for _ in range(2):
            x = unit(rng.standard_normal((1000, 64)) / 8 + 0.15 * rng.standard_normal(64))
            pairs.append((x, unit(x + 0.8 * rng.standard_normal((1000, 64)) / 8)))
        (x, y), (other, _) = pairs
        maps = [fit_map(name, other, drift(other)) for name in COLUMNS]
        figures.append([known_recall(drift(y), linear.apply(x)) for linear in maps] + [known_recall(drift(y), drift(x))])
    return dict(zip((*COLUMNS, "reindex"), np.mean(figures, axis=0), strict=True))


@pytest.mark.parametrize(("kind", "strength"), list(TRANSPORT), ids=str)
def test_transport_by_other_tasks_pairs(kind, strength):
    found = transport_row(kind, strength, seeds=5)
    best = max(("mean", "ridge", "procrustes", "affine"), key=lambda name: found[name])
    if kind == "translation":
        assert best == "mean"
        assert found["ridge"] < found["identity"]
    else:
        assert best in ("ridge", "procrustes", "affine")
        assert found["mean"] < found["identity"]
    for name, expected in zip((*COLUMNS, "reindex"), TRANSPORT[kind, strength], strict=True):
        assert found[name] == pytest.approx(expected, abs=8 if expected <= 95 else 2), name
