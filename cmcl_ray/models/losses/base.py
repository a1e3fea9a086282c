"""The contract of a loss on image-text pairs, and who may be whose negative.

B pairs of this rank, G pairs of all ranks, D embedding width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn import functional

from cmcl_ray.models.distributed import gather, gather_constant, world


@dataclass(frozen=True)
class Matched:
    """Scores of this rank's pairs against the pairs of all ranks.

    Args:
        image_to_text: (B, G) cosines of own images with all texts.
        text_to_image: (B, G) cosines of own texts with all images.
        target: (B,) column of each row's own partner.
        negative: (B, G) true where the column may be pushed away.
    """

    image_to_text: torch.Tensor
    text_to_image: torch.Tensor
    target: torch.Tensor
    negative: torch.Tensor


def match(
    image_raw: torch.Tensor,
    text_raw: torch.Tensor,
    code: torch.Tensor,
    task: torch.Tensor,
    cross_task: bool,
    over_ranks: bool = True,
) -> Matched:
    """Score this rank's pairs against those of all ranks.

    Args:
        image_raw: (B, D) image outputs before normalisation.
        text_raw: (B, D) text outputs before normalisation.
        code: (B,) relevance codes; pairs of equal code are never negatives of each other.
        task: (B,) task of each pair.
        cross_task: whether pairs of different tasks are negatives of each other.
        over_ranks: False scores them against each other alone, for rows that every rank goes through.

    Returns:
        Scores in float32, whatever the precision of the outputs.
    """
    image_BD = functional.normalize(image_raw.float(), dim=-1)
    text_BD = functional.normalize(text_raw.float(), dim=-1)
    image_GD, text_GD, code_G, task_G, rank = image_BD, text_BD, code, task, 0
    if over_ranks:
        image_GD, text_GD, rank = gather(image_BD), gather(text_BD), world()[0]
        # One collective for both.
        code_G, task_G = gather_constant(torch.stack([code, task], dim=1)).unbind(1)
    negative_BG = code[:, None] != code_G[None, :]
    if not cross_task:
        negative_BG &= task[:, None] == task_G[None, :]
    target_B = torch.arange(len(code), device=code.device) + rank * len(code)
    return Matched(image_BD @ text_GD.T, text_BD @ image_GD.T, target_B, negative_BG)


class Loss(ABC):
    """A loss whose mean over ranks is the loss of the whole batch in one process, and so is its gradient."""

    @abstractmethod
    def __call__(self, matched: Matched, logit_scale: torch.Tensor) -> torch.Tensor:
        """Return the loss of this rank's rows, a scalar.

        Args:
            matched: scores of own rows against all rows.
            logit_scale: 1 / temperature.
        """
