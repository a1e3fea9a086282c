"""The hooks of a continual strategy.

A hook returns its contribution (rows, loss terms, gradients, weights) and the loop applies it, so strategies compose and stay
right on any number of workers. In the order they run::

    strategy.load_state_dict(...)                 # what the task before left
    requests = strategy.rows(stream, task)        # rows that join the task's own
    strategy.start(context)
    strategy.load_state_dict(...)                 # after a kill: what the progress checkpoint holds
    for step:
        loss = task loss + sum(strategy.terms(context, outputs))
        gradients = strategy.after_backward(context, gradients)
        optimizer step
        strategy.after_step(context)
    weights = strategy.finish(context)            # importance passes, memory; may return other weights for the task's end
    strategy.state_dict()                         # into the checkpoint
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cmcl_ray.data.feed import Batch
from cmcl_ray.data.pairs import Rows
from cmcl_ray.data.stream import Task, TaskStream
from cmcl_ray.models.base import DualEncoder, Outputs
from cmcl_ray.models.losses.base import Loss

State = dict[str, Any]


@dataclass(frozen=True)
class RowRequest:
    """Rows of earlier tasks that a strategy wants trained on.

    Args:
        rows: pair rows.
        share: memory rows in a batch for each new row; None where the rows join the task's own to make one epoch.
        cross_task_negatives: whether pairs of different tasks are negatives of each other.
        single_task_batches: every batch holds rows of one task (only where rows join the task's own).
    """

    rows: Rows
    share: float | None
    cross_task_negatives: bool = True
    single_task_batches: bool = False


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy sees while a task is trained.

    Args:
        stream: all tasks; a method that honours the protocol reads only the current one and its memory.
        task: the current one.
        model: the model being trained, not wrapped.
        loss: the task's loss.
        read: reads pair rows as one batch on the model's device.
        rank: of this worker.
        size: number of workers.
        seed: of the run.
    """

    stream: TaskStream
    task: Task
    model: DualEncoder
    loss: Loss
    read: Callable[[Rows], Batch]
    rank: int
    size: int
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Step:
    """One step as loss terms see it: this rank's batch and the model's outputs on it."""

    batch: Batch
    outputs: Outputs


class Strategy:
    """A continual method. No hook is abstract: what is left out does nothing, and a strategy with none is plain fine-tuning."""

    def first_weights(self) -> Literal["previous", "initial"]:
        """Say which weights a task starts from: those of the task before, or the first ones of the run."""
        return "previous"

    def rows(self, stream: TaskStream, task: Task) -> RowRequest | None:
        """Return rows of earlier tasks to train on; the same on every rank."""
        return None

    def start(self, context: StrategyContext) -> None:
        """Prepare for a task; the model has the weights the task starts from."""

    def terms(self, context: StrategyContext, step: Step) -> Mapping[str, torch.Tensor]:
        """Return loss terms by name, already weighted; a term of the weights alone is given unscaled on every rank."""
        return {}

    def after_backward(
        self, context: StrategyContext, gradients: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor] | None:
        """Return gradients to use instead, after all ranks' were averaged; None leaves them."""
        return None

    def after_step(self, context: StrategyContext) -> None:
        """See the weights after the optimizer's step."""

    def finish(self, context: StrategyContext) -> Mapping[str, torch.Tensor] | None:
        """End a task; may return other weights to end it with. Repeatable: called again after a kill, it does the same."""
        return None

    def state_dict(self) -> State:
        """Return all that is remembered: nested dicts of tensors and JSON values."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take back what state_dict returned; its tensors are on the model's device."""
