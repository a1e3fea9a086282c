"""Pairs, images and features brought together; what has no partner is set aside."""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.data.pairs import IMAGE_COLUMNS, require_columns
from cmcl_ray.data.tables.aside import Aside, Mask
from cmcl_ray.data.tables.columns import finite_rows
from cmcl_ray.data.tables.images import examine_images, resolve_uris
from cmcl_ray.errors import DataError

_IMAGE_VALUES = ("image", "image_uri", "image_features")


def drop_bad_pairs(pairs: pa.Table, aside: Aside) -> pa.Table:
    """Set rows aside that have no pair id or caption, or an id that came before."""
    pairs = aside.drop(pairs, _blank(pairs, "pair_id"), "no pair id", "pair_id is empty")
    pairs = aside.drop(pairs, _blank(pairs, "caption"), "no caption", "caption is empty")
    return aside.drop(pairs, ~first_of_each(pairs.column("pair_id")), "repeated pair id", "an earlier row has the same pair_id")


def drop_without_group(pairs: pa.Table, images: pa.Table, aside: Aside) -> tuple[pa.Table, pa.Table]:
    """Set rows aside whose group is empty, where there is such a column, and drop the images no pair uses any more."""
    if "group" in pairs.column_names:
        pairs = aside.drop(pairs, _blank(pairs, "group"), "no group", "group is empty")
    return keep_joined(pairs, images, aside)


def split_images(pairs: pa.Table, aside: Aside) -> tuple[pa.Table, pa.Table]:
    """Take the images out of a single table: one row for each image_id.

    Where there is no image_id, the path or URI as written is the id, else the digest of the bytes.

    Raises:
        DataError: there is nothing that says which image a caption belongs to.
    """
    values = [name for name in _IMAGE_VALUES if name in pairs.column_names]
    if "image_id" not in pairs.column_names:
        pairs = _with_image_ids(pairs, aside)
    pairs = aside.drop(pairs, _blank(pairs, "image_id"), "no image", "image_id is empty")
    first = first_of_each(pairs.column("image_id"))
    images = pairs.filter(pa.array(first)).select(["image_id", *values])
    own = np.asarray(pc.index_in(pairs.column("image_id"), value_set=images.column("image_id").combine_chunks()))
    for name in values:
        if name != "image_features":
            same = pc.equal(pairs.column(name), images.column(name).take(pa.array(own)))
            # Two nulls are the same too: the image is then given by another column.
            bad = ~np.asarray(pc.fill_null(same, True).to_numpy())
            pairs, own = (
                aside.drop(pairs, bad, "image differs", f"{name} is not that of the first row with its image_id"),
                own[~bad],
            )
    return pairs.drop_columns([name for name in values]), images


def _with_image_ids(pairs: pa.Table, aside: Aside) -> pa.Table:
    if "image_uri" in pairs.column_names:
        return pairs.append_column("image_id", pairs.column("image_uri"))
    if "image" not in pairs.column_names:
        raise DataError(
            f"the pairs table has no image: its columns are {', '.join(pairs.column_names)}; expected image_id, image or "
            "image_uri; name one in stream.source.columns, or give stream.source.images"
        )
    pairs = aside.drop(pairs, np.asarray(pc.is_null(pairs.column("image")).to_numpy()), "no image", "image is empty")
    digests = [hashlib.sha256(value.as_buffer()).hexdigest()[:24] for value in pairs.column("image")]
    return pairs.append_column("image_id", pa.array(digests, pa.string()))


def join_images(pairs: pa.Table, images: pa.Table, aside: Aside) -> tuple[pa.Table, pa.Table]:
    """Join a table of pairs and one of images by image_id; of repeated images the first stays.

    Raises:
        DataError: the pairs have no image_id.
    """
    require_columns(pairs, ("image_id",), "the pairs table")
    pairs = aside.drop(pairs, _blank(pairs, "image_id"), "no image", "image_id is empty")
    images = images.filter(pa.array(first_of_each(images.column("image_id"))))
    pairs = pairs.drop_columns([name for name in _IMAGE_VALUES if name in pairs.column_names])
    pairs, images = keep_joined(pairs, images, aside)
    at = pa.array(_positions(pairs.column("image_id"), images.column("image_id")))
    # Group, split and the like may stand in either table; where both have them, those of the pairs win.
    for name in images.column_names:
        if name not in IMAGE_COLUMNS and name not in pairs.column_names:
            pairs = pairs.append_column(name, images.column(name).take(at))
    return pairs, images.select([name for name in images.column_names if name in IMAGE_COLUMNS])


