"""Images to Parquet with the schema of the hub's image datasets, in shards.

Pixels are encoded as PNG files without deflating, so their bytes depend on the pixels alone and not on zlib's version.
Parquet compresses the column as a whole, which also makes decoding faster.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from quee.data.files import ANSWERS, GROUP
from quee.data.rowgroups import open_parquet
from quee.work.io import atomic_path, table_writer

SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
)
GROUP_ROWS, GROUP_BYTES = 1000, 4 << 20
"""A row group ends when it reaches either limit."""
_WRITTEN = (b"ARROW:schema", b"format")
"""Keys that every writer sets itself."""


class Sample(NamedTuple):
    """One stored image."""

    data: bytes
    path: str
    label: int
    group: int | None = None
    """The samples of a number belong together; all samples of a data set have one, or none has."""


def write_images(
    path: Path,
    samples: Iterable[Sample],
    classes: tuple[str, ...],
    grouped: bool = False,
    answers: Mapping[str, Any] | None = None,
) -> int:
    """Write one file, whole or not at all; returns its number of samples. Class names are stored in the hub's form.

    Where the samples are `grouped`, the file has column `group`. `answers` are the facts of the network whose answers the
    labels are.
    """
    schema = SCHEMA.append(pa.field(GROUP, pa.int64())) if grouped else SCHEMA
    features: dict[str, object] = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    if grouped:
        features[GROUP] = {"dtype": "int64", "_type": "Value"}
    described = json.dumps({"info": {"features": features}}, sort_keys=True)
    count = 0
    with atomic_path(path) as aside, table_writer(aside, schema) as writer:
        for part in _parts(samples, schema):
            writer.write_batch(part)
            count += len(part)
        told = {} if answers is None else {ANSWERS: json.dumps(dict(answers), sort_keys=True)}
        writer.add_key_value_metadata({"huggingface": described, **told})
    return count


def copy_without(source: Path, path: Path, rows: np.ndarray) -> None:
    """Write a Parquet file anew without some rows, given by number; columns and metadata stay."""
    with open_parquet(source) as opened, atomic_path(path) as aside:
        said = {key: value for key, value in (opened.metadata.metadata or {}).items() if key not in _WRITTEN}
        with table_writer(aside, opened.schema_arrow) as writer:
            start = 0
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, use_threads=False)
                keep = ~np.isin(np.arange(start, start + len(table)), rows)
                start += len(table)
                if keep.any():
                    writer.write_table(table.filter(pa.array(keep)))
            writer.add_key_value_metadata(said)


def _parts(samples: Iterable[Sample], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of each row group."""
    rows: list[Sample] = []
    size = 0
    for sample in samples:
        rows.append(sample)
        size += len(sample.data)
        if len(rows) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield _batch(rows, schema)
            rows, size = [], 0
    if rows:
        yield _batch(rows, schema)


def _batch(rows: list[Sample], schema: pa.Schema) -> pa.RecordBatch:
    images = [{"bytes": row.data, "path": row.path} for row in rows]
    columns = [pa.array(images, schema.field("image").type), pa.array([row.label for row in rows], pa.int64())]
    if GROUP in schema.names:
        columns.append(pa.array([row.group for row in rows], pa.int64()))
    return pa.record_batch(columns, schema=schema)


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
