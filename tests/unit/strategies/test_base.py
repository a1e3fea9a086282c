"""Strategies by name; the hooks that are left out; joint training and plain fine-tuning."""

import numpy as np
import pytest
import torch

from cmcl_ray.components import ComponentSpec, build_component, component_names
from cmcl_ray.data.order import BatchPlan
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.errors import ConfigError
from cmcl_ray.strategies.base import Step, Strategy
from cmcl_ray.strategies.finetune import Finetune
from cmcl_ray.strategies.joint import Joint
from cmcl_ray.train.job import plan_task
from cmcl_ray.train.settings import TrainSettings
from tests.unit.strategies.worlds import context_of, stream_of


def built(name: str, **params: object) -> Strategy:
    return build_component(ComponentSpec("strategy", name, params, f"strategies.{name}"))


def test_every_strategy_is_built_by_its_name_with_its_own_defaults() -> None:
    names = component_names("strategy")
    assert {"finetune", "joint", "replay", "ewc"} <= set(names)
    for name in names:
        assert isinstance(built(name), Strategy)
    with pytest.raises(ConfigError, match="did you mean 'replay'"):
        built("reply")


@pytest.mark.parametrize("strategy", [Strategy(), Finetune()])
def test_hooks_left_out_do_nothing(strategy: Strategy) -> None:
    stream = stream_of()
    context = context_of(stream, 1)
    before = {name: weight.clone() for name, weight in context.model.state_dict().items()}
    batch = context.read(stream.tasks[1].train[:4])
    outputs = context.model(batch.image, batch.text)
    assert strategy.first_weights() == "previous"
    assert strategy.rows(stream, stream.tasks[1]) is None
    strategy.start(context)
    assert strategy.terms(context, Step(batch, outputs)) == {}
    assert strategy.after_backward(context, {}) is None
    strategy.after_step(context)
    assert strategy.finish(context) is None
    assert strategy.state_dict() == {}
    strategy.load_state_dict({})
    assert all(torch.equal(before[name], weight) for name, weight in context.model.state_dict().items())
    assert context.device == torch.device("cpu")


def joint_plan(stream: TaskStream, task: int, batch_size: int = 4, **settings: object) -> BatchPlan:
    request = Joint(**settings).rows(stream, stream.tasks[task])
    return plan_task(stream, stream.tasks[task], [request] if request else [], TrainSettings(epochs=2, batch_size=batch_size), 0)


def test_joint_training_starts_afresh_on_the_rows_of_all_tasks_so_far() -> None:
    stream = stream_of()
    assert Joint().first_weights() == "initial"
    assert Joint().rows(stream, stream.tasks[0]) is None
    request = Joint().rows(stream, stream.tasks[2])
    assert request is not None
    assert request.rows.tolist() == [*stream.tasks[0].train, *stream.tasks[1].train]
    assert request.share is None
    assert request.cross_task_negatives
    assert not request.single_task_batches
    plan = joint_plan(stream, 2)
    assert plan.rows.tolist() == sorted(row for task in stream.tasks for row in task.train)
    assert plan.memory_batch == 0


def test_joint_training_takes_as_many_steps_as_the_tasks_one_after_the_other() -> None:
    stream = stream_of()
    alone = [joint_plan(stream, 0).steps] * 3
    for task in range(3):
        for negatives in ("cross", "within"):
            steps = joint_plan(stream, task, negatives=negatives).steps
            assert abs(steps - sum(alone[: task + 1])) <= 2 * task


def test_joint_training_within_tasks_has_batches_of_one_task_and_negatives_within() -> None:
    stream = stream_of()
    request = Joint(negatives="within").rows(stream, stream.tasks[2])
    assert request is not None
    assert not request.cross_task_negatives
    plan = joint_plan(stream, 2, negatives="within")
    task_of = {int(row): task.index for task in stream.tasks for row in task.train}
    seen: set[int] = set()
    for step in range(plan.steps):
        rows = plan.batch(step)
        assert len({task_of[int(row)] for row in rows}) == 1
        seen.update(rows.tolist())
    assert {task_of[row] for row in seen} == {0, 1, 2}
    mixed = joint_plan(stream, 2)
    assert any(len({task_of[int(row)] for row in mixed.batch(step)}) > 1 for step in range(mixed.steps))


def test_joint_training_refuses_other_negatives() -> None:
    with pytest.raises(ConfigError, match=r"strategies.joint.negatives is 'both'.*; expected one of 'cross', 'within'"):
        built("joint", negatives="both")


def test_joint_training_remembers_nothing() -> None:
    stream, strategy = stream_of(), Joint()
    strategy.finish(context_of(stream, 0))
    assert strategy.state_dict() == {}
    assert np.array_equal(strategy.rows(stream, stream.tasks[1]).rows, stream.tasks[0].train)
