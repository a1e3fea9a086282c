"""The contract of a dual encoder: two branches into one space.

B pairs, D embedding width.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.data.images import DataFacts, Inputs
from cmcl_ray.data.pairs import Pairs, Rows

Side = Literal["image", "text"]


class Outputs(NamedTuple):
    """What a forward pass gives: outputs before normalisation (B, D) of both branches, and the logit scale."""

    image_raw: torch.Tensor
    text_raw: torch.Tensor
    logit_scale: torch.Tensor


class DualEncoder(nn.Module, ABC):
    """An image branch and a text branch that end in one space.

    Parameters under ``image_branch`` and ``text_branch`` belong to their branch, all others are shared. Nothing is normalised
    over the batch (no batch statistics), so that a row's embedding never depends on its neighbours or on the number of workers.

    Args:
        temperature: what cosines are divided by in contrastive losses, at least 0.01. Fixed, since a moving one silently
            rescales every penalty and distillation weight.
        learn_temperature: train it all the same; the scale is clamped to at most 100.
    """

    image_branch: nn.Module
    text_branch: nn.Module

    def __init__(self, temperature: float = 0.07, learn_temperature: bool = False) -> None:
        super().__init__()
        if not temperature >= 0.01:
            raise ValueError(f"temperature is {temperature}; expected at least 0.01, such as 0.07: the scale stays below 100")
        log_scale = torch.tensor(float(-np.log(temperature)))
        if learn_temperature:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @abstractmethod
    def inputs(self) -> Inputs:
        """Return how stored rows become this model's arrays."""

    @abstractmethod
    def project_image(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image branch's outputs (B, D) before normalisation."""

    @abstractmethod
    def project_text(self, text: torch.Tensor) -> torch.Tensor:
        """Return the text branch's outputs (B, D) before normalisation."""

    def logit_scale(self) -> torch.Tensor:
        """Return what cosines are multiplied by: 1 / temperature, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (B, D)."""
        return functional.normalize(self.project_image(image), dim=-1)

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (B, D)."""
        return functional.normalize(self.project_text(text), dim=-1)

    def encode(self, side: str, inputs: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (B, D) of one side."""
        return self.encode_image(inputs) if side == "image" else self.encode_text(inputs)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> Outputs:
        """Run both branches; the one entry point that distributed training wraps."""
        return Outputs(self.project_image(image), self.project_text(text), self.logit_scale())


@dataclass(frozen=True)
class ModelVersion:
    """A model as it was when a task ended.

    Args:
        id: digest of its weights, 16 hexadecimal digits.
        parent: id of the version it was trained from; None for the first.
        task: index of the task.
        data: fingerprint of the stream.
        folder: where its checkpoint lies.
    """

    id: str
    parent: str | None
    task: int
    data: str
    folder: str


def branch_of(name: str) -> Literal["image", "text", "shared"]:
    """Return the branch a parameter belongs to, by its name."""
    if name.startswith("image_branch."):
        return "image"
    return "text" if name.startswith("text_branch.") else "shared"


def weights_id(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the digest of a state dict: names, types, shapes and bytes; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]


def build_model(spec: ComponentSpec, facts: DataFacts, seed: int) -> DualEncoder:
    """Build a model with first weights that depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which reseeds the generators of the GPUs too.
        torch.default_generator.manual_seed(seed)
        model: DualEncoder = build_component(spec, facts=facts)
    return model


def encode_rows(
    model: DualEncoder, pairs: Pairs, side: str, rows: Rows, batch_rows: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Embed rows of one side: image rows or pair rows.

    Args:
        model: in eval mode, on ``device``.
        pairs: the stream's tables.
        side: image or text.
        rows: (n,) rows of that side.
        batch_rows: rows in a forward pass; the last ones may be fewer.
        device: where the model is.

    Returns:
        (n, D) unit vectors, float32.
    """
    reader = model.inputs().reader(side)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_rows):
            inputs = torch.from_numpy(reader.read(pairs, rows[start : start + batch_rows])).to(device)
            parts.append(model.encode(side, inputs).float().cpu().numpy())
    if not parts:
        raise ValueError("no rows to embed; expected at least one; leave empty splits out before embedding")
    return np.concatenate(parts)
