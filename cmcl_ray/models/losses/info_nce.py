"""Contrastive cross-entropy in both directions."""

import torch
from torch.nn import functional

from cmcl_ray.models.losses.base import Loss, Matched


class InfoNCE(Loss):
    """Mean cross-entropy of finding a row's partner among all columns, over both directions.

    Captions of the same image, and pairs shut out by task, are taken out of the denominator. All embeddings equal give log G;
    a single row gives 0.

    Source: van den Oord et al. 2018 (arXiv 1807.03748); symmetric form of Radford et al. 2021 (arXiv 2103.00020).
    """

    def __call__(self, matched: Matched, logit_scale: torch.Tensor) -> torch.Tensor:
        """Return the mean over this rank's rows and both directions."""
        own_BG = torch.zeros_like(matched.negative).scatter_(1, matched.target[:, None], True)
        shut_out_BG = ~(matched.negative | own_BG)
        losses = [
            functional.cross_entropy((logit_scale * scores_BG).masked_fill(shut_out_BG, -torch.inf), matched.target)
            for scores_BG in (matched.image_to_text, matched.text_to_image)
        ]
        return (losses[0] + losses[1]) / 2
