"""Losses against loops, known values, and who must never be whose negative. All in one process; see test_ranks.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.errors import ConfigError
from cmcl_ray.models.losses.base import Loss, Matched, match
from cmcl_ray.models.losses.info_nce import InfoNCE
from cmcl_ray.models.losses.triplet import Triplet

SCALE = torch.tensor(5.0, dtype=torch.float64)
LOSSES = {"info_nce": InfoNCE(), "triplet_sum": Triplet(0.3), "triplet_hardest": Triplet(0.3, "hardest")}
every_loss = pytest.mark.parametrize("name", list(LOSSES))


def vectors(count: int, seed: int, dim: int = 5) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matched_of(image: torch.Tensor, text: torch.Tensor, codes: list[int], tasks: list[int], cross: bool) -> Matched:
    """Match in float64: the twin of match(), which is held against it below."""
    image, text = functional.normalize(image, dim=1), functional.normalize(text, dim=1)
    count = len(codes)
    negative = [[codes[i] != codes[j] and (cross or tasks[i] == tasks[j]) for j in range(count)] for i in range(count)]
    return Matched(image @ text.T, text @ image.T, torch.arange(count), torch.tensor(negative).reshape(count, count))


def looped(name: str, matched: Matched) -> torch.Tensor:
    """Return the loss as its formula is read aloud, anchor by anchor."""
    total = torch.zeros((), dtype=torch.float64)
    for scores in (matched.image_to_text, matched.text_to_image):
        for i in range(len(scores)):
            own = scores[i, i]
            others = [scores[i, j] for j in range(len(scores)) if matched.negative[i, j]]
            if name == "info_nce":
                total = total + (torch.stack([own, *others]).mul(SCALE).exp().sum().log() - SCALE * own) / 2
            else:
                costs = [(0.3 + other - own).clamp(min=0) for other in others] or [torch.zeros(())]
                total = total + (max(costs) if name == "triplet_hardest" else sum(costs))
    return total / len(matched.target)


@every_loss
@given(codes=st.lists(st.integers(0, 4), min_size=1, max_size=8), tasks=st.data(), seed=st.integers(0, 99), cross=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_loss_and_its_gradient_are_those_of_a_loop(
    name: str, codes: list[int], tasks: st.DataObject, seed: int, cross: bool
) -> None:
    # Pairs of one image are of one task.
    task_of = tasks.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5))
    image, text = vectors(len(codes), seed).requires_grad_(), vectors(len(codes), seed + 1000).requires_grad_()
    matched = matched_of(image, text, codes, [task_of[code] for code in codes], cross)
    expected, found = looped(name, matched), LOSSES[name](matched, SCALE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(found, image, text), gradients(expected, image, text), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    found = (
        torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
    )
    return [torch.zeros_like(one) if got is None else got for one, got in zip(inputs, found, strict=True)]


@pytest.mark.parametrize("cross", [True, False])
def test_matching_scores_own_rows_and_marks_who_is_a_negative(cross: bool) -> None:
    image, text = vectors(5, 1), vectors(5, 2)
    codes, tasks = [3, 1, 3, 0, 7], [0, 1, 0, 1, 0]
    found = match(image, text, torch.tensor(codes), torch.tensor(tasks), cross)
    expected = matched_of(image, text, codes, tasks, cross)
    assert found.image_to_text.dtype == torch.float32
    torch.testing.assert_close(found.image_to_text.double(), expected.image_to_text, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.text_to_image.double(), expected.text_to_image, rtol=0, atol=1e-6)
    assert torch.equal(found.target, expected.target)
    assert torch.equal(found.negative, expected.negative)


def test_scores_of_half_precision_outputs_are_taken_in_float32() -> None:
    image, text = vectors(4, 1).bfloat16(), vectors(4, 2).bfloat16()
    codes = torch.arange(4)
    found, wide = (match(*values, codes, codes, True) for values in ((image, text), (image.float(), text.float())))
    assert torch.equal(found.image_to_text, wide.image_to_text)
    assert torch.equal(found.text_to_image, wide.text_to_image)


# -- known values (oracles O5, O7, O15) ---------------------------------------------------------------------------------------


def all_distinct(image: torch.Tensor, text: torch.Tensor) -> Matched:
    return matched_of(image, text, list(range(len(image))), [0] * len(image), True)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_embeddings_give_the_log_of_their_number(count: int) -> None:
    same = torch.ones(count, 3, dtype=torch.float64)
    assert float(InfoNCE()(all_distinct(same, same), SCALE)) == pytest.approx(math.log(count), abs=1e-12)


def test_orthonormal_pairs_give_their_known_value() -> None:
    basis = torch.eye(16, dtype=torch.float64)
    found = float(InfoNCE()(all_distinct(basis, basis), torch.tensor(2.0)))
    assert found == pytest.approx(math.log(1 + 15 * math.exp(-2)), abs=1e-12)
    assert found == pytest.approx(1.1086, abs=1e-4)


@every_loss
def test_the_order_of_pairs_does_not_matter(name: str) -> None:
    image, text = vectors(6, 1), vectors(6, 2)
    codes, tasks, order = [0, 1, 1, 2, 3, 3], [0, 0, 0, 1, 1, 1], [4, 2, 0, 5, 1, 3]
    found = LOSSES[name](matched_of(image, text, codes, tasks, False), SCALE)
    turned = matched_of(image[order], text[order], [codes[i] for i in order], [tasks[i] for i in order], False)
    torch.testing.assert_close(LOSSES[name](turned, SCALE), found, rtol=1e-12, atol=0)


@every_loss
def test_images_and_texts_have_the_same_part(name: str) -> None:
    image, text = vectors(6, 1), vectors(6, 2)
    torch.testing.assert_close(
        LOSSES[name](all_distinct(image, text), SCALE), LOSSES[name](all_distinct(text, image), SCALE), rtol=1e-12, atol=0
    )


@given(st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_hardest_negative_is_at_most_the_sum_and_equal_for_two(count: int, seed: int) -> None:
    matched = all_distinct(vectors(count, seed), vectors(count, seed + 1000))
    largest, total = LOSSES["triplet_hardest"](matched, SCALE), LOSSES["triplet_sum"](matched, SCALE)
    assert largest <= total + 1e-12
    if count == 2:
        torch.testing.assert_close(largest, total, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["triplet_sum", "triplet_hardest"])
def test_pairs_apart_by_more_than_the_margin_cost_nothing(name: str) -> None:
    basis = torch.eye(5, dtype=torch.float64).requires_grad_()
    loss = LOSSES[name](all_distinct(basis, basis), SCALE)
    assert loss.item() == 0
    assert not gradients(loss, basis)[0].any()


def test_equal_scores_cost_the_margin_a_negative() -> None:
    same = torch.ones(6, 3, dtype=torch.float64)
    assert float(LOSSES["triplet_sum"](all_distinct(same, same), SCALE)) == pytest.approx(2 * 5 * 0.3)
    assert float(LOSSES["triplet_hardest"](all_distinct(same, same), SCALE)) == pytest.approx(2 * 0.3)


@every_loss
def test_captions_of_one_image_never_push_each_other_away(name: str) -> None:
    image, text = vectors(5, 1), vectors(5, 2)
    # The twin is as near as the partner itself, so that it would be the hardest negative.
    image[3], text[3] = image[0], text[0]
    matched = matched_of(image, text, [0, 1, 2, 0, 4], [0] * 5, True)
    scores = [each.clone().requires_grad_() for each in (matched.image_to_text, matched.text_to_image)]
    loss = LOSSES[name](Matched(*scores, matched.target, matched.negative), SCALE)
    for gradient in gradients(loss, *scores):
        assert gradient[0, 3] == gradient[3, 0] == 0
        assert (gradient.diagonal() <= 0).all()
        assert gradient[0, 1] >= 0
        assert gradient.abs().sum() > 0


@every_loss
def test_within_a_task_no_other_task_has_any_say(name: str) -> None:
    codes, tasks = [0, 1, 2, 3, 4], [0, 1, 0, 1, 0]
    image, text = vectors(5, 1), vectors(5, 2)

    def gradient_of_task_1(changed: float, cross: bool) -> torch.Tensor:
        moved, words = image.clone(), text.clone()
        # An item of task 0.
        moved[2] += changed
        words[2] -= changed
        moved.requires_grad_()
        words.requires_grad_()
        loss = LOSSES[name](matched_of(moved, words, codes, tasks, cross), SCALE)
        return torch.cat(gradients(loss, moved, words))[[1, 3, 6, 8]]

    assert torch.equal(gradient_of_task_1(0.0, cross=False), gradient_of_task_1(0.7, cross=False))
    assert not torch.allclose(gradient_of_task_1(0.0, cross=True), gradient_of_task_1(0.7, cross=True), atol=1e-6)


@every_loss
def test_a_batch_without_any_negative_costs_nothing_and_stays_finite(name: str) -> None:
    image, text = vectors(3, 1).requires_grad_(), vectors(3, 2).requires_grad_()
    loss = LOSSES[name](matched_of(image, text, [5, 5, 5], [0] * 3, True), SCALE)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in gradients(loss, image, text):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_the_scale_learns_from_info_nce_and_plays_no_part_in_triplets() -> None:
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    matched = all_distinct(vectors(4, 1), vectors(4, 2))
    (gradient,) = torch.autograd.grad(InfoNCE()(matched, scale), scale)
    assert torch.isfinite(gradient)
    assert gradient != 0
    assert torch.equal(Triplet()(matched, scale), Triplet()(matched, 2 * scale))


def test_losses_are_found_by_name() -> None:
    def built(name: str, **params: object) -> Loss:
        return build_component(ComponentSpec("loss", name, params, "loss"))

    assert isinstance(built("info_nce"), InfoNCE)
    matched = all_distinct(vectors(4, 1), vectors(4, 2))
    found = built("triplet", margin=0.3, negatives="hardest")(matched, SCALE)
    assert torch.equal(found, LOSSES["triplet_hardest"](matched, SCALE))
    with pytest.raises(ConfigError, match=r"loss: loss.margin is 0.0; expected a cosine above 0, such as 0.2"):
        built("triplet", margin=0.0)
    with pytest.raises(
        ConfigError, match=r"loss.negatives is 'hard'; did you mean 'hardest'\?; expected one of 'sum', 'hardest'"
    ):
        built("triplet", negatives="hard")
