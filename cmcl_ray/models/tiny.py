"""Small encoders from scratch for drawings of 32 to 72 pixels: no downloads, seconds a task on a laptop.

Group normalisation instead of batch normalisation: see the contract. The image branch keeps a 4 x 4 map to its end, because
where a thing stands matters in composed captions.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from cmcl_ray.data.images import Captions, DataFacts, Inputs, Pixels
from cmcl_ray.data.tokens import HashTokenizer
from cmcl_ray.models.base import DualEncoder


class _ImageEncoder(nn.Module):
    """Strided convolutions to a 4 x 4 map, then one linear layer."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
            for before, after in zip((3, *widths), widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for after in widths)
        self.head = nn.Linear(widths[-1] * 16, dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, H, W) floats in [-1, 1] to (B, dim)."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            pixels = functional.gelu(norm(layer(pixels)))
        outputs: torch.Tensor = self.head(functional.adaptive_avg_pool2d(pixels, 4).flatten(1))
        return outputs


class _Attention(nn.Module):
    """One pre-norm transformer layer over words."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_after = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, words: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Map (B, L, width) to the same shape; ``present`` (B, L) marks the words that are there."""
        batch, length, width = words.shape
        query, key, value = self.mix(self.norm(words)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Written out: as fast as the fused kernel at this size, and it can be vectorised over rows for importance passes.
        scores = (query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])).masked_fill(~present[:, None, None, :], -torch.inf)
        mixed = scores.softmax(-1) @ value
        words = words + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        outputs: torch.Tensor = words + self.narrow(functional.gelu(self.widen(self.norm_after(words))))
        return outputs


class _TextEncoder(nn.Module):
    """Hashed words with their letter groups, positions, transformer layers, mean over the words."""

    def __init__(self, buckets: int, length: int, width: int, layers: int, dim: int) -> None:
        super().__init__()
        self.words = nn.Embedding(buckets, width)
        nn.init.normal_(self.words.weight, std=0.3)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.layers = nn.ModuleList(_Attention(width, heads=4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (B, L, G) ids to (B, dim); a caption without any word gets the vector of an empty text."""
        there = (tokens != 0).unsqueeze(-1)
        words = (self.words(tokens) * there).sum(2) / there.sum(2).clamp(min=1)
        present = tokens[:, :, 0] != 0
        # Attention over nothing would be undefined: an empty caption keeps its first, zero, word.
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        present = present | (first & ~present.any(1, keepdim=True))
        words = words + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            words = layer(words, present)
        weight = present.unsqueeze(-1)
        outputs: torch.Tensor = self.head((self.norm(words) * weight).sum(1) / weight.sum(1))
        return outputs


class Tiny(DualEncoder):
    """A small convolutional image encoder and a small transformer over hashed words.

    Args:
        facts: what is known of the data; not needed here.
        image_size: pixels of the square an image is resized to, 32 to 72.
        width: channels of the first convolution, a multiple of 8; the last has four times as many.
        text_width: width of the word vectors, a multiple of 4.
        text_layers: transformer layers.
        dim: width of the common space.
        buckets: hashed ids of words and letter groups.
        length: words kept of a caption.
        letters: size of the letter groups a word is also made of; 0 for whole words only.
        temperature: see DualEncoder.
        learn_temperature: see DualEncoder.
    """

    def __init__(
        self,
        facts: DataFacts,
        image_size: int = 32,
        width: int = 16,
        text_width: int = 64,
        text_layers: int = 1,
        dim: int = 64,
        buckets: int = 4096,
        length: int = 24,
        letters: int = 3,
        temperature: float = 0.07,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, learn_temperature)
        if width % 8 or text_width % 4:
            raise ValueError(f"model.width is {width} and model.text_width {text_width}; expected multiples of 8 and of 4")
        self._image_size = image_size
        self._tokenizer = HashTokenizer(buckets, length, letters)
        self.image_branch = _ImageEncoder(width, dim)
        self.text_branch = _TextEncoder(buckets, length, text_width, text_layers, dim)

    def inputs(self) -> Inputs:
        """Pixels at the model's size, captions as hashed words."""
        return Inputs(Pixels(self._image_size), Captions(self._tokenizer))

    def project_image(self, image: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, H, W) uint8 to (B, dim)."""
        outputs: torch.Tensor = self.image_branch(image.to(next(self.image_branch.parameters()).dtype) / 127.5 - 1.0)
        return outputs

    def project_text(self, text: torch.Tensor) -> torch.Tensor:
        """Map (B, L, G) token ids to (B, dim)."""
        return self.text_branch(text)  # type: ignore[no-any-return]
