"""PNG files written by hand with stored deflate blocks, so that their bytes do not depend on the zlib at hand."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

_STORED = 65535


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) pixels as an 8-bit RGB PNG without compression: 3 * H * W + H bytes and about 70 more."""
    height, width, _ = pixels.shape
    # Every line starts with its filter type; 0 is none.
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(height, 3 * width)
    data = lines.tobytes()
    starts = range(0, len(data), _STORED)
    blocks = b"".join(_stored_block(data[start : start + _STORED], start + _STORED >= len(data)) for start in starts)
    packed = b"\x78\x01" + blocks + struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _stored_block(data: bytes, last: bool) -> bytes:
    return struct.pack("<BHH", int(last), len(data), len(data) ^ 0xFFFF) + data


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
