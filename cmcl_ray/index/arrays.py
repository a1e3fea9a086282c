"""Arrays as ``.npy`` files with checksums: opened by memory map where they are local, read whole where they are not.

The ``.npy`` format because it maps into memory as it lies on the disk; the header is written by numpy, so equal arrays give
equal bytes.
"""

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cmcl_ray import storage
from cmcl_ray.errors import IntegrityError

Array = npt.NDArray[Any]


def array_bytes(array: Array) -> bytes:
    """Return an array as the bytes of a ``.npy`` file; equal arrays give equal bytes."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue() + array.tobytes()


def write_array(path: str, array: Array) -> dict[str, Any]:
    """Write an array as a ``.npy`` file, whole or not at all, and return its manifest entry {bytes, sha256}."""
    data = array_bytes(array)
    storage.write_bytes(path, data)
    return {"bytes": len(data), "sha256": storage.sha256(data)}


def open_array(folder: str, name: str, files: Mapping[str, Mapping[str, Any]], verify: bool = True) -> Array:
    """Open one ``.npy`` file of a folder.

    Args:
        folder: where the file lies.
        name: its name.
        files: name -> {bytes, sha256}, from a manifest.
        verify: read the file once and hold it against its checksum; else only its presence is checked.

    Returns:
        The array; a private (copy-on-write) memory map of a local file, so that nothing can be written back.

    Raises:
        IntegrityError: the file is not listed, missing, or differs from its checksum; the text names it.
    """
    path = storage.join(folder, name)
    if name not in files:
        raise IntegrityError(
            f"file {path} is not listed in its manifest, which has {', '.join(sorted(files)) or 'no files'}; expected '{name}'; "
            f"remove the folder {folder} and run again to make it anew"
        )
    if storage.is_remote(path):
        data = storage.read_bytes(path)
        if verify:
            storage.check_bytes(path, data, files[name])
        return _parse(path, io.BytesIO(data))
    path = storage.absolute(path)
    if not os.path.isfile(path):
        raise IntegrityError(
            f"file {path} is missing; its manifest lists it; remove the folder {folder} and run again to make it anew"
        )
    if verify:
        check_file(path, files[name])
    return _parse(path, path)


def check_file(path: str, entry: Mapping[str, Any]) -> None:
    """Hold a file against its manifest entry; a local one is hashed through a memory map, without holding it.

    Raises:
        IntegrityError: the file is missing, or size or checksum differ; the text names it.
    """
    if storage.is_remote(path) or not os.path.isfile(path) or os.path.getsize(path) == 0:
        storage.check_bytes(path, storage.read_bytes(path), entry)
    else:
        storage.check_bytes(path, np.memmap(path, dtype=np.uint8, mode="r").data, entry)


def _parse(path: str, source: str | io.BytesIO) -> Array:
    try:
        # Mode "c" is private to this process; torch refuses to share read-only memory without a warning.
        loaded = np.load(source, mmap_mode="c" if isinstance(source, str) else None, allow_pickle=False)
    except ValueError as error:
        raise IntegrityError(f"file {path} is no .npy array ({error}); remove its folder and run again to make it anew") from None
    return np.asarray(loaded)
