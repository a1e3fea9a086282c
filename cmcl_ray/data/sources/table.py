"""Pairs from files: Parquet, CSV or JSON lines, with image bytes, paths or URIs, in one table or in two joined by image_id."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from cmcl_ray import storage
from cmcl_ray.data.pairs import make_pairs, require_columns
from cmcl_ray.data.sources.base import Source, SourceData
from cmcl_ray.data.splits import has_value
from cmcl_ray.data.tables.aside import Aside
from cmcl_ray.data.tables.columns import check_mapped, normalise, rename
from cmcl_ray.data.tables.joins import (
    attach_features,
    drop_bad_images,
    drop_bad_pairs,
    drop_without_group,
    join_images,
    split_images,
)
from cmcl_ray.data.tables.read import find_files, read_table
from cmcl_ray.errors import ConfigError, DataError

_NONE: Mapping[str, str] = MappingProxyType({})
_ALL: Mapping[str, list[str]] = MappingProxyType({})


class Table(Source):
    """A dataset in files of its own layout.

    Each row is a pair: a caption and its image. Rows that cannot be used are set aside with a reason: no caption, no group,
    no or repeated pair id (the first stays), no image, an image that is missing, too large (over 64 megapixels) or does not
    decode, a path that leaves the root, an image that differs from the first of its id, features that are missing or not finite.
    Of the columns we do not know, those with texts are kept, to cut tasks and splits by.

    Args:
        pairs: paths or patterns (``pairs-*.parquet``) of the tables with captions; several are put one after the other.
        images: the same for tables with image_id and image or image_uri; empty where the pairs table holds the images.
        image_features: Parquet table with image_id and image_features.
        text_features: Parquet table with pair_id and text_features.
        columns: our name -> name in the files, such as {image_uri: image_path}.
        root: folder or URI that relative paths start at, in settings and in tables; the working folder where empty.
        where: column -> values; only rows with one of them are read.
        max_rejected_share: share of rows that may be set aside before the table is refused, 0 to 1.
        check_images: decode every image once. False trusts the table: only local files are looked for, none is opened.
    """

    def __init__(
        self,
        pairs: str | list[str],
        images: Sequence[str] = (),
        image_features: str | None = None,
        text_features: str | None = None,
        *,
        columns: Mapping[str, str] = _NONE,
        root: str = "",
        where: Mapping[str, list[str]] = _ALL,
        max_rejected_share: float = 0.1,
        check_images: bool = True,
    ) -> None:
        self._pairs = [pairs] if isinstance(pairs, str) else list(pairs)
        if not self._pairs:
            raise ConfigError("stream.source.pairs is an empty list; expected at least one path; name the tables with captions")
        if not 0 <= max_rejected_share <= 1:
            raise ConfigError(f"stream.source.max_rejected_share is {max_rejected_share}; expected 0 to 1; correct it")
        self._images = list(images)
        self._features = {"image": image_features, "text": text_features}
        self._columns = dict(columns)
        self._root = storage.absolute(root)
        self._where = {column: list(values) for column, values in where.items()}
        self._max_rejected_share = max_rejected_share
        self._check_images = check_images

    def read(self) -> SourceData:
        """Read, join and check all tables.

        Raises:
            DataError: a file or column is missing or of the wrong kind, or too many rows cannot be used.
        """
        aside = Aside()
        pairs, images = self._read_tables()
        total = pairs.num_rows
        pairs = drop_bad_pairs(pairs, aside)
        if images is None:
            pairs, images = split_images(pairs, aside)
        else:
            pairs, images = join_images(pairs, images, aside)
        pairs, images = drop_without_group(pairs, images, aside)
        images, pairs = drop_bad_images(images, pairs, aside, self._root, self._check_images)
        for side, path in self._features.items():
            held = images if side == "image" else pairs
            if path is not None:
                held = self._read_one(path, f"stream.source.{side}_features")
            if path is not None or f"{side}_features" in held.column_names:
                pairs, images = attach_features(pairs, images, held, side, aside)
        aside.check_share(total, self._max_rejected_share)
        return SourceData(make_pairs(pairs, images), aside.table())

    def _read_tables(self) -> tuple[pa.Table, pa.Table | None]:
        files = find_files(self._pairs, self._root, "stream.source.pairs")
        raw = [read_table(path) for path in files]
        image_files = find_files(self._images, self._root, "stream.source.images") if self._images else []
        raw_images = [read_table(path) for path in image_files]
        check_mapped(self._columns, sorted({name for table in (*raw, *raw_images) for name in table.column_names}))
        labels = _labels(files)
        parts = [self._pair_part(table, path, label) for table, path, label in zip(raw, files, labels, strict=True)]
        pairs = _stack(parts, files)
        image_parts = [normalise(rename(table, self._columns), path) for table, path in zip(raw_images, image_files, strict=True)]
        for part, path in zip(image_parts, image_files, strict=True):
            require_columns(part, ("image_id",), f"the images table {path}")
        return pairs, _stack(image_parts, image_files) if image_parts else None

    def _pair_part(self, raw: pa.Table, path: str, label: str) -> pa.Table:
        table = normalise(rename(raw, self._columns), path)
        require_columns(table, ("caption",), f"the pairs table {path}")
        if "pair_id" not in table.column_names:
            ids = np.char.mod(f"{label.replace('%', '%%')}_%06d", np.arange(table.num_rows))
            table = table.append_column("pair_id", pa.array(ids.tolist(), pa.string()))
        for column, values in self._where.items():
            require_columns(table, (column,), f"the pairs table {path}")
            table = table.filter(pa.array(has_value(table, column, values)))
        return table

    def _read_one(self, path: str, setting: str) -> pa.Table:
        files = find_files([path], self._root, setting)
        return _stack([normalise(read_table(file), file) for file in files], files)


def _labels(files: Sequence[str]) -> list[str]:
    """Return what the row ids of each file start with: its name without suffix, and its number where names repeat."""
    stems = [path.rsplit("/", 1)[-1].rpartition(".")[0] for path in files]
    return [stem if stems.count(stem) == 1 else f"{stem}-{i}" for i, stem in enumerate(stems)]


def _stack(parts: list[pa.Table], files: Sequence[str]) -> pa.Table:
    try:
        return pa.concat_tables(parts, promote_options="default")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"tables {', '.join(files)} do not fit together ({reason}); expected columns of the same name to have one type; "
            "read them one by one, or write them anew"
        ) from None
