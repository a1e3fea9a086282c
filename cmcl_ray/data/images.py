"""From stored images and captions to arrays a model takes: decoding, features, tokens.

A reader is a small frozen value: how one side of a row becomes an array. Models say which readers they need; local feeds, Ray
tasks and embedding actors all call the same ones, so every route gives the same bytes. Pixels stay uint8 until the model
normalises them, which keeps feeds and transfers four times smaller.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from cmcl_ray import storage
from cmcl_ray.data.pairs import Pairs, Rows, take_rows
from cmcl_ray.data.tokens import HashTokenizer
from cmcl_ray.errors import DataError, IntegrityError

Array = npt.NDArray[Any]


class Reader(Protocol):
    """How rows of one side become an array."""

    def read(self, pairs: Pairs, rows: Rows) -> Array:
        """Return an array with one entry a row: image rows for the image side, pair rows for the text side."""

    def describe(self) -> dict[str, Any]:
        """Return a JSON value that differs when the arrays would."""


@dataclass(frozen=True)
class Pixels:
    """RGB pixels, resized to a square.

    Args:
        size: side of the square in pixels.
    """

    size: int

    def read(self, pairs: Pairs, rows: Rows) -> Array:
        """Decode image rows to (n, 3, size, size) uint8.

        Raises:
            DataError: an image does not decode, or is not there.
        """
        columns = [name for name in ("image_id", "image", "image_uri") if name in pairs.images.column_names]
        picked = pa.table({name: take_rows(pairs.images.column(name), rows) for name in columns})
        pixels = np.empty((len(rows), 3, self.size, self.size), dtype=np.uint8)
        for position, stored in enumerate(picked.to_pylist()):
            data = _encoded(stored)
            try:
                pixels[position] = decode(data, self.size)
            except Exception as error:  # decoders raise whatever broken bytes lead them to
                raise DataError(
                    f"image '{stored['image_id']}' does not decode ({error}); expected a PNG, JPEG or other image file; "
                    "read the table with check_images: true to set such rows aside"
                ) from None
        return pixels

    def describe(self) -> dict[str, Any]:
        """Return the reader as a JSON value."""
        return {"reader": "pixels", "size": self.size}


def decode(data: bytes, size: int) -> Array:
    """Decode an image file to (3, size, size) uint8: RGB, transparent parts on white, squashed with bicubic interpolation."""
    with Image.open(io.BytesIO(data)) as opened:
        # Decodes a JPEG at a fraction of its size where that is still at least as large as asked for.
        opened.draft("RGB", (size, size))
        image: Image.Image = opened
        if image.mode == "I" or image.mode.startswith("I;16"):
            # 16-bit grey: Pillow would cut the values off at 255 and so make the image white.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            layered = image.convert("RGBA")
            image = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            image.alpha_composite(layered)
        rgb = image.convert("RGB")
        if rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return np.asarray(rgb, dtype=np.uint8).transpose(2, 0, 1)


def _encoded(stored: Mapping[str, Any]) -> bytes:
    """Return the encoded bytes of one row of the images table."""
    data, place = stored.get("image"), stored.get("image_uri")
    if data is not None:
        return bytes(data)
    if place is None:
        raise DataError(
            f"image '{stored['image_id']}' has neither bytes nor a URI; expected one of them; give the image or image_uri column "
            "a value"
        )
    try:
        return storage.read_bytes(place)
    except (IntegrityError, OSError):
        raise DataError(
            f"image '{stored['image_id']}' cannot be read from {place}; expected an image file there; bring it back, or read the "
            "table with check_images: true to set such rows aside"
        ) from None


@dataclass(frozen=True)
class Features:
    """Vectors computed beforehand.

    Args:
        side: image or text.
        width: numbers a vector.
    """

    side: str
    width: int

    def read(self, pairs: Pairs, rows: Rows) -> Array:
        """Return (n, width) float32.

        Raises:
            DataError: a row has no vector.
        """
        table, column = (pairs.images, "image_features") if self.side == "image" else (pairs.pairs, "text_features")
        values = take_rows(table.column(column), rows)
        if values.null_count:
            raise DataError(
                f"{values.null_count} of {len(rows)} rows have no {column}; expected a vector in every row; give them one (zeros "
                "where nothing is known), or drop the rows"
            )
        # A take of a sliced fixed-size list keeps the offset: flatten() honours it, values would not. A copy, because tensors
        # must not share Arrow's read-only memory.
        return np.array(values.flatten(), dtype=np.float32).reshape(len(rows), self.width)

    def describe(self) -> dict[str, Any]:
        """Return the reader as a JSON value."""
        return {"reader": "features", "side": self.side, "width": self.width}


@dataclass(frozen=True)
class Captions:
    """Captions as token ids.

    Args:
        tokenizer: turns texts into ids.
    """

    tokenizer: HashTokenizer

    def read(self, pairs: Pairs, rows: Rows) -> Array:
        """Return (n, L, G) int64 token ids of pair rows."""
        return self.tokenizer(pairs.texts("caption", rows))

    def describe(self) -> dict[str, Any]:
        """Return the reader as a JSON value."""
        return {"reader": "captions", **self.tokenizer.describe()}


@dataclass(frozen=True)
class Inputs:
    """What a model takes in: one reader a side."""

    image: Reader
    text: Reader

    def reader(self, side: str) -> Reader:
        """Return the reader of a side."""
        return self.image if side == "image" else self.text


@dataclass(frozen=True)
class DataFacts:
    """What a model must know of the data before it is built.

    Args:
        image_width: numbers in an image feature vector; None where there are none.
        text_width: the same for texts.
    """

    image_width: int | None = None
    text_width: int | None = None


def facts_of(pairs: Pairs) -> DataFacts:
    """Return the widths of the feature columns of a pairs table."""
    return DataFacts(_width(pairs.images, "image_features"), _width(pairs.pairs, "text_features"))


def _width(table: pa.Table, column: str) -> int | None:
    if column not in table.column_names:
        return None
    kind = table.schema.field(column).type
    if not pa.types.is_fixed_size_list(kind):
        raise DataError(
            f"column {column} is {kind}; expected a fixed-size list of float32; write it with pa.list_(pa.float32(), width)"
        )
    return int(kind.list_size)


def describe_inputs(inputs: Inputs) -> Mapping[str, Any]:
    """Return how both sides are read as a JSON value."""
    return {"image": inputs.image.describe(), "text": inputs.text.describe()}
