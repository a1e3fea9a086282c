"""Which split each pair belongs to: by the values of a column, by a keyed hash, or a hash's share cut from a column's train rows.

A keyed hash gives every value the same place whatever the order, the number of files or the machine, so a split stays as it is
when rows are added.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.data.pairs import Pairs, require_columns
from cmcl_ray.errors import DataError, did_you_mean

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
LEFT_OUT = -1

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitSettings:
    """How pairs become train, val and test.

    Args:
        column: column whose values name the split; none: every row counts as train before shares are cut.
        train: values of the column that mean train.
        val: values that mean val.
        test: values that mean test; rows with any other value are left out and counted.
        val_share: share of the train rows' keys that becomes val, by keyed hash.
        test_share: share of the train rows' keys that becomes test.
        key: column that is hashed; rows with equal values stay together.
        salt: another salt cuts other shares.
        query_where: column -> values: val and test keep only rows with one of them; train keeps all.

    Raises:
        ValueError: a value is named for two splits, or the shares leave nothing for training.
    """

    column: str | None = None
    train: tuple[str, ...] = ("train",)
    val: tuple[str, ...] = ("val",)
    test: tuple[str, ...] = ("test",)
    val_share: float = 0.0
    test_share: float = 0.0
    key: str = "image_id"
    salt: int = 0
    query_where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        named = [*self.train, *self.val, *self.test]
        twice = next((value for value in named if named.count(value) > 1), None)
        if self.column is not None and twice is not None:
            raise ValueError(
                f"value '{twice}' is named twice among train, val and test; expected one split a value; remove it from one"
            )
        if not (self.val_share >= 0 and self.test_share >= 0 and self.val_share + self.test_share < 1):
            raise ValueError(
                f"val_share is {self.val_share} and test_share is {self.test_share}; expected shares from 0 whose sum is below "
                "1; lower them"
            )


def keyed_hash(values: Iterable[str], use: str, salt: int) -> npt.NDArray[np.uint64]:
    """Hash texts to whole numbers that are uniform in [0, 2**64): the same on any machine and in any order.

    Args:
        values: what is hashed.
        use: what the numbers are for: without it a task cut by hash would hold all of the test rows cut by the same hash.
        salt: another salt gives other numbers.
    """
    key = f"{use}/{salt}".encode()
    digests = b"".join(hashlib.blake2b(value.encode(), digest_size=8, key=key).digest() for value in values)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def assign_splits(pairs: Pairs, settings: SplitSettings) -> Codes:
    """Say which split each pair row belongs to, before ``query_where``.

    Returns:
        (number of pairs,) positions in SPLITS, or LEFT_OUT where the column's value is named for no split.

    Raises:
        DataError: a column is missing, or none of its values is named for a split.
    """
    codes = np.full(len(pairs), TRAIN, dtype=np.int64)
    if settings.column is not None:
        require_columns(pairs.pairs, (settings.column,), "the pairs table")
        codes[:] = LEFT_OUT
        for code, values in enumerate((settings.train, settings.val, settings.test)):
            codes[has_value(pairs.pairs, settings.column, values)] = code
        if len(pairs) and (codes == LEFT_OUT).all():
            found = column_values(pairs.pairs, settings.column)
            raise DataError(
                f"no row has a split: column '{settings.column}' holds {', '.join(map(repr, found[:10]))}; expected one of "
                f"{', '.join(map(repr, (*settings.train, *settings.val, *settings.test)))}; name its values under stream.splits"
            )
    if settings.val_share or settings.test_share:
        _cut_shares(pairs, settings, codes)
    return codes


def _cut_shares(pairs: Pairs, settings: SplitSettings, codes: Codes) -> None:
    require_columns(pairs.pairs, (settings.key,), "the pairs table")
    encoded = pc.dictionary_encode(as_text(pairs.pairs, settings.key))
    place = keyed_hash(encoded.dictionary.to_pylist(), "split", settings.salt)[np.asarray(encoded.indices)]
    first, second = (np.uint64(int(share * 2.0**64)) for share in (settings.test_share, settings.test_share + settings.val_share))
    from_train = codes == TRAIN
    codes[from_train & (place < second)] = VAL
    codes[from_train & (place < first)] = TEST


def keep_queries(pairs: Pairs, settings: SplitSettings, codes: Codes) -> Codes:
    """Return the codes with val and test rows left out that do not meet ``query_where``.

    Raises:
        DataError: a column of ``query_where`` is missing.
    """
    kept = codes.copy()
    for column, values in settings.query_where.items():
        require_columns(pairs.pairs, (column,), "the pairs table")
        known = column_values(pairs.pairs, column)
        for value in values:
            if value not in known:
                raise DataError(
                    f"stream.splits.query_where.{column} names '{value}', which no row has{did_you_mean(value, known)}; expected "
                    f"one of {', '.join(map(repr, known[:10]))}; correct it"
                )
        kept[(codes != TRAIN) & ~has_value(pairs.pairs, column, values)] = LEFT_OUT
    return kept


def as_text(table: pa.Table, column: str) -> pa.Array:
    """Return a column as one array of texts; a null becomes the empty text."""
    values = table.column(column)
    return pc.fill_null((values if pa.types.is_string(values.type) else values.cast(pa.string())).combine_chunks(), "")


def has_value(table: pa.Table, column: str, values: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Tell for each row whether a column has one of the values; a null has none."""
    texts = table.column(column).cast(pa.string()).combine_chunks()
    found: npt.NDArray[np.bool_] = np.asarray(
        pc.is_in(texts, value_set=pa.array(list(values), pa.string())).to_numpy(zero_copy_only=False)
    )
    return found


def column_values(table: pa.Table, column: str) -> list[str]:
    """Return the different values of a column as texts, in order of first appearance, without null."""
    return [value for value in pc.unique(table.column(column).cast(pa.string())).to_pylist() if value is not None]
