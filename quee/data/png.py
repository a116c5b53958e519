"""A PNG encoder whose bytes depend on the pixels alone, not on the version of zlib: nothing is deflated.

Parquet compresses the column as a whole, and decoding is faster for it.
"""

import struct
import zlib

import numpy as np

_COLOUR_TYPES = {1: 0, 3: 2}
"""Channels to PNG's colour type: greyscale, RGB."""
_STORED = 65_535
"""Bytes in one stored block of a deflate stream."""


def encode_png(image: np.ndarray) -> bytes:
    """uint8 (h, w, 1 or 3) to an 8-bit PNG file."""
    height, width, channels = image.shape
    if image.dtype != np.uint8:
        raise TypeError(f"expected uint8, got {image.dtype}")
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # a first byte per row: filter 0, none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", _stored(rows.tobytes())) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, 1951)."""
    blocks = []
    for start in range(0, len(data), _STORED):
        part = data[start : start + _STORED]
        last = start + _STORED >= len(data)
        blocks.append(struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF) + part)
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(data))
