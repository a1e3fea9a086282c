"""The contract of a search backend: vectors and ids in, hits out.

Shape legend: N gallery rows, Q queries, D embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from cmcl_ray.index.hits import Floats, Hits, Ids


class Index(ABC):
    """Searchable vectors of one shard; what it holds never changes, so a gallery version stays what it was."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of vectors."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the vectors."""

    @abstractmethod
    def search(self, queries: Floats, k: int) -> Hits:
        """Find the best vectors of each query by inner product.

        Args:
            queries: (Q, D) float32; Q may be 0.
            k: hits per query, at least 1; may exceed the number of vectors.

        Returns:
            Hits (Q, k), scores descending, ties by lower id; id -1 and score -inf where fewer exist.

        Raises:
            ShapeError: the queries have another width than the vectors.
            DataError: a query holds a value that is not finite.
            ValueError: k is below 1.
        """

    @abstractmethod
    def add(self, vectors: Floats, ids: Ids) -> "Index":
        """Return a new index with further vectors; this one stays as it is.

        Args:
            vectors: (N, D) float32.
            ids: (N,) int64, >= 0, none of them in the index yet.

        Raises:
            ShapeError: the arrays do not fit each other or this index.
            DataError: an id is negative or there already, or a value is not finite.
        """

    @abstractmethod
    def save(self, folder: str) -> dict[str, dict[str, Any]]:
        """Write the files of the index into a folder, which the caller seals with a manifest.

        Returns:
            name -> {bytes, sha256} of each file; equal content gives equal files.
        """


class Backend(ABC):
    """Builds and opens indexes of one kind; the constructor signature is its settings.

    ``name`` stands in the name of every shard made: two settings that write different files for the same vectors need two names.
    """

    name: ClassVar[str]

    @abstractmethod
    def build(self, vectors: Floats, ids: Ids) -> Index:
        """Make an index.

        Args:
            vectors: (N, D) float32, finite; N may be 0. Kept without a copy where the ids ascend; do not change them afterwards.
            ids: (N,) int64, >= 0, each once, in any order.

        Raises:
            ShapeError: the arrays do not fit each other.
            DataError: an id is negative or occurs twice, or a value is not finite.
        """

    @abstractmethod
    def open(self, folder: str, files: Mapping[str, Mapping[str, Any]]) -> Index:
        """Open an index that ``save`` wrote.

        Args:
            folder: where its files lie.
            files: name -> {bytes, sha256} as ``save`` returned it; every file is held against it.

        Raises:
            IntegrityError: a file is missing, not listed, or damaged; the text names it.
        """
