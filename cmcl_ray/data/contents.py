"""What rows hold, as digests: fingerprints of splits, and images that are the same under different ids.

A digest depends on content and ids, never on row order, on files or on folders.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cmcl_ray.data.pairs import Pairs, Rows
from cmcl_ray.storage import sha256


@dataclass(frozen=True)
class ImageContents:
    """What is known of each image's content.

    Args:
        digests: one text an image, for fingerprints.
        by_bytes: whether each text comes from the image's own bytes or features, so that equal texts mean equal images.
    """

    digests: list[str]
    by_bytes: bool


def image_contents(pairs: Pairs) -> ImageContents:
    """Digest every image: by its bytes, by the digest its source took, by its features, else by the last part of its URI.

    The last one does not look into the file, so that nothing is read for it and a moved folder changes nothing.
    """
    images = pairs.images
    if "image_digest" in images.column_names and not images.column("image_digest").null_count:
        return ImageContents(images.column("image_digest").to_pylist(), True)
    if "image" in images.column_names and not images.column("image").null_count:
        return ImageContents([sha256(value.as_buffer()) for value in images.column("image")], True)
    if "image_features" in images.column_names:
        return ImageContents(_feature_digests(images.column("image_features")), True)
    return ImageContents([f"uri:{str(uri).rsplit('/', 1)[-1]}" for uri in images.column("image_uri").to_pylist()], False)


def _feature_digests(column: pa.ChunkedArray) -> list[str]:
    values_NF = feature_matrix(column).astype("<f4", copy=False)
    return [sha256(memoryview(row).cast("B")) for row in np.ascontiguousarray(values_NF)]


def feature_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Return a column of fixed-size lists as a matrix (rows, F)."""
    array = column.combine_chunks()
    values: npt.NDArray[np.float32] = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return values


def rows_fingerprint(pairs: Pairs, contents: ImageContents, rows: Rows) -> str:
    """Digest pairs by id, caption, image, and where given relevance and features, in order of pair id."""
    table = pairs.pairs.take(pa.array(rows))
    names = [name for name in ("pair_id", "image_id", "caption", "relevance") if name in table.column_names]
    columns = [table.column(name).to_pylist() for name in names]
    columns.append([contents.digests[image] for image in pairs.image_row[rows]])
    if "image_features" in pairs.images.column_names:
        columns.append(_feature_digests(pairs.images.column("image_features").take(pa.array(pairs.image_row[rows]))))
    if "text_features" in table.column_names:
        columns.append(_feature_digests(table.column("text_features")))
    digest = hashlib.sha256()
    for entry in sorted(zip(*columns, strict=True)):
        digest.update(json.dumps(entry).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def identical_images(pairs: Pairs, contents: ImageContents, of_split: list[Rows]) -> dict[str, int] | None:
    """Count images of one split that are identical, byte for byte, to an image of another split.

    Args:
        pairs: the table.
        contents: digests of its images.
        of_split: pair rows of train, val and test.

    Returns:
        Number of images of val with a twin in train, of test with a twin in train, and of test with a twin in val; None where
        only URIs are known.
    """
    if not contents.by_bytes:
        return None
    train, val, test = ([contents.digests[image] for image in np.unique(pairs.image_row[rows])] for rows in of_split)
    in_train, in_val = set(train), set(val)
    return {
        "val_in_train": sum(digest in in_train for digest in val),
        "test_in_train": sum(digest in in_train for digest in test),
        "test_in_val": sum(digest in in_val for digest in test),
    }
