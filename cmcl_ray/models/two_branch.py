"""Two multi-layer branches on given features: the seed paper's setting of frozen backbones.

After Wang et al., Learning two-branch neural networks for image-text matching tasks (arXiv 1704.03470), with layer
normalisation in place of batch normalisation.
"""

import torch
from torch import nn

from cmcl_ray.data.images import DataFacts, Features, Inputs
from cmcl_ray.errors import DataError
from cmcl_ray.models.base import DualEncoder


def _branch(width: int, hidden: int, dropout: float) -> nn.Sequential:
    # LayerNorm on the input takes the scale out of the features; its epsilon keeps all-zero vectors (texts without any known
    # word) finite.
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout))


class TwoBranch(DualEncoder):
    """One hidden layer a branch on given feature vectors, then a linear layer into the common space.

    Args:
        facts: widths of the feature columns.
        hidden: width of the hidden layer.
        dim: width of the common space.
        dropout: share of hidden units dropped in training, in [0, 1).
        shared_layers: top layers both branches share, 0 to 2: 1 shares the last linear layer, 2 also puts a shared hidden layer
            before it. Moves drift from differential to common.
        temperature: see DualEncoder.
        learn_temperature: see DualEncoder.

    Raises:
        DataError: the data has no feature columns.
        ValueError: a setting cannot work.
    """

    def __init__(
        self,
        facts: DataFacts,
        hidden: int = 512,
        dim: int = 128,
        dropout: float = 0.1,
        shared_layers: int = 0,
        temperature: float = 0.07,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, learn_temperature)
        if facts.image_width is None or facts.text_width is None:
            missing = "image_features" if facts.image_width is None else "text_features"
            raise DataError(
                f"model two_branch works on features, but the data has no column {missing}; expected image_features and "
                "text_features; name their files under stream.source, or take model tiny"
            )
        if shared_layers not in (0, 1, 2):
            raise ValueError(f"model.shared_layers is {shared_layers}; expected 0, 1 or 2")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout is {dropout}; expected a share of at least 0 and below 1")
        self._facts = (facts.image_width, facts.text_width)
        self.image_branch = _branch(facts.image_width, hidden, dropout)
        self.text_branch = _branch(facts.text_width, hidden, dropout)
        if shared_layers:
            layers: list[nn.Module] = [nn.Linear(hidden, hidden), nn.GELU()] if shared_layers == 2 else []
            self.top = nn.Sequential(*layers, nn.Linear(hidden, dim))
        else:
            self.image_branch.append(nn.Linear(hidden, dim))
            self.text_branch.append(nn.Linear(hidden, dim))
            self.top = nn.Sequential()

    def inputs(self) -> Inputs:
        """The given features of both sides."""
        return Inputs(Features("image", self._facts[0]), Features("text", self._facts[1]))

    def project_image(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, F) to (B, dim)."""
        return self.top(self.image_branch(image))  # type: ignore[no-any-return]

    def project_text(self, text: torch.Tensor) -> torch.Tensor:
        """Map (B, F) to (B, dim)."""
        return self.top(self.text_branch(text))  # type: ignore[no-any-return]
