"""What a run is against where it happens: four verbs and a beginning and an end."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from cmcl_ray import storage
from cmcl_ray.data.stream import TaskStream
from cmcl_ray.index.backends.base import Backend
from cmcl_ray.index.embeddings import Embeddings
from cmcl_ray.index.hits import Hits
from cmcl_ray.index.search import RoutedShard
from cmcl_ray.index.shards import Shard
from cmcl_ray.logs import Display
from cmcl_ray.models.base import ModelVersion
from cmcl_ray.run.embedding import EmbedRequest
from cmcl_ray.run.settings import RunSettings
from cmcl_ray.train.job import FitJob


@dataclass(frozen=True)
class RunContext:
    """What the verbs work on.

    Args:
        settings: of the run.
        stream: all tasks.
        backend: builds and opens indexes.
        display: where stages tell how far they are.
    """

    settings: RunSettings
    stream: TaskStream
    backend: Backend
    display: Display

    @property
    def job(self) -> FitJob:
        """The training of the stream."""
        settings = self.settings
        return FitJob(
            settings.out, settings.seed, self.stream, settings.model, settings.loss, settings.strategies, settings.train
        )

    @property
    def gallery(self) -> str:
        """The folder of embeddings, shards and gallery versions."""
        return storage.join(self.settings.out, "gallery")


@dataclass(frozen=True)
class BuildRequest:
    """A shard to be built: the gallery entries of one task and side, as one version embedded them."""

    task: int
    task_name: str
    embeddings: Embeddings


class Engine(ABC):
    """Where the work of a run happens. Every verb leaves its results in the run's folder and skips what is there already."""

    def check(self, settings: RunSettings) -> None:  # noqa: B027  # may be left out
        """Refuse what this engine can never do, before anything is read or started."""

    @abstractmethod
    def open(self, context: RunContext) -> None:
        """Get ready for a run; a run opened before is closed first."""

    @abstractmethod
    def fit(self, task: int) -> ModelVersion:
        """Return the version a task ended with, training it (and going on after a kill) where it is not done."""

    @abstractmethod
    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embeddings]:
        """Return the vectors of each request; what is stored already is not embedded again."""

    @abstractmethod
    def build(self, requests: Sequence[BuildRequest]) -> list[Shard]:
        """Return an index shard for each request."""

    @abstractmethod
    def search(self, parts: Sequence[RoutedShard], k: int) -> list[Hits]:
        """Return the k best hits of every shard, each with its own queries and calibration."""

    @abstractmethod
    def close(self) -> None:
        """End the run's work; what the engine started for itself stays for the next run."""

    def shutdown(self) -> None:  # noqa: B027  # may be left out
        """Stop all this engine started."""
