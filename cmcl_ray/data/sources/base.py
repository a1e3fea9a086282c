"""What every source gives: the pairs table and the rows it had to set aside."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pyarrow as pa

from cmcl_ray.data.pairs import Pairs

REJECTED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class SourceData:
    """What a source read.

    Args:
        pairs: the rows that can be used.
        rejected: the rows set aside, one row a pair: ``id`` (pair id), ``reason`` (one of few fixed texts, to count by) and
            ``detail`` (what was found); schema ``REJECTED``.
    """

    pairs: Pairs
    rejected: pa.Table


class Source(ABC):
    """A dataset. The constructor's signature is its settings; nothing is read before ``read``."""

    @abstractmethod
    def read(self) -> SourceData:
        """Read the dataset; the same settings and files give the same rows in the same order.

        Raises:
            DataError: the dataset cannot be used.
        """
