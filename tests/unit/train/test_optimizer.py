"""AdamW and its schedule against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cmcl_ray.train.optimizer import EPS, make_optimizer, rate_at, set_rate
from cmcl_ray.train.settings import TrainSettings

SETTINGS = TrainSettings(lr=0.3, warmup_share=0.2, final_lr_share=0.1)


def test_the_rate_rises_in_equal_steps_and_then_falls_along_a_half_cosine() -> None:
    """20 steps, 4 of them warm-up: by hand at the ends and in the middle."""
    rates = [rate_at(step, 20, SETTINGS) for step in range(20)]
    assert rates[:4] == pytest.approx([0.075, 0.15, 0.225, 0.3])
    assert rates[4] == pytest.approx(0.3)
    assert rates[12] == pytest.approx(0.03 + 0.27 / 2)
    assert rates[19] == pytest.approx(0.03 + 0.27 * (1 + math.cos(math.pi * 15 / 16)) / 2)


@given(
    st.integers(1, 200),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(1e-6, 10),
)
def test_the_rate_stays_between_its_ends(steps: int, warmup: float, final: float, lr: float) -> None:
    """Positive, at most lr, never below the last one after the warm-up, and rising then falling."""
    settings = TrainSettings(lr=lr, warmup_share=warmup, final_lr_share=final)
    rates = [rate_at(step, steps, settings) for step in range(steps)]
    top = int(steps * warmup)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(rate >= lr * final * (1 - 1e-12) for rate in rates[top:])


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert rate_at(0, 7, TrainSettings(lr=0.5, warmup_share=0.0)) == 0.5
    # A task of one step: the share of it that is warm-up rounds to no step.
    assert rate_at(0, 1, TrainSettings(lr=0.5, warmup_share=0.5)) == 0.5


def test_set_rate_reaches_every_group() -> None:
    optimizer = make_optimizer(nn.Linear(3, 2), TrainSettings(weight_decay=0.1))
    set_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_adamw_takes_the_steps_of_its_definition() -> None:
    """Three steps on a matrix and a bias against the update rule written out; only the matrix decays."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    optimizer = make_optimizer(layer, TrainSettings(lr=0.1, weight_decay=0.5))
    expected = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(1, 4):
        for name, weight in layer.named_parameters():
            gradient = torch.randn(weight.shape, dtype=torch.float64)
            weight.grad = gradient.clone()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            decay = 0.5 if name == "weight" else 0.0
            change = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.999**step)).sqrt() + EPS)
            expected[name] = expected[name] * (1 - 0.1 * decay) - 0.1 * change
        optimizer.step()
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-12, atol=1e-12)


def test_frozen_weights_are_left_out() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad = False
    groups = make_optimizer(layer, TrainSettings()).param_groups
    assert [weight is layer.weight for group in groups for weight in group["params"]] == [True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("log_every", 0),
        ("cache_bytes", -1),
        ("batch_size", 1),
        ("lr", -0.1),
        ("lr", math.nan),
        ("weight_decay", math.inf),
        ("clip_norm", -1.0),
        ("checkpoint_every_steps", -1),
        ("checkpoint_every_minutes", -0.5),
        ("threads", -2),
        ("warmup_share", 1.5),
        ("final_lr_share", -0.1),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {value}; expected "):
        TrainSettings(**{name: value})  # type: ignore[arg-type]
