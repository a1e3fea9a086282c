"""Captions as numbers without a vocabulary file: words and their letter groups, hashed.

A fixed vocabulary would have to be known before the stream begins, and a learned one would grow with it. Hashing gives every
word of every later task an id from the start; the letter groups let unseen words share parts with known ones (as in fastText,
Bojanowski et al. 2017, arXiv 1607.04606). Price: two words may meet in one bucket.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W_]+", re.UNICODE)


@dataclass(frozen=True)
class HashTokenizer:
    """Words to hashed ids: one for the word itself and some for its letter groups.

    Args:
        buckets: number of ids; 0 is kept for padding.
        length: words kept of a caption.
        letters: size of the letter groups; 0 leaves them out.
        groups: letter groups kept of a word.

    Raises:
        ValueError: a setting cannot work.
    """

    buckets: int = 4096
    length: int = 24
    letters: int = 3
    groups: int = 7
    _known: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, least in (("buckets", 2), ("length", 1), ("letters", 0), ("groups", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")

    @property
    def width(self) -> int:
        """Ids a word: itself and its letter groups."""
        return 1 + (self.groups if self.letters else 0)

    def __call__(self, captions: list[str]) -> npt.NDArray[np.int64]:
        """Return (n, length, width) ids; 0 where there is no word or no further letter group."""
        tokens = np.zeros((len(captions), self.length, self.width), dtype=np.int64)
        for row, caption in enumerate(captions):
            # One form for letters with accents, which come as one character or as two.
            words = _WORD.findall(unicodedata.normalize("NFC", caption.lower()))
            for position, word in enumerate(words[: self.length]):
                ids = self._known.get(word) or self._word(word)
                tokens[row, position, : len(ids)] = ids
        return tokens

    def _word(self, word: str) -> tuple[int, ...]:
        parts = [word]
        if self.letters:
            marked = f"<{word}>"
            parts += [marked[start : start + self.letters] for start in range(max(1, len(marked) - self.letters + 1))][
                : self.groups
            ]
        ids = tuple(self._bucket(part) for part in parts)
        # Bounds the memory on endless vocabularies; recomputing is cheap.
        if len(self._known) < 100_000:
            self._known[word] = ids
        return ids

    def _bucket(self, text: str) -> int:
        return 1 + int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") % (self.buckets - 1)

    def describe(self) -> dict[str, Any]:
        """Return the tokenizer as a JSON value."""
        return {"tokens": "hash", "buckets": self.buckets, "length": self.length, "letters": self.letters, "groups": self.groups}