def keep_joined(pairs: pa.Table, images: pa.Table, aside: Aside) -> tuple[pa.Table, pa.Table]:
    """Keep the pairs whose image is there and the images that a pair uses."""
    there = pc.is_in(pairs.column("image_id"), value_set=images.column("image_id").combine_chunks())
    pairs = aside.drop(pairs, ~np.asarray(there.to_numpy()), "no image", "image_id is not in the images table")
    used = pc.is_in(images.column("image_id"), value_set=pairs.column("image_id").combine_chunks())
    return pairs, images.filter(used)


def drop_bad_images(images: pa.Table, pairs: pa.Table, aside: Aside, root: str, decode: bool) -> tuple[pa.Table, pa.Table]:
    """Make paths absolute, look at every image, and set the pairs of bad ones aside.

    Returns:
        The good images, with ``image_digest`` (SHA-256 of the bytes) where all were decoded; and their pairs.
    """
    if not {"image", "image_uri"} & set(images.column_names):
        return images, pairs
    if "image_uri" in images.column_names:
        places, leaves = resolve_uris(images.column("image_uri").to_pylist(), root)
        details = pa.array(
            [uri if out else None for uri, out in zip(images.column("image_uri").to_pylist(), leaves, strict=True)], pa.string()
        )
        position = images.column_names.index("image_uri")
        images = images.set_column(position, "image_uri", pa.array(places, pa.string()))
        images, pairs = _drop_images(images, pairs, np.array(leaves, dtype=np.bool_), "path leaves root", details, aside)
    findings = examine_images(images, decode)
    if decode:
        images = images.append_column("image_digest", pa.array([finding.digest for finding in findings], pa.string()))
    details = pa.array([finding.detail for finding in findings], pa.string())
    reasons = np.array([finding.reason or "" for finding in findings])
    for reason in sorted(set(reasons.tolist()) - {""}):
        bad = reasons == reason
        images, pairs = _drop_images(images, pairs, bad, reason, details, aside)
        reasons, details = reasons[~bad], details.filter(pa.array(~bad))
    return images, pairs


def _drop_images(
    images: pa.Table, pairs: pa.Table, bad: Mask, reason: str, details: pa.Array, aside: Aside
) -> tuple[pa.Table, pa.Table]:
    """Drop images and set their pairs aside; ``details`` holds one text an image."""
    at = _positions(pairs.column("image_id"), images.column("image_id"))
    told = pc.binary_join_element_wise(pairs.column("image_id").combine_chunks(), details.take(pa.array(at)), ": ")
    pairs = aside.drop(pairs, bad[at], reason, told)
    return images.filter(pa.array(~bad)), pairs


def attach_features(pairs: pa.Table, images: pa.Table, features: pa.Table, side: str, aside: Aside) -> tuple[pa.Table, pa.Table]:
    """Join vectors to the images (``side`` image) or to the pairs (``side`` text); rows without a finite vector are set aside.

    Raises:
        DataError: the features table lacks its id or its vectors.
    """
    key, column = ("image_id", "image_features") if side == "image" else ("pair_id", "text_features")
    require_columns(features, (key, column), f"the table stream.source.{side}_features")
    features = features.filter(pa.array(finite_rows(features.column(column)) & first_of_each(features.column(key))))
    have = np.asarray(pc.is_in(pairs.column(key), value_set=features.column(key).combine_chunks()).to_numpy())
    pairs = aside.drop(pairs, ~have, f"no {side} features", f"{key} has no row of finite numbers ")
    pairs, images = keep_joined(pairs, images, aside)
    target = images if side == "image" else pairs
    if column in target.column_names:
        target = target.drop_columns([column])
    at = _positions(target.column(key), features.column(key))
    target = target.append_column(column, features.column(column).take(pa.array(at)))
    return (pairs, target) if side == "image" else (target, images)


def first_of_each(column: pa.ChunkedArray) -> Mask:
    """Tell for each row whether its value did not occur before."""
    codes = np.asarray(pc.dictionary_encode(column.combine_chunks(), null_encoding="encode").indices)
    first = np.zeros(len(codes), dtype=np.bool_)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _positions(column: pa.ChunkedArray, values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.index_in(column, value_set=values.combine_chunks()), dtype=np.int64)


def _blank(table: pa.Table, name: str) -> Mask:
    texts = pc.utf8_trim_whitespace(pc.fill_null(table.column(name), ""))
    blank: Mask = np.asarray(pc.equal(texts, "").to_numpy())
    return blank
