"""The pairs table: image-text pairs with their images stored once.

Two Arrow tables: ``images`` with one row an image, ``pairs`` with one row an image-caption pair. Everything downstream names
them by position: an *image row* is a position in ``images``, a *pair row* a position in ``pairs``. The unit of splits, memory
and relevance is the image with all its captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.errors import DataError

Rows = npt.NDArray[np.int64]

IMAGE_COLUMNS = ("image_id", "image", "image_uri", "image_features")
PAIR_COLUMNS = ("pair_id", "image_id", "caption", "group", "time", "split", "relevance", "text_features")


@dataclass(frozen=True)
class Pairs:
    """Image-text pairs of a whole stream.

    Args:
        pairs: one row a pair: pair_id, image_id, caption, group (all str), and where given time, split, relevance (what a hit
            is judged by; image_id where absent), text_features (fixed-size list of float32), and any further str columns.
        images: one row an image: image_id (str), image (encoded bytes) or image_uri (str), image_features (fixed-size list of
            float32); at least one of the last three.
        image_row: (number of pairs,) image row of each pair.
    """

    pairs: pa.Table
    images: pa.Table
    image_row: Rows

    def __len__(self) -> int:
        """Return the number of pairs."""
        return int(self.pairs.num_rows)

    def texts(self, column: str, rows: Rows | None = None) -> list[str]:
        """Return a str column of the pairs table, all of it or at some pair rows."""
        values = self.pairs.column(column)
        texts: list[str] = (values if rows is None else take_rows(values, rows)).to_pylist()
        return texts

    def relevance(self, rows: Rows) -> Rows:
        """Return what a hit of each pair row is judged by, as whole numbers: equal numbers are relevant to each other."""
        if "relevance" not in self.pairs.column_names:
            return self.image_row[rows]
        codes = pc.dictionary_encode(self.pairs.column("relevance").combine_chunks())
        return np.asarray(codes.indices, dtype=np.int64)[rows]

    def first_rows(self, rows: Rows) -> Rows:
        """Return, of some pair rows, the first one of each image, in order of image row: one row an image."""
        rows = np.sort(rows)
        _, first = np.unique(self.image_row[rows], return_index=True)
        return rows[first]


def take_rows(column: pa.ChunkedArray, rows: Rows) -> pa.Array:
    """Return a column's values at some rows, in the order asked for, touching only the chunks they lie in.

    Arrow's own take joins all chunks first: a copy of the whole column for each batch (pyarrow 26).
    """
    if column.num_chunks == 1:
        return column.chunk(0).take(pa.array(rows))
    # Rows mostly come in order; sorting and putting back would copy every value once more.
    sort = None if (rows[1:] >= rows[:-1]).all() else np.argsort(rows, kind="stable")
    ascending = rows if sort is None else rows[sort]
    parts, start, first = [], 0, 0
    for chunk in column.chunks:
        last = int(np.searchsorted(ascending, start + len(chunk)))
        if last > first:
            parts.append(chunk.take(pa.array(ascending[first:last] - start)))
        start, first = start + len(chunk), last
    if first < len(rows):
        raise IndexError(f"row {ascending[-1]} is outside of a column of {start} rows; expected 0 to {start - 1}; ask for others")
    joined = pa.concat_arrays(parts) if parts else pa.array([], column.type)
    return joined if sort is None else joined.take(pa.array(np.argsort(sort, kind="stable")))


def make_pairs(pairs: pa.Table, images: pa.Table) -> Pairs:
    """Join two tables into Pairs.

    Args:
        pairs: a table with at least pair_id, image_id and caption.
        images: a table with image_id and image, image_uri or image_features; one row an image.

    Raises:
        DataError: a column is missing, an id occurs twice, or a pair names an image that is not there.
    """
    require_columns(pairs, ("pair_id", "image_id", "caption"), "the pairs table")
    require_columns(images, ("image_id",), "the images table")
    if not {"image", "image_uri", "image_features"} & set(images.column_names):
        raise DataError(
            f"the images table has columns {', '.join(images.column_names)}; expected one of image, image_uri, image_features; "
            "name the column in source.columns"
        )
    for table, column in ((pairs, "pair_id"), (images, "image_id")):
        repeated = repeated_value(table.column(column))
        if repeated is not None:
            raise DataError(f"{column} '{repeated}' occurs more than once; expected unique ids; rename or drop the repeated rows")
    position = pc.index_in(pairs.column("image_id"), value_set=images.column("image_id").combine_chunks())
    if position.null_count:
        lost = pairs.column("image_id").filter(pc.is_null(position))[0].as_py()
        raise DataError(
            f"image_id '{lost}' and {position.null_count - 1} more of the pairs table are not in the images table; expected "
            "every pair to have its image; add the images or drop the pairs"
        )
    return Pairs(pairs, images, np.asarray(position, dtype=np.int64))


def require_columns(table: pa.Table, columns: Sequence[str], what: str) -> None:
    """Check that a table has some columns.

    Raises:
        DataError: one is missing; the text names it and lists those that are there.
    """
    for column in columns:
        if column not in table.column_names:
            raise DataError(
                f"{what} has no column '{column}'; it has {', '.join(table.column_names)}; add the column, or say under "
                f"stream.source.columns which one to use as {column}"
            )


def repeated_value(column: pa.ChunkedArray) -> str | None:
    """Return a value that occurs more than once in a column, or None."""
    counts = pc.value_counts(column.combine_chunks())
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    return str(repeated[0]["values"].as_py()) if len(repeated) else None
