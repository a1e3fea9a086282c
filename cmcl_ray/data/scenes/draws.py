"""Choices keyed by position: the same key gives the same choices on any machine, in any order, in any process.

SHAKE-128 is in every Python's hashlib and has one definition, while NumPy may change its distributions between versions.
"""

import hashlib


class Draws:
    """A sequence of choices that belongs to one position.

    Args:
        position: what the choices are for, such as seed, group and index; equal positions give equal choices.
    """

    def __init__(self, *position: int | str) -> None:
        self._key = "/".join(map(str, position))
        self._bytes = b""
        self._at = 0
        self._block = 0

    def below(self, limit: int) -> int:
        """Return the next whole number in [0, limit); the bias of the modulo is below limit / 2**32."""
        if self._at == len(self._bytes):
            self._bytes = hashlib.shake_128(f"{self._key}#{self._block}".encode()).digest(256)
            self._block += 1
            self._at = 0
        value = int.from_bytes(self._bytes[self._at : self._at + 4], "little")
        self._at += 4
        return value % limit

    def chance(self, of_256: int) -> bool:
        """Return true with probability of_256 / 256."""
        return self.below(256) < of_256

    def raw(self, count: int) -> bytes:
        """Return some bytes of this position; calling it takes nothing from the other choices."""
        return hashlib.shake_128(f"{self._key}#raw".encode()).digest(count)
