"""Elastic weight consolidation."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import distributed

from cmcl_ray.data.order import permutation
from cmcl_ray.models.base import branch_of
from cmcl_ray.strategies.base import State, Step, Strategy, StrategyContext
from cmcl_ray.strategies.mathematics.fisher import Estimator, held_weights, normalised_per_branch, squared_gradients

# Keeps the draw of anchors apart from the draws of the order.
_ANCHORS = 11


class EWC(Strategy):
    """Elastic weight consolidation with one strength a branch.

    Adds 1/2 * sum_i strength * importance_i * (w_i - anchor_i)^2 to the loss from the second task on; importance is the
    diagonal of the Fisher information, the mean over anchors of squared gradients of each anchor's log-likelihood.

    Args:
        image_strength: weight of the penalty on the image branch, no unit, >= 0. Recommended 1e-3 to 1 with normalise.
        text_strength: the same for the text branch; layers both share take the mean of the two.
        normalise: divide the importance by its mean inside each branch when a task is added, so that one branch's gradient
            scale does not decide which of them is held.
        decay: factor on the old importance when a task is added, in [0, 1]; 1 keeps all of it.
        anchors: pairs the importance is taken from, at least fisher_batch; rounded down to whole batches.
        fisher_batch: pairs in an importance batch. The Fisher information of a contrastive loss depends on the number of
            negatives, so this is a setting of its own, independent of the training batch and of the number of workers.
        estimator: per_anchor (exact) or anchor_side (each anchor through its own row only); see mathematics/fisher.py.

    Keeps: importance and anchor, 2 floats a parameter, whatever the number of tasks.
    Cost: one pass over the parameters a step; anchors / fisher_batch vectorised backward passes when a task ends.
    Source: Kirkpatrick et al. 2017 (arXiv 1612.00796), eq. 3; decay as in Schwarz et al. 2018 (arXiv 1805.06370).
    """

    def __init__(
        self,
        image_strength: float = 0.1,
        text_strength: float = 0.1,
        normalise: bool = True,
        decay: float = 1.0,
        anchors: int = 512,
        fisher_batch: int = 64,
        estimator: Estimator = "anchor_side",
    ) -> None:
        if min(image_strength, text_strength) < 0:
            raise ValueError(
                f"image_strength is {image_strength} and text_strength {text_strength}; expected values of at least 0"
            )
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; expected a value from 0 to 1")
        if fisher_batch < 2 or anchors < fisher_batch:
            raise ValueError(
                f"fisher_batch is {fisher_batch} and anchors {anchors}; expected at least 2, and anchors no fewer than it"
            )
        self._strength = {"image": image_strength, "text": text_strength, "shared": (image_strength + text_strength) / 2}
        self._normalise = normalise
        self._decay = decay
        self._batches = anchors // fisher_batch
        self._fisher_batch = fisher_batch
        self._estimator: Estimator = estimator
        self._importance: dict[str, torch.Tensor] = {}
        self._anchor: dict[str, torch.Tensor] = {}

    def terms(self, context: StrategyContext, step: Step) -> Mapping[str, torch.Tensor]:
        """Return the penalty of the current weights."""
        if not self._importance:
            return {}
        weights = dict(context.model.named_parameters())
        names = list(self._importance)
        moved = torch._foreach_sub([weights[name] for name in names], [self._anchor[name] for name in names])
        costs = torch._foreach_mul(torch._foreach_mul(moved, moved), [self._importance[name] for name in names])
        parts = [0.5 * self._strength[branch_of(name)] * cost.sum() for name, cost in zip(names, costs, strict=True)]
        return {"penalty": torch.stack(parts).sum()}

    def finish(self, context: StrategyContext) -> None:
        """Take the importance of the task that just ended, its batches shared out over the workers."""
        rows = context.task.train
        order = permutation(len(rows), context.seed, _ANCHORS, context.task.index)
        picked = rows[np.resize(order, self._batches * self._fisher_batch)].reshape(self._batches, self._fisher_batch)
        total = {name: torch.zeros_like(weight) for name, weight in held_weights(context.model).items()}
        for batch_rows in picked[context.rank :: context.size]:
            for name, value in squared_gradients(context.model, context.read(batch_rows), self._estimator).items():
                total[name] += value
        if context.size > 1:
            for name in sorted(total):
                distributed.all_reduce(total[name])
        importance = {name: value / picked.size for name, value in total.items()}
        if self._normalise:
            importance = normalised_per_branch(importance)
        old = self._importance
        self._importance = {name: self._decay * old[name] + value if name in old else value for name, value in importance.items()}
        self._anchor = {name: weight.clone() for name, weight in held_weights(context.model).items()}

    def state_dict(self) -> State:
        """Return importance and anchor."""
        return {"importance": self._importance, "anchor": self._anchor}

    def load_state_dict(self, state: State) -> None:
        """Take back importance and anchor."""
        self._importance = dict(state["importance"])
        self._anchor = dict(state["anchor"])
