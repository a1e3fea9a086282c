"""The images of a table: where they lie, and whether they decode."""

import hashlib
import io
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from cmcl_ray import storage
from cmcl_ray.errors import CmclError

MAX_PIXELS = 64_000_000
# Large and remote images gain from several threads; small local ones neither gain nor lose.
_THREADS = 4


class Finding(NamedTuple):
    """What was found of one image: a reason with its detail, or neither, the SHA-256 of the bytes where they were read."""

    reason: str | None
    detail: str | None
    digest: str | None


def resolve_uris(uris: Sequence[str | None], root: str) -> tuple[list[str | None], list[bool]]:
    """Make paths absolute against a root.

    Args:
        uris: paths and URIs; relative ones start at root.
        root: absolute folder or URI.

    Returns:
        The absolute paths, and for each whether it is a relative one that leaves the root by way of ``..``.
    """
    absolute: list[str | None] = []
    leaves: list[bool] = []
    for uri in uris:
        place, out = uri, False
        if uri and "://" not in uri and not uri.startswith(("/", "~")):
            inner = posixpath.normpath(uri)
            out = inner == ".." or inner.startswith("../")
            place = storage.join(root, inner)
        elif uri and not storage.is_remote(uri):
            place = storage.absolute(uri)
        absolute.append(place)
        leaves.append(out)
    return absolute, leaves


def examine_images(images: pa.Table, decode: bool) -> list[Finding]:
    """Check each image by decoding it, several at a time; the result does not depend on their timing.

    Args:
        images: a table with image, image_uri or both; bytes come first.
        decode: false looks only whether local files are there and opens none.
    """
    names = images.column_names
    nothing = [None] * images.num_rows
    places: Sequence[str | None] = images.column("image_uri").to_pylist() if "image_uri" in names else nothing
    stored = images.column("image") if "image" in names else nothing

    def examine(position: int) -> Finding:
        data = stored[position] if stored is not nothing else None
        inline = data.as_py() if data is not None else None
        return _examine(inline, places[position], decode)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(examine, range(images.num_rows)))


def _examine(data: bytes | None, place: str | None, decode: bool) -> Finding:
    if data is None and not place:
        return Finding("no image", "neither bytes nor a path", None)
    if data is None and place is not None:
        if not decode:
            lost = not storage.is_remote(place) and not os.path.isfile(place)
            return Finding("image file missing", place, None) if lost else Finding(None, None, None)
        try:
            data = storage.read_bytes(place)
        except (CmclError, OSError):
            return Finding("image file missing", place, None)
    if not decode or data is None:
        return Finding(None, None, None)
    reason, detail = _decode_fault(data)
    return Finding(reason, detail, hashlib.sha256(data).hexdigest())


def _decode_fault(data: bytes) -> tuple[str | None, str | None]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            # Before any pixel is decoded: a small file may hold a picture that fills the memory.
            if width * height > MAX_PIXELS:
                return "image too large", f"{width} x {height} pixels"
            image.load()
    except Image.DecompressionBombError as error:
        return "image too large", str(error)
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        return "image does not decode", f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return None, None
