"""Shards: the vectors of one task and side, made by one model version, in files that a backend can search.

The version belongs to the shard, never to the whole gallery. A shard's folder is named by what decides its content, so building
it again finds it there, and any number of gallery versions share it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError, ShapeError
from cmcl_ray.index.backends.base import Backend, Index
from cmcl_ray.index.embeddings import Embeddings

DTYPE = "float32"


@dataclass(frozen=True)
class Shard:
    """What is known of a shard without opening it.

    Args:
        task: position of the task its rows came with.
        task_name: the task's name.
        side: image or text.
        version: model version that made the vectors.
        dtype: number type of the vectors.
        dim: their width.
        count: their number.
        folder: where the files lie, relative to the gallery's root.
        embeddings: name of the embeddings it was built from.
        backend: name of the backend that wrote the files.
        map_chain: versions whose spaces the vectors were mapped through after embedding, in order; empty where none.
        files: name -> {bytes, sha256}.
        facts: further values, such as the mean and sd for score calibration.
    """

    task: int
    task_name: str
    side: str
    version: str
    dtype: str
    dim: int
    count: int
    folder: str
    embeddings: str
    backend: str
    map_chain: tuple[str, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Digest of what decides the content of the files: 16 hexadecimal digits."""
        return storage.digest_of(_identity(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return the shard as plain values; equal shards give equal values."""
        return {**asdict(self), "map_chain": list(self.map_chain)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Make a shard from what to_json returned."""
        return cls(**{**value, "map_chain": tuple(value["map_chain"])})


def build_shard(
    root: str,
    backend: Backend,
    embeddings: Embeddings,
    *,
    task: int,
    task_name: str,
    facts: Mapping[str, Any] | None = None,
) -> Shard:
    """Build the index of one task and side and make its folder whole; files that are there already are not built again.

    Args:
        root: the gallery's root.
        backend: what builds the index.
        embeddings: the vectors with their ids.
        task: position of the task the rows came with.
        task_name: the task's name.
        facts: values kept with the shard; they do not change its files or its name.

    Raises:
        ShapeError, DataError: the embeddings cannot be indexed; see Backend.build.
    """
    count, dim = embeddings.vectors.shape
    known = {
        "task": task,
        "side": embeddings.key.side,
        "version": embeddings.key.version,
        "dtype": DTYPE,
        "dim": dim,
        "count": count,
    }
    identity = {**known, "map_chain": [], "embeddings": embeddings.key.name, "backend": backend.name}
    folder = storage.join("shards", storage.digest_of(identity))
    place = storage.join(root, folder)
    if storage.has_manifest(place):
        files = storage.read_manifest(place)["files"]
    else:
        written = backend.build(embeddings.vectors, embeddings.ids).save(place)
        files = storage.seal(place, written, {"shard": identity})["files"]
    return Shard.from_json({**identity, "task_name": task_name, "folder": folder, "files": files, "facts": dict(facts or {})})


def open_shard(root: str, shard: Shard, backend: Backend) -> Index:
    """Open the index of a shard, every file held against the checksum that the shard itself carries.

    Raises:
        IntegrityError: a file is missing or damaged, or the folder was never finished; the text names the file.
        ShapeError: the files hold other vectors than the shard says.
    """
    folder = storage.join(storage.absolute(root), shard.folder)
    made = storage.read_manifest(folder).get("shard")
    if made != _identity(shard.to_json()):
        raise IntegrityError(
            f"manifest {storage.join(folder, storage.MANIFEST)} is of shard {made}; expected {_identity(shard.to_json())}; "
            "remove the folder and run again to make it anew"
        )
    index = backend.open(folder, shard.files)
    if (index.count, index.dim) != (shard.count, shard.dim):
        raise ShapeError(
            f"shard {folder} holds {index.count} vectors of dim {index.dim}, its gallery version says {shard.count} of dim "
            f"{shard.dim}; expected the same; remove the folder and run again to make it anew"
        )
    return index


def _identity(value: Mapping[str, Any]) -> dict[str, Any]:
    names = ("task", "side", "version", "dtype", "dim", "count", "map_chain", "embeddings", "backend")
    return {name: value[name] for name in names}
