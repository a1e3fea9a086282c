"""Choosing memory by a keyed hash: no generator state, free of order, mergeable over shards."""

from collections.abc import Iterable
from hashlib import blake2b


def key_of(name: str, salt: tuple[int, ...]) -> int:
    """Return a 64-bit key of an id that looks random and depends on the id and the salt alone."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8, key=repr(salt).encode()[:64]).digest(), "little")


def smallest_keys(names: Iterable[str], count: int, salt: tuple[int, ...]) -> list[str]:
    """Return the ``count`` ids with the smallest keys, in order of key: a uniform sample (bottom-k sketch).

    The choice over a union is the choice over the choices: merge parts by choosing again.
    """
    return sorted(set(names), key=lambda name: (key_of(name, salt), name))[:count]
