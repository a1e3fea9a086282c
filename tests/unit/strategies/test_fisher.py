"""The Fisher diagonal against loops of single backward passes."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from cmcl_ray.data.feed import Batch
from cmcl_ray.models.base import DualEncoder, branch_of
from cmcl_ray.strategies.mathematics.fisher import (
    Estimator,
    anchor_log_likelihoods,
    held_weights,
    normalised_per_branch,
    squared_gradients,
)
from tests.unit.models.toys import FACTS, SPECS, Attentive, batch_of, model_of
from tests.unit.strategies.worlds import ESTIMATORS

MODELS = [*SPECS, "attentive"]
CODES = [0, 1, 2, 0, 4, 5, 2]


def double(name: str, seed: int = 3) -> tuple[DualEncoder, Batch]:
    """Return a model and a batch in float64; two images come with two captions each."""
    if name == "attentive":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: DualEncoder = Attentive(FACTS).eval()
    else:
        model = model_of(name)
    batch = batch_of(name, len(CODES), seed, codes=CODES)
    if name != "tiny":
        batch = replace(batch, image=batch.image.double(), text=batch.text.double())
    return model.double(), batch


def likelihood(
    anchor: int, asking: torch.Tensor, answers: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return the log-likelihood of one anchor's partner as the formula is read aloud."""
    asking, answers = functional.normalize(asking, dim=0), functional.normalize(answers, dim=1)
    own = scale * asking @ answers[anchor]
    others = [scale * asking @ answers[j] for j in range(len(codes)) if codes[j] != codes[anchor]]
    return own - torch.stack([own, *others]).exp().sum().log()


def squares(value: torch.Tensor, weights: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), found, strict=True)
    return {name: torch.zeros_like(weight) if gradient is None else gradient**2 for (name, weight), gradient in pairs}


