"""Embedding rows with a model version: the work of one part, whatever process does it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cmcl_ray import storage
from cmcl_ray.components import ComponentSpec
from cmcl_ray.data.images import facts_of
from cmcl_ray.data.pairs import Pairs, Rows
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.index.embeddings import EmbeddingKey, rows_digest
from cmcl_ray.models.base import DualEncoder, ModelVersion, build_model, encode_rows
from cmcl_ray.train.checkpoints import read_weights
from cmcl_ray.train.world import choose_device


@dataclass(frozen=True)
class EmbedRequest:
    """Rows to be embedded by one version.

    Args:
        version: the model.
        side: image or text.
        rows: (n,) image rows or pair rows, ascending; they become the ids of the vectors.
    """

    version: ModelVersion
    side: str
    rows: Rows

    def parts(self, part_rows: int) -> list[Rows]:
        """Return the rows cut into pieces of work."""
        return [self.rows[start : start + part_rows] for start in range(0, len(self.rows), part_rows)]


def key_of(request: EmbedRequest, stream: TaskStream, model: ComponentSpec) -> EmbeddingKey:
    """Return the name the vectors of a request are stored under: version, side, and digest of the rows' content."""
    content = storage.digest_of({"stream": stream.fingerprint, "model": model.name, "params": dict(model.params)})
    return EmbeddingKey(request.version.id, request.side, rows_digest(request.rows, content))


@dataclass
class Embedder:
    """Embeds parts; keeps the models of the last few versions, since parts of one version come one after the other.

    Args:
        pairs: the stream's tables.
        model: the model's settings.
        seed: of the run.
        batch_rows: rows in a forward pass.
        device: auto, cpu or cuda.
        threads: torch threads of this process; 0 leaves the machine's own choice.
        versions_kept: models held at a time.
    """

    pairs: Pairs
    model: ComponentSpec
    seed: int
    batch_rows: int
    device: str = "auto"
    threads: int = 0
    versions_kept: int = 2
    _models: dict[str, DualEncoder] = field(default_factory=dict)

    def embed(self, version: ModelVersion, side: str, rows: Rows) -> np.ndarray:
        """Return unit vectors (n, D) float32 of image rows or pair rows."""
        if self.threads:
            torch.set_num_threads(self.threads)
        device = choose_device(self.device)
        return encode_rows(self._model(version, device), self.pairs, side, rows, self.batch_rows, device)

    def _model(self, version: ModelVersion, device: torch.device) -> DualEncoder:
        if version.id not in self._models:
            while len(self._models) >= self.versions_kept:
                self._models.pop(next(iter(self._models)))
            model = build_model(self.model, facts_of(self.pairs), self.seed)
            model.load_state_dict(read_weights(version.folder))
            self._models[version.id] = model.to(device).eval()
        return self._models[version.id]


def unique_requests(requests: Sequence[EmbedRequest], keys: Sequence[EmbeddingKey]) -> dict[EmbeddingKey, EmbedRequest]:
    """Return each request once, in order of first appearance."""
    unique: dict[EmbeddingKey, EmbedRequest] = {}
    for key, request in zip(keys, requests, strict=True):
        unique.setdefault(key, request)
    return unique
