"""Gallery versions: immutable lists of shards, named by their content, with one pointer to those in use.

A swap and a rollback are one atomic write of ``current``; nothing that a version names is ever changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError, StageError, did_you_mean
from cmcl_ray.index.shards import Shard


@dataclass(frozen=True)
class GalleryVersion:
    """The gallery under one policy after one task.

    Args:
        shards: all its shards, both sides.
        parent: id of the version it follows, or None.
        policy: label of the policy that made it.
        after_task: position of the newest task in it.
        facts: further values.
    """

    shards: tuple[Shard, ...]
    parent: str | None
    policy: str
    after_task: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Digest of the content: 16 hexadecimal digits."""
        return storage.digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the version as plain values; equal versions give equal values."""
        return {
            "shards": [shard.to_json() for shard in self.shards],
            "parent": self.parent,
            "policy": self.policy,
            "after_task": self.after_task,
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Make a version from what to_json returned."""
        return cls(**{**value, "shards": tuple(Shard.from_json(shard) for shard in value["shards"])})


@dataclass(frozen=True)
class Current:
    """The gallery versions in use.

    Args:
        live: label of the policy that answers queries.
        policies: label of each policy -> id of its newest version.
    """

    live: str
    policies: Mapping[str, str]


class GalleryStore:
    """The gallery versions of a run and the pointer to those in use.

    Args:
        root: folder or URI, usually ``<out>/gallery``.
    """

    def __init__(self, root: str) -> None:
        self._root = storage.absolute(root)

    def commit(self, version: GalleryVersion) -> str:
        """Store a version and return its id; storing it again changes nothing. The shards it names must be whole by then.

        Raises:
            StageError: its parent is not stored, or a shard's folder is not finished.
        """
        if version.parent is not None and not storage.exists(self._path(version.parent)):
            raise StageError(
                f"parent {version.parent} of a gallery version is not in {self._root}; expected a committed id; commit it first"
            )
        for shard in version.shards:
            if not storage.has_manifest(storage.join(self._root, shard.folder)):
                raise StageError(
                    f"shard {storage.join(self._root, shard.folder)} has no manifest; expected a finished shard; build it before "
                    "the gallery version that names it"
                )
        if not storage.exists(self._path(version.id)):
            storage.write_json(self._path(version.id), version.to_json())
        return version.id

    def read(self, id: str) -> GalleryVersion:
        """Read a version and hold its content against its name.

        Raises:
            IntegrityError: the file is missing, or its content has another digest; the text names the file.
        """
        value = storage.read_json(self._path(id))
        found = storage.digest_of(value)
        if found != id:
            raise IntegrityError(
                f"file {self._path(id)} is damaged: its content has digest {found}, its name says {id}; remove it and run the "
                "stage that commits it"
            )
        return GalleryVersion.from_json(value)

    def set_current(self, ids: Mapping[str, str], live: str) -> None:
        """Point at the versions in use, in one atomic write.

        Args:
            ids: label of each policy -> id of its version.
            live: label of the policy that answers queries.

        Raises:
            StageError: a version is not stored, or the live policy is not among them.
        """
        if live not in ids:
            raise StageError(
                f"live policy is '{live}'{did_you_mean(live, ids)}; expected one of {', '.join(ids) or 'none yet'}; name one of "
                "them"
            )
        for policy, id in ids.items():
            if not storage.exists(self._path(id)):
                raise StageError(
                    f"gallery version {id} of policy '{policy}' is not in {self._root}; expected a committed id; commit it first"
                )
        storage.write_json(storage.join(self._root, "current"), {"live": live, "policies": dict(ids)})

    def current(self) -> Current:
        """Return the versions in use.

        Raises:
            StageError: no version was made current yet.
        """
        path = storage.join(self._root, "current")
        if not storage.exists(path):
            raise StageError(
                f"gallery {self._root} has no file current; expected a finished task; let the run finish its first task"
            )
        value = storage.read_json(path)
        return Current(value["live"], value["policies"])

    def rollback(self, policy: str) -> str:
        """Point a policy back at the parent of its current version, and return the parent's id.

        Raises:
            StageError: the policy is unknown, or its version has no parent.
            IntegrityError: the version's file is missing or damaged.
        """
        current = self.current()
        if policy not in current.policies:
            raise StageError(
                f"policy '{policy}' has no gallery in {self._root}{did_you_mean(policy, current.policies)}; expected one of "
                f"{', '.join(current.policies)}; name one of them"
            )
        version = self.read(current.policies[policy])
        if version.parent is None:
            raise StageError(
                f"gallery version {version.id} of policy '{policy}' has no parent; expected an older version to go back to; it "
                "is the first one, leave it"
            )
        self.set_current({**current.policies, policy: version.parent}, current.live)
        return version.parent

    def _path(self, id: str) -> str:
        return storage.join(self._root, "versions", f"{id}.json")
