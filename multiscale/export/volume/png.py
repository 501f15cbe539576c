"""Greyscale PNG of 1 or 8 bits (ISO/IEC 15948), every line with filter 0."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(image: NDArray) -> bytes:
    """PNG file of an image.

    Parameters
    ----------
    image : array, shape (rows, columns)
        Bool gives 1 bit a pixel (true is white), uint8 gives 8. Row 0 is the uppermost.
    """
    rows, columns = image.shape
    image = np.ascontiguousarray(image)  # packing bits along a strided axis is slow
    bits = 1 if image.dtype == bool else 8
    lines = np.packbits(image, axis=1) if bits == 1 else image.astype(np.uint8, copy=False)
    filtered = np.zeros((rows, lines.shape[1] + 1), dtype=np.uint8)
    filtered[:, 1:] = lines
    header = struct.pack(">IIBBBBB", columns, rows, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
