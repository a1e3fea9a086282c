"""Small models and batches for the tests of models, losses and strategies."""

import io

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from cmcl_ray.components import ComponentSpec
from cmcl_ray.data.feed import Batch
from cmcl_ray.data.images import DataFacts, Features, Inputs
from cmcl_ray.data.pairs import Pairs, make_pairs
from cmcl_ray.models.base import DualEncoder, build_model

FACTS = DataFacts(image_width=6, text_width=5)
SPECS = {
    "tiny": ("tiny", {"width": 8, "text_width": 16, "dim": 12, "buckets": 64, "length": 7}),
    "two_branch": ("two_branch", {"hidden": 10, "dim": 12}),
    "shared_1": ("two_branch", {"hidden": 10, "dim": 12, "shared_layers": 1}),
    "shared_2": ("two_branch", {"hidden": 10, "dim": 12, "shared_layers": 2}),
}


def spec_of(name: str, **more: object) -> ComponentSpec:
    component, params = SPECS[name]
    return ComponentSpec("model", component, {**params, **more}, "model")


def model_of(name: str, seed: int = 0, **more: object) -> DualEncoder:
    return build_model(spec_of(name, **more), FACTS, seed).eval()


def toy_pairs(images: int = 9, captions: int = 2) -> Pairs:
    """Return pairs with drawn images, captions and features; captions of an image do not stand together."""
    rng = np.random.default_rng(7)
    names = [f"i{i}" for i in range(images)]
    count = images * captions
    words = ["red", "green", "cat", "dog", "small", "large", "beside"]

    def picture(number: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (11 + number, 13, 3), dtype=np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    def vectors(shape: tuple[int, int]) -> pa.FixedSizeListArray:
        values = rng.standard_normal(shape).astype(np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), shape[1])

    pairs = pa.table(
        {
            "pair_id": [f"p{i}" for i in range(count)],
            "image_id": [names[i % images] for i in range(count)],
            "caption": [" ".join(rng.choice(words, size=1 + i % 5)) for i in range(count)],
            "text_features": vectors((count, FACTS.text_width)),
        }
    )
    table = pa.table(
        {
            "image_id": names,
            "image": [picture(i) for i in range(images)],
            "image_features": vectors((images, FACTS.image_width)),
        }
    )
    return make_pairs(pairs, table)


def inputs_of(name: str, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random image and text arrays for a model of SPECS."""
    generator = torch.Generator().manual_seed(seed)
    if name == "tiny":
        image = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        text = torch.randint(1, 64, (count, 7, 8), generator=generator)
        for row in range(count):
            text[row, 1 + row % 7 :] = 0
        return image, text
    return torch.randn(count, FACTS.image_width, generator=generator), torch.randn(count, FACTS.text_width, generator=generator)


def batch_of(name: str, count: int, seed: int = 0, codes: list[int] | None = None, tasks: list[int] | None = None) -> Batch:
    image, text = inputs_of(name, count, seed)
    numbers = torch.arange(count)
    return Batch(
        image=image,
        text=text,
        pair_id=numbers,
        image_id=numbers if codes is None else torch.tensor(codes),
        task=torch.zeros(count, dtype=torch.int64) if tasks is None else torch.tensor(tasks),
    )


class Attentive(DualEncoder):
    """Branches with torch's own attention, as transformers have it; a part of its weights is shared."""

    def __init__(self, facts: DataFacts, width: int = 4, learn_temperature: bool = False) -> None:
        super().__init__(0.1, learn_temperature)
        self._facts = facts
        self.image_branch = nn.Linear(1, 3 * width)
        self.text_branch = nn.Linear(1, 3 * width)
        self.top = nn.Linear(width, width)

    def inputs(self) -> Inputs:
        return Inputs(Features("image", self._facts.image_width or 0), Features("text", self._facts.text_width or 0))

    def project_image(self, image: torch.Tensor) -> torch.Tensor:
        return self._attend(self.image_branch, image)

    def project_text(self, text: torch.Tensor) -> torch.Tensor:
        return self._attend(self.text_branch, text)

    def _attend(self, mix: nn.Module, values: torch.Tensor) -> torch.Tensor:
        query, key, value = mix(values.unsqueeze(-1)).unsqueeze(1).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.top(torch.tanh(mixed.squeeze(1).sum(1)))