def added(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def looped_per_anchor(model: DualEncoder, batch: Batch) -> dict[str, torch.Tensor]:
    weights, parts = dict(model.named_parameters()), []
    for anchor in range(len(batch.pair_id)):
        outputs = model(batch.image, batch.text)
        image, text, scale = outputs.image_raw, outputs.text_raw, outputs.logit_scale
        value = likelihood(anchor, image[anchor], text, batch.image_id, scale)
        value = (value + likelihood(anchor, text[anchor], image, batch.image_id, scale)) / 2
        parts.append(squares(value, weights))
    return added(parts)


def looped_anchor_side(model: DualEncoder, batch: Batch) -> dict[str, torch.Tensor]:
    weights, parts = dict(model.named_parameters()), []
    for anchor in range(len(batch.pair_id)):
        outputs = model(batch.image, batch.text)
        image, text, scale = outputs.image_raw, outputs.text_raw, outputs.logit_scale
        parts.append(squares(likelihood(anchor, image[anchor], text.detach(), batch.image_id, scale), weights))
        parts.append(squares(likelihood(anchor, text[anchor], image.detach(), batch.image_id, scale), weights))
    return added(parts)


LOOPS = {"per_anchor": looped_per_anchor, "anchor_side": looped_anchor_side}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    # What a normalisation or a softmax takes out again has no importance but noise of the last bits.
    noise = 1e-3 * rtol * max(float(value.max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=noise)


@every_estimator
@pytest.mark.parametrize("name", MODELS)
def test_squares_are_those_of_single_backward_passes(name: str, estimator: Estimator) -> None:
    model, batch = double(name)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    with warnings.catch_warnings():
        # Such as vmap's about operators it cannot vectorise.
        warnings.simplefilter("error")
        found = squared_gradients(model, batch, estimator)
    assert_equal(found, LOOPS[estimator](model, batch))
    reached = [key for key, value in found.items() if float(value.max()) > 1e-20]
    assert {branch_of(key) for key in reached} == {branch_of(key) for key in found}
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(before[key], weight) for key, weight in model.state_dict().items())


@every_estimator
@pytest.mark.parametrize("gradients_at_a_time", [1, 3, 100])
def test_memory_for_gradients_changes_nothing(estimator: Estimator, gradients_at_a_time: int) -> None:
    model, batch = double("shared_1")
    of_anchor = sum(weight.numel() * 8 for weight in model.parameters())
    found = squared_gradients(model, batch, estimator, gradient_bytes=gradients_at_a_time * of_anchor)
    assert_equal(found, squared_gradients(model, batch, estimator, gradient_bytes=0))


@every_estimator
def test_the_order_of_anchors_does_not_matter(estimator: Estimator) -> None:
    model, batch = double("shared_1")
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    turned = Batch(*(getattr(batch, name)[order] for name in ("image", "text", "pair_id", "image_id", "task")))
    assert_equal(squared_gradients(model, turned, estimator), squared_gradients(model, batch, estimator))


@every_estimator
def test_anchors_without_a_negative_have_no_importance(estimator: Estimator) -> None:
    model, batch = double("two_branch")
    found = squared_gradients(model, replace(batch, image_id=torch.full((len(CODES),), 4)), estimator)
    assert all(float(value.abs().max()) < 1e-25 for value in found.values())


def test_squares_of_single_gradients_are_not_the_square_of_their_mean() -> None:
    model, batch = double("two_branch")
    outputs = model(batch.image, batch.text)
    rows, columns = anchor_log_likelihoods(outputs.image_raw, outputs.text_raw, batch.image_id, outputs.logit_scale)
    of_mean = squares((rows + columns).mean() / 2, dict(model.named_parameters()))
    single = squared_gradients(model, batch, "per_anchor")
    ratio = sum(float(value.sum()) for value in of_mean.values()) / sum(
        float(value.sum()) / len(CODES) for value in single.values()
    )
    assert 0 < ratio < 0.7


def test_likelihoods_are_those_of_the_formula_and_equal_codes_are_no_negatives() -> None:
    image, text = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    codes, scale = torch.tensor(CODES), torch.tensor(4.0, dtype=torch.float64)
    rows, columns = anchor_log_likelihoods(image, text, codes, scale)
    for anchor in range(7):
        torch.testing.assert_close(rows[anchor], likelihood(anchor, image[anchor], text, codes, scale))
        torch.testing.assert_close(columns[anchor], likelihood(anchor, text[anchor], image, codes, scale))
    same = torch.ones(6, 3, dtype=torch.float64)
    rows, columns = anchor_log_likelihoods(same, same, torch.arange(6), scale)
    torch.testing.assert_close(rows, torch.full((6,), 1 / 6, dtype=torch.float64).log())


@every_estimator
def test_more_negatives_give_another_importance(estimator: Estimator) -> None:
    model, batch = double("two_branch")
    small = Batch(*(getattr(batch, name)[:3] for name in ("image", "text", "pair_id", "image_id", "task")))
    few, many = (sum(float(v.mean()) for v in squared_gradients(model, each, estimator).values()) for each in (small, batch))
    assert abs(few / 3 - many / 7) > 0.05 * many / 7


@every_estimator
def test_frozen_weights_and_the_temperature_are_not_held(estimator: Estimator) -> None:
    model = model_of("shared_1", learn_temperature=True)
    model.text_branch.requires_grad_(False)
    found = squared_gradients(model, batch_of("shared_1", 5), estimator)
    assert found.keys() == held_weights(model).keys()
    assert {branch_of(name) for name in found} == {"image", "shared"}
    assert "log_scale" not in found
    assert not any(weight.requires_grad for weight in held_weights(model).values())


# -- normalisation -----------------------------------------------------------------------------------------------------------


def raw() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = {"image_branch.a": (3, 4), "image_branch.b": (5,), "text_branch.a": (2, 3), "top.weight": (7,)}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def test_each_branch_has_the_mean_one() -> None:
    importance = raw()
    before = {name: value.clone() for name, value in importance.items()}
    scaled = normalised_per_branch(importance)
    assert scaled.keys() == importance.keys()
    for branch in ("image", "text", "shared"):
        values = torch.cat([value.flatten() for name, value in scaled.items() if branch_of(name) == branch])
        assert float(values.mean()) == pytest.approx(1, abs=1e-6)
    ratio = scaled["image_branch.a"] / importance["image_branch.a"]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    assert all(torch.equal(before[name], value) for name, value in importance.items())


def test_the_scale_of_one_branch_has_no_say() -> None:
    importance = raw()
    scaled = {name: 100 * value if name.startswith("text") else value for name, value in importance.items()}
    assert_equal(normalised_per_branch(scaled), normalised_per_branch(importance), rtol=1e-6)


def test_a_branch_without_importance_or_without_weights_stays_as_it_is() -> None:
    importance = {"image_branch.a": torch.zeros(3), "text_branch.a": torch.tensor([1.0, 3.0])}
    scaled = normalised_per_branch(importance)
    assert not scaled["image_branch.a"].any()
    assert scaled["text_branch.a"].tolist() == [0.5, 1.5]
    assert normalised_per_branch({}) == {}
