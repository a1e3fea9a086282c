"""Elastic weight consolidation: the penalty, what is remembered, and the same importance on any number of workers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.errors import ConfigError
from cmcl_ray.models.base import DualEncoder, branch_of
from cmcl_ray.strategies.base import Step, StrategyContext
from cmcl_ray.strategies.ewc import EWC
from cmcl_ray.strategies.mathematics.fisher import Estimator, normalised_per_branch, squared_gradients
from cmcl_ray.train.checkpoints import flatten, unflatten
from tests.unit.models.toys import model_of
from tests.unit.strategies.worlds import ESTIMATORS, context_of, importance_of, run_rank, stream_of

SMALL = {"anchors": 12, "fisher_batch": 4}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def step_of(context: StrategyContext) -> Step:
    batch = context.read(context.task.train[:4])
    return Step(batch, context.model(batch.image, batch.text))


def moved(model: DualEncoder, seed: int, by: float = 0.1) -> DualEncoder:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += by * torch.randn(weight.shape, generator=generator)
    return model


def penalty_of(strategy: EWC, context: StrategyContext) -> torch.Tensor:
    terms = strategy.terms(context, step_of(context))
    assert terms.keys() == {"penalty"}
    return terms["penalty"]


def test_there_is_no_penalty_in_the_first_task() -> None:
    context = context_of(stream_of(), 0)
    strategy = EWC(**SMALL)
    strategy.start(context)
    assert strategy.terms(context, step_of(context)) == {}


def test_penalty_and_gradient_are_zero_at_the_anchor() -> None:
    context = context_of(stream_of(), 0)
    strategy = EWC(**SMALL)
    strategy.finish(context)
    penalty = penalty_of(strategy, context)
    assert penalty.item() == 0
    penalty.backward()
    assert all(not weight.grad.any() for weight in context.model.parameters())


@every_estimator
@pytest.mark.parametrize("name", ["tiny", "shared_1"])
def test_the_gradient_is_strength_times_importance_times_the_way_gone(name: str, estimator: Estimator) -> None:
    context = context_of(stream_of(), 0, model_of(name))
    strategy = EWC(image_strength=0.5, text_strength=2.0, estimator=estimator, **SMALL)
    strategy.finish(context)
    anchor = {key: weight.detach().clone() for key, weight in context.model.named_parameters()}
    moved(context.model, seed=1)
    penalty = penalty_of(strategy, context)
    penalty.backward()
    strength = {"image": 0.5, "text": 2.0, "shared": 1.25}
    expected = 0.0
    for key, weight in context.model.named_parameters():
        pull = strength[branch_of(key)] * strategy.state_dict()["importance"][key]
        way = weight.detach() - anchor[key]
        torch.testing.assert_close(weight.grad, pull * way, rtol=1e-5, atol=1e-9)
        expected += 0.5 * float((pull * way**2).double().sum())
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    assert penalty.item() > 0


def test_strength_zero_holds_nothing_of_its_branch() -> None:
    context = context_of(stream_of(), 0)
    strategy = EWC(image_strength=0.0, text_strength=1.0, **SMALL)
    strategy.finish(context)
    with torch.no_grad():
        context.model.image_branch[1].weight += 1
    assert penalty_of(strategy, context).item() == 0
    with torch.no_grad():
        context.model.text_branch[1].weight += 1
    assert penalty_of(strategy, context).item() > 0


def batches_read(context: StrategyContext) -> tuple[StrategyContext, list[np.ndarray]]:
    """Return a context that takes down which rows are read."""
    seen: list[np.ndarray] = []

    def read(rows: np.ndarray) -> object:
        seen.append(rows)
        return context.read(rows)

    return StrategyContext(**{**vars(context), "read": read}), seen


@every_estimator
def test_the_importance_is_the_mean_over_anchors_of_the_tasks_own_rows(estimator: Estimator) -> None:
    context, seen = batches_read(context_of(stream_of(), 1))
    strategy = EWC(normalise=False, estimator=estimator, **SMALL)
    strategy.finish(context)
    assert [len(rows) for rows in seen] == [4, 4, 4]
    assert len(set(np.concatenate(seen))) == 12
    assert set(np.concatenate(seen)) <= set(context.task.train)
    sums = [squared_gradients(context.model, context.read(rows), estimator) for rows in tuple(seen)]
    for name, value in strategy.state_dict()["importance"].items():
        torch.testing.assert_close(value, sum(each[name] for each in sums) / 12, rtol=1e-6, atol=0)


def test_anchors_are_read_in_whole_batches_shared_out_over_the_workers() -> None:
    strategy, stream, parts = EWC(anchors=11, fisher_batch=4), stream_of(), []
    context, whole = batches_read(context_of(stream, 1))
    strategy.finish(context)
    assert len(whole) == 2
    for rank in range(2):
        context, seen = batches_read(context_of(stream, 1, rank=rank))
        # One of two workers that never meet: only what it reads is looked at.
        object.__setattr__(context, "size", 2)
        with pytest.raises(ValueError, match="process group"):
            EWC(anchors=11, fisher_batch=4).finish(context)
        parts.append(seen)
    assert [rows.tolist() for pair in zip(*parts, strict=True) for rows in pair] == [rows.tolist() for rows in whole]


def test_anchors_follow_from_seed_and_task() -> None:
    stream, drawn = stream_of(), []
    for task, seed in ((0, 0), (0, 0), (0, 1)):
        context, seen = batches_read(context_of(stream, task, seed=seed))
        EWC(**SMALL).finish(context)
        drawn.append(np.concatenate(seen).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@every_estimator
def test_seeing_every_anchor_twice_changes_nothing(estimator: Estimator) -> None:
    # The task has 14 training pairs: 28 anchors are the same batch two times.
    stream = stream_of()
    assert len(stream.tasks[0].train) == 14
    found = []
    for anchors in (14, 28):
        strategy = EWC(anchors=anchors, fisher_batch=14, estimator=estimator, normalise=False)
        strategy.finish(context_of(stream, 0))
        found.append(strategy.state_dict()["importance"])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-6, atol=0)


@every_estimator
def test_a_task_smaller_than_an_importance_batch_still_has_an_importance(estimator: Estimator) -> None:
    strategy = EWC(anchors=64, fisher_batch=32, estimator=estimator)
    strategy.finish(context_of(stream_of(), 0))
    assert all(torch.isfinite(value).all() for value in strategy.state_dict()["importance"].values())
    assert sum(float(value.sum()) for value in strategy.state_dict()["importance"].values()) > 0


@pytest.mark.parametrize("decay", [1.0, 0.25, 0.0])
def test_old_importance_decays_and_the_anchor_is_the_newest(decay: float) -> None:
    stream, strategy = stream_of(), EWC(decay=decay, **SMALL)
    strategy.finish(context_of(stream, 0))
    old = strategy.state_dict()["importance"]
    context = context_of(stream, 1, moved(model_of("shared_1"), seed=3))
    strategy.finish(context)
    alone = EWC(**SMALL)
    alone.finish(context)
    found = strategy.state_dict()
    for name, weight in context.model.named_parameters():
        expected = decay * old[name] + alone.state_dict()["importance"][name]
        torch.testing.assert_close(found["importance"][name], expected, rtol=1e-6, atol=1e-9)
        assert torch.equal(found["anchor"][name], weight)
    moved(context.model, seed=4)
    assert not torch.equal(found["anchor"]["top.0.weight"], context.model.top[0].weight)


def test_normalised_importance_has_the_mean_one_in_each_branch() -> None:
    found = {}
    for normalise in (True, False):
        strategy = EWC(normalise=normalise, **SMALL)
        strategy.finish(context_of(stream_of(), 0))
        found[normalise] = strategy.state_dict()["importance"]
    for name, value in normalised_per_branch(found[False]).items():
        torch.testing.assert_close(found[True][name], value)
    for branch in ("image", "text", "shared"):
        values = [value.flatten() for name, value in found[True].items() if branch_of(name) == branch]
        assert float(torch.cat(values).mean()) == pytest.approx(1, abs=1e-5)


def test_a_learned_temperature_is_left_out() -> None:
    context = context_of(stream_of(), 0, model_of("shared_1", learn_temperature=True))
    strategy = EWC(**SMALL)
    strategy.finish(context)
    assert "log_scale" not in strategy.state_dict()["importance"]
    with torch.no_grad():
        context.model.log_scale += 1
    assert penalty_of(strategy, context).item() == 0


def test_the_state_survives_a_checkpoint_bit_for_bit() -> None:
    stream, first, back = stream_of(), EWC(**SMALL), EWC(**SMALL)
    first.finish(context_of(stream, 0))
    tensors, rest = flatten({"ewc": first.state_dict()})
    assert len(tensors) == 2 * len(first.state_dict()["anchor"])
    back.load_state_dict(unflatten(tensors, json.loads(json.dumps(rest)))["ewc"])
    for kind in ("importance", "anchor"):
        one, other = first.state_dict()[kind], back.state_dict()[kind]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    # Ending the next task after a kill ends it in the same bits.
    for strategy in (first, back):
        strategy.finish(context_of(stream, 1, moved(model_of("shared_1"), seed=3)))
    one, other = first.state_dict()["importance"], back.state_dict()["importance"]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_state_of_a_strategy_that_saw_nothing_survives_too() -> None:
    tensors, rest = flatten(EWC().state_dict())
    back = EWC()
    back.load_state_dict(unflatten(tensors, json.loads(json.dumps(rest))))
    assert back.state_dict() == {"importance": {}, "anchor": {}}


def test_two_workers_find_the_importance_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(run_rank, args=(str(tmp_path), 2), nprocs=2)
    found = [torch.load(tmp_path / f"found-{rank}.pt") for rank in range(2)]
    for (estimator, raw), of_rank in found[0].items():
        expected = importance_of(estimator, 0, 1, normalise=not raw)
        assert of_rank.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(of_rank[name], found[1][estimator, raw][name])
            torch.testing.assert_close(of_rank[name], value, rtol=1e-5, atol=1e-6 * float(value.max()))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"image_strength": -0.1}, r"image_strength is -0.1 and text_strength 0.1; expected values of at least 0"),
        ({"text_strength": -2.0}, r"image_strength is 0.1 and text_strength -2.0; expected values of at least 0"),
        ({"decay": 1.5}, r"decay is 1.5; expected a value from 0 to 1"),
        ({"decay": -0.5}, r"decay is -0.5; expected a value from 0 to 1"),
        ({"fisher_batch": 1}, r"fisher_batch is 1 and anchors 512; expected at least 2, and anchors no fewer"),
        ({"anchors": 63}, r"fisher_batch is 64 and anchors 63; expected at least 2, and anchors no fewer"),
        ({"estimator": "batch"}, r"estimator is 'batch'; expected one of 'per_anchor', 'anchor_side'"),
    ],
)
def test_settings_that_cannot_work_are_refused(params: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_component(ComponentSpec("strategy", "ewc", params, "strategies.ewc"))
