"""Drift is split as the toy drifts of the methods page demand."""

import numpy as np
import pytest

from cmcl_ray.errors import ShapeError
from cmcl_ray.evaluate.drift import measure_drift

DIM = 12
NUM = 400


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rotation(rng, strength=0.9):
    orthogonal, upper = np.linalg.qr(np.eye(DIM) + strength * rng.normal(0, DIM**-0.5, (DIM, DIM)))
    return orthogonal * np.sign(np.diag(upper))


def pairs(rng, count=NUM):
    image = unit(rng.normal(0, DIM**-0.5, (count, DIM)))
    return image, unit(image + 0.8 * rng.normal(0, DIM**-0.5, (count, DIM)))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_common_rotation_is_common_and_others_are_not(seed):
    rng = np.random.default_rng([seed])
    image, text = pairs(rng)
    first, second = rotation(rng), rotation(rng)
    common = measure_drift(image, image @ first, text, text @ first)
    assert common.differential == pytest.approx(0, abs=0.02)
    assert common.common == pytest.approx(1, abs=0.02)
    for new_image, new_text in ((image @ first, text), (image, text @ first), (image @ first, text @ second)):
        apart = measure_drift(image, new_image, text, new_text)
        assert apart.differential > 0.2
        assert apart.residual == pytest.approx(0, abs=1e-9)
        assert apart.common + apart.differential + apart.residual == pytest.approx(1)


def test_a_common_shift_is_common_and_noise_is_residual():
    rng = np.random.default_rng([3])
    image, text = pairs(rng)
    shift = 2 * unit(rng.normal(size=(1, DIM)))
    assert measure_drift(image, unit(image + shift), text, unit(text + shift)).differential < 0.05
    noisy = measure_drift(image, unit(rng.normal(size=(NUM, DIM))), text, unit(rng.normal(size=(NUM, DIM))))
    assert noisy.residual > 0.4


def test_distances_and_cosines_of_unit_vectors_agree():
    rng = np.random.default_rng([4])
    image, text = pairs(rng, 30)
    drift = measure_drift(image, image @ rotation(rng), text.astype(np.float32), text.astype(np.float32))
    assert drift.image == pytest.approx(2 - 2 * drift.cosine_image)
    assert (drift.text, drift.cosine_text) == (0.0, pytest.approx(1.0))


def test_shares_are_left_out_where_they_cannot_be_told():
    rng = np.random.default_rng([5])
    image, text = pairs(rng)
    turned = image @ rotation(rng)
    still = measure_drift(image, image, text, text)
    assert (still.image, still.common, still.differential, still.residual) == (0.0, None, None, None)
    enough = 2 * 4 * DIM
    assert measure_drift(image[:enough], turned[:enough], text[:enough], text[:enough]).common is not None
    few = measure_drift(image[: enough - 2], turned[: enough - 2], text[: enough - 2], text[: enough - 2])
    assert few.image > 0
    assert (few.common, few.differential, few.residual) == (None, None, None)


def test_messages():
    ones = np.ones((4, 3))
    with pytest.raises(ShapeError, match=r"shapes \(4, 3\), \(4, 3\), \(5, 3\), \(4, 3\); expected four of one shape"):
        measure_drift(ones, ones, np.ones((5, 3)), ones)
    with pytest.raises(ShapeError, match=r"with N at least 1; pass the same pairs"):
        measure_drift(ones[:0], ones[:0], ones[:0], ones[:0])
