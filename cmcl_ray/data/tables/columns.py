"""Columns under our names and of our types."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.data.pairs import IMAGE_COLUMNS, PAIR_COLUMNS
from cmcl_ray.errors import DataError, did_you_mean

_FEATURES = ("image_features", "text_features")


def rename(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """Return a table with each mapped column also under our name; a column of that name gives way.

    Args:
        table: any table.
        columns: our name -> their name; entries whose column is not there are passed over.
    """
    result = table
    for ours, theirs in columns.items():
        if theirs in table.column_names:
            if ours in result.column_names:
                result = result.drop_columns([ours])
            result = result.append_column(ours, table.column(theirs))
    return result


def check_mapped(columns: Mapping[str, str], found: list[str]) -> None:
    """Check the settings ``columns`` against the columns of all tables.

    Raises:
        DataError: one of ours is unknown, or one of theirs is in no table.
    """
    known = sorted({*IMAGE_COLUMNS, *PAIR_COLUMNS})
    for ours, theirs in columns.items():
        if ours not in known:
            raise DataError(
                f"stream.source.columns names '{ours}'{did_you_mean(ours, known)}; expected one of {', '.join(known)}; correct it"
            )
        if theirs not in found:
            raise DataError(
                f"stream.source.columns.{ours} is '{theirs}', which no table has{did_you_mean(theirs, found)}; expected one of "
                f"{', '.join(found)}; correct it"
            )


def normalise(table: pa.Table, path: str) -> pa.Table:
    """Return the columns we keep, in our types: our own, and all others that hold texts.

    Raises:
        DataError: a column of ours has a type that cannot be used.
    """
    kept: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name == "image":
            if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
                raise DataError(
                    f"column image of {path} has type {column.type}; expected binary (encoded image files); for paths or URIs "
                    "set stream.source.columns.image_uri to its name"
                )
            # Offsets of 32 bits end at 2 GiB of images.
            kept[name] = column.cast(pa.large_binary())
        elif name in _FEATURES:
            kept[name] = _feature_column(column, name, path)
        elif name == "time":
            kept[name] = column
        elif name in IMAGE_COLUMNS or name in PAIR_COLUMNS:
            kept[name] = _text_column(column, name, path)
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            kept[name] = column.cast(pa.string())
    return pa.table(kept)


def _text_column(column: pa.ChunkedArray, name: str, path: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        raise DataError(
            f"column {name} of {path} has type {column.type}; expected texts; name another column in stream.source.columns"
        ) from None


def _feature_column(column: pa.ChunkedArray, name: str, path: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32():
        return column
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.unique(pc.list_value_length(column).drop_null())
        if len(lengths) == 1 and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
            return column.cast(pa.list_(pa.float32(), lengths[0].as_py()))
        raise DataError(
            f"column {name} of {path} has type {kind} and lists of {len(lengths)} lengths; expected numbers, equally many a row; "
            "write it anew as fixed-size lists of float32"
        )
    raise DataError(f"column {name} of {path} has type {kind}; expected fixed-size lists of float32; write it anew so")


def finite_rows(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell for each row of a feature column whether it is there and all its numbers are finite."""
    array = column.combine_chunks()
    width = array.type.list_size
    # fill_null has no kernel for lists; flatten leaves null rows out.
    there = np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False))
    good = there.copy()
    values = array.filter(pc.is_valid(array)).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    good[there] = np.isfinite(values).all(axis=1)
    return good
