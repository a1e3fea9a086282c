"""Embeddings as content-addressed files that can be resumed.

A job writes parts; each counts once its sidecar, written last, agrees with it. ``finish`` joins the parts and writes the manifest
last, so embeddings are whole or absent, and those of the same rows by the same version are made once for all policies.

Shape legend: N rows, D embedding width.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError, ShapeError, StageError
from cmcl_ray.index.arrays import Array, open_array, write_array
from cmcl_ray.index.hits import Floats, Ids
from cmcl_ray.index.raw import IDS, VECTORS


@dataclass(frozen=True)
class EmbeddingKey:
    """What embeddings are of: nothing else may change their bytes.

    Args:
        version: model version that makes the vectors.
        side: image or text.
        rows: digest of the ids and inputs in their order; see rows_digest.
    """

    version: str
    side: str
    rows: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"{self.version}-{self.side}-{self.rows[:16]}"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors with the ids of their rows.

    Args:
        key: what they are of.
        ids: (N,) int64 in the order they were embedded in.
        vectors: (N, D) float32; a private memory map where the file is local.
        facts: values given when they were finished, such as the seconds spent.
    """

    key: EmbeddingKey
    ids: Ids
    vectors: Floats
    facts: Mapping[str, Any] = field(default_factory=dict)


def rows_digest(ids: Ids, content: str) -> str:
    """Digest the ids of rows, in their order, together with a digest of what they hold: 64 hexadecimal digits."""
    head = json.dumps([len(ids), content]).encode()
    return storage.sha256(head + np.ascontiguousarray(ids, dtype="<i8").tobytes())


class EmbeddingStore:
    """The folder of all embeddings of a run.

    Args:
        root: folder or URI, usually ``<out>/gallery/embeddings``.
    """

    def __init__(self, root: str) -> None:
        self._root = storage.absolute(root)

    def folder(self, key: EmbeddingKey) -> str:
        """Return the folder of some embeddings, whether they are there or not."""
        return storage.join(self._root, key.name)

    def has(self, key: EmbeddingKey) -> bool:
        """Tell whether embeddings are finished: their manifest is there."""
        return storage.has_manifest(self.folder(key))

    def open(self, key: EmbeddingKey, verify: bool = True) -> Embeddings:
        """Open finished embeddings.

        Args:
            key: what they are of.
            verify: hold both files against their checksums; else only their presence is checked.

        Raises:
            IntegrityError: they are not finished, made of other rows, or a file is missing or damaged; the text names it.
        """
        found = self.open_name(key.name, verify)
        if found.key != key:
            raise IntegrityError(
                f"embeddings {self.folder(key)} are of {found.key}, wanted were {key}; expected the same key; remove the folder "
                "and run again to make it anew"
            )
        return found

    def open_name(self, name: str, verify: bool = True) -> Embeddings:
        """Open finished embeddings by the name of their key, as a shard carries it.

        Raises:
            IntegrityError: they are not finished, or a file is missing or damaged; the text names it.
        """
        folder = storage.join(self._root, name)
        manifest = storage.read_manifest(folder)
        ids_N = open_array(folder, IDS, manifest["files"], verify)
        vectors_ND = open_array(folder, VECTORS, manifest["files"], verify)
        return Embeddings(EmbeddingKey(**manifest["key"]), ids_N, vectors_ND, manifest["facts"])

    def write_part(self, key: EmbeddingKey, part: int, ids: Ids, vectors: Floats) -> None:
        """Write one part; parts may come in any order, and a part written again replaces the old one.

        Args:
            key: what the embeddings are of.
            part: position of the part, from 0.
            ids: (N,) int64.
            vectors: (N, D) float32; N may be 0.

        Raises:
            ShapeError: the arrays do not fit each other.
        """
        if vectors.ndim != 2 or ids.shape != (len(vectors),):
            raise ShapeError(
                f"part {part} of embeddings {key.name} has vectors of shape {vectors.shape} and ids of shape {ids.shape}; "
                "expected (N, D) and (N,); give one id a vector"
            )
        rows_N = np.empty(len(ids), dtype=[("id", "<i8"), ("vector", "<f4", (vectors.shape[1],))])
        rows_N["id"], rows_N["vector"] = ids, vectors
        folder = self.folder(key)
        # Without its sidecar a part does not count, so an older sidecar must not vouch for new bytes.
        storage.remove(storage.join(folder, _sidecar(part)))
        entry = write_array(storage.join(folder, _part(part)), rows_N)
        storage.write_json(storage.join(folder, _sidecar(part)), {**entry, "count": len(ids)})

    def parts_done(self, key: EmbeddingKey) -> set[int]:
        """Return the parts that are whole: their sidecar is there and agrees with their bytes. Finished embeddings have none."""
        folder = self.folder(key)
        if self.has(key):
            return set()
        done = set()
        for name in storage.list_names(folder):
            if name.startswith("part-") and name.endswith(".json"):
                part = int(name.removeprefix("part-").removesuffix(".json"))
                try:
                    self._open_part(folder, part)
                except IntegrityError:
                    continue
                done.add(part)
        return done

    def finish(self, key: EmbeddingKey, parts: int, facts: Mapping[str, Any]) -> Embeddings:
        """Join the parts in order and make the embeddings whole; nothing happens where they are already.

        Args:
            key: what the embeddings are of.
            parts: number of parts, at least 1.
            facts: values kept in the manifest, such as the seconds spent.

        Raises:
            StageError: a part is missing.
            IntegrityError: a part is damaged; the text names its file.
            ShapeError: parts differ in width.
        """
        folder = self.folder(key)
        if not self.has(key):
            names = set(storage.list_names(folder))
            missing = [part for part in range(parts) if _sidecar(part) not in names]
            if missing or parts < 1:
                raise StageError(
                    f"embeddings {folder} lack {len(missing)} of {parts} parts, first part {missing[0] if missing else 0}; "
                    f"expected parts 0 to {parts - 1}; embed those that parts_done does not list, then finish"
                )
            joined = [self._open_part(folder, part) for part in range(parts)]
            widths = sorted({rows_N["vector"].shape[1] for rows_N in joined})
            if len(widths) > 1:
                raise ShapeError(
                    f"parts of embeddings {folder} have widths {widths}; expected one; remove the folder and embed again"
                )
            vectors_ND = np.concatenate([rows_N["vector"] for rows_N in joined])
            files = {
                VECTORS: write_array(storage.join(folder, VECTORS), vectors_ND),
                IDS: write_array(storage.join(folder, IDS), np.concatenate([rows_N["id"] for rows_N in joined])),
            }
            storage.seal(folder, files, {"key": asdict(key), "facts": dict(facts)})
        # Only after the manifest: a kill before it must not cost the parts.
        for name in storage.list_names(folder):
            if name.startswith("part-"):
                storage.remove(storage.join(folder, name))
        return self.open(key)

    def _open_part(self, folder: str, part: int) -> Array:
        entry = storage.read_json(storage.join(folder, _sidecar(part)))
        return open_array(folder, _part(part), {_part(part): entry})


def _part(part: int) -> str:
    return f"part-{part:05d}.npy"


def _sidecar(part: int) -> str:
    return f"part-{part:05d}.json"
