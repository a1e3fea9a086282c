"""Hinge loss on triplets, in both directions."""

from typing import Literal

import torch

from cmcl_ray.models.losses.base import Loss, Matched


class Triplet(Loss):
    """Hinge on how much a negative comes within a margin of the partner: over all negatives, or the hardest one.

    L = mean_i [ A_j max(0, margin + s_ij - s_ii) + A_j max(0, margin + s_ji - s_ii) ], A = sum or max over negatives j; divided
    by the batch, so that the strength of penalties beside it does not depend on the batch size.

    Args:
        margin: in cosine, > 0.
        negatives: sum over all violating negatives, or hardest (VSE++; may collapse early when training from scratch).

    Source: Faghri et al. 2018 (arXiv 1707.05612), eq. 5 and 6.
    """

    def __init__(self, margin: float = 0.2, negatives: Literal["sum", "hardest"] = "sum") -> None:
        if margin <= 0:
            raise ValueError(f"loss.margin is {margin}; expected a cosine above 0, such as 0.2")
        self._margin = margin
        self._hardest = negatives == "hardest"

    def __call__(self, matched: Matched, logit_scale: torch.Tensor) -> torch.Tensor:
        """Return the mean over this rank's rows of both directions' sums; the logit scale plays no part."""
        total = matched.image_to_text.new_zeros(())
        for scores_BG in (matched.image_to_text, matched.text_to_image):
            own_B1 = scores_BG.gather(1, matched.target[:, None])
            cost_BG = (self._margin + scores_BG - own_B1).clamp(min=0) * matched.negative
            total = total + (cost_BG.amax(1) if self._hardest else cost_BG.sum(1)).mean()
        return total
