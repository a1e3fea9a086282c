"""The diagonal of the Fisher information of a contrastive model, anchor by anchor.

Every anchor n of a batch has the log-likelihood l_n = 1/2 [log softmax(row n of S/tau)_n + log softmax(column n of S/tau)_n],
S = U V^T, and the importance of a weight is the mean over anchors of the square of dl_n/dw: squares of single gradients, not
the square of a batch's mean gradient, which is about 1/B of it near an optimum. It depends on the number of negatives, so the
batch is a setting of its own.

B anchors of a batch, D embedding width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch.func import functional_call, grad, vjp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from cmcl_ray.data.feed import Batch
from cmcl_ray.models.base import DualEncoder, branch_of

Weights = dict[str, torch.Tensor]
Estimator = Literal["per_anchor", "anchor_side"]

# Anchors differentiated at a time, where memory allows: the quickest of 4 to 64 on 2 cores, batches of 64, both models.
_MOST_AT_A_TIME: dict[Estimator, int] = {"per_anchor": 8, "anchor_side": 32}


def anchor_log_likelihoods(
    image_BD: torch.Tensor, text_BD: torch.Tensor, code_B: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-likelihoods (B,) of each row's partner: images asking, and texts asking. Equal codes are no negatives."""
    same_BB = code_B[:, None] == code_B[None, :]
    same_BB = same_BB & ~torch.eye(len(code_B), dtype=torch.bool, device=code_B.device)
    scores_BB = (scale * functional.normalize(image_BD, dim=-1) @ functional.normalize(text_BD, dim=-1).T).masked_fill(
        same_BB, -torch.inf
    )
    return scores_BB.log_softmax(1).diagonal(), scores_BB.log_softmax(0).diagonal()


def held_weights(model: DualEncoder) -> Weights:
    """Return the trainable weights importance is taken of, detached, by name: all but a learned temperature's."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad and name != "log_scale"}


def squared_gradients(model: DualEncoder, batch: Batch, estimator: Estimator, gradient_bytes: int = 2**28) -> Weights:
    """Return the sum over the batch's anchors of squared gradients of their log-likelihood, by parameter name.

    Args:
        model: in eval mode.
        batch: B anchors, each the others' negative.
        estimator: per_anchor differentiates l_n through every row of the batch (exact, B backward passes, vectorised);
            anchor_side only through row n itself: image weights from images asking, text weights from texts asking, shared ones
            from both (one backward pass' worth of work).
        gradient_bytes: memory for the gradients of anchors differentiated together; one anchor's are always held.
    """
    weights = held_weights(model)
    of_anchor = sum(weight.numel() * weight.element_size() for weight in weights.values())
    chunk = max(1, min(_MOST_AT_A_TIME[estimator], gradient_bytes // max(1, of_anchor)))
    # The fused attention kernels have no batching rule: vmap would run them row by row, and warn.
    with sdpa_kernel(SDPBackend.MATH):
        if estimator == "per_anchor":
            return _through_all_rows(model, weights, batch, chunk)
        return _through_own_row(model, weights, batch, chunk)


def _through_all_rows(model: DualEncoder, weights: Weights, batch: Batch, chunk: int) -> Weights:
    def likelihoods(values: Weights) -> torch.Tensor:
        outputs = functional_call(model, values, (batch.image, batch.text))
        rows_B, columns_B = anchor_log_likelihoods(outputs.image_raw, outputs.text_raw, batch.image_id, outputs.logit_scale)
        return (rows_B + columns_B) / 2

    found_B, pull = vjp(likelihoods, weights)[:2]
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for one_hot in torch.eye(len(found_B), dtype=found_B.dtype, device=found_B.device).split(chunk):  # type: ignore[no-untyped-call]
        (gradients,) = vmap(pull)(one_hot)
        for name, gradient in gradients.items():
            total[name] += gradient.square().sum(0)
    return total


def _through_own_row(model: DualEncoder, weights: Weights, batch: Batch, chunk: int) -> Weights:
    with torch.no_grad():
        outputs = model(batch.image, batch.text)
        image_BD, text_BD = functional.normalize(outputs.image_raw, dim=-1), functional.normalize(outputs.text_raw, dim=-1)
        scale = outputs.logit_scale
    same_BB = batch.image_id[:, None] == batch.image_id[None, :]
    same_BB = same_BB & ~torch.eye(len(same_BB), dtype=torch.bool, device=same_BB.device)

    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    wrapped = _OneSide(model)
    own_B = torch.arange(len(same_BB), device=same_BB.device)
    for side, rows, others_BD in (("image", batch.image, text_BD), ("text", batch.text, image_BD)):
        touched = {name: weight for name, weight in weights.items() if branch_of(name) in (side, "shared")}

        def of_row(
            values: Weights,
            row: torch.Tensor,
            same_B: torch.Tensor,
            own: torch.Tensor,
            side: str = side,
            others: torch.Tensor = others_BD,
        ) -> torch.Tensor:
            named = {f"model.{name}": value for name, value in values.items()}
            raw_D: torch.Tensor = functional_call(wrapped, named, (row.unsqueeze(0), side))[0]
            scores_B = (scale * others @ functional.normalize(raw_D, dim=-1)).masked_fill(same_B, -torch.inf)
            likelihood: torch.Tensor = scores_B.log_softmax(0).gather(0, own.unsqueeze(0))[0]
            return likelihood

        single = vmap(grad(of_row), in_dims=(None, 0, 0, 0))
        for part in own_B.split(chunk):  # type: ignore[no-untyped-call]
            for name, gradient in single(touched, rows[part], same_BB[part], part).items():
                total[name] += gradient.square().sum(0)
    return total


class _OneSide(torch.nn.Module):
    """One side of a model as a forward pass of its own, which is all a functional call can run."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, side: str) -> torch.Tensor:
        return self.model.project_image(inputs) if side == "image" else self.model.project_text(inputs)


def normalised_per_branch(importance: Mapping[str, torch.Tensor]) -> Weights:
    """Return importance divided by its mean inside each branch, so that the mean is 1 in every branch."""
    scaled: Weights = {}
    for branch in ("image", "text", "shared"):
        of_branch = {name: value for name, value in importance.items() if branch_of(name) == branch}
        count = sum(value.numel() for value in of_branch.values())
        mean = sum(float(value.double().sum()) for value in of_branch.values()) / count if count else 0.0
        scaled.update({name: value / mean if mean > 0 else value for name, value in of_branch.items()})
    return scaled
