"""Images to try, for the page: read once at the start, from a folder of images or of Parquet files."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from quee.data.decode import FORMATS, open_image
from quee.data.walk import shown, top_files
from quee.errors import QueeError, UsageError

MOST = 12
LARGEST = 1 << 20
"""Bytes of an example."""


@dataclass(frozen=True)
class Example:
    name: str
    data: bytes
    media_type: str


def read_examples(folder: Path | None) -> list[Example]:
    """Up to 12 images, of as many classes as can be; raises UsageError when there are none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise UsageError(f"--examples {folder}: not a folder")
    files = [file for file in top_files(folder) if file.suffix.lower() == ".parquet"]
    tables = [file for file in files if file.name.startswith("test")] or files
    found = _from_table(tables[0]) if tables else _from_files(folder)
    examples = [made for name, data in found if (made := _example(name, data)) is not None][:MOST]
    if not examples:
        raise UsageError(f"--examples {folder}: no {', '.join(FORMATS)} images and no Parquet files of images")
    return examples


def _from_files(folder: Path) -> list[tuple[str, bytes]]:
    files = [file for file in top_files(folder) if file.stat().st_size <= LARGEST]
    return [(shown(file.stem), file.read_bytes()) for file in files[: 10 * MOST]]


def _from_table(file: Path) -> list[tuple[str, bytes]]:
    rows = next(pq.ParquetFile(file).iter_batches(batch_size=500)).to_pylist()
    column = next((name for name in ("image", "img") if rows and name in rows[0]), None)
    if column is None:
        return []
    labels = [name for name in rows[0] if name != column]
    by_class: dict[object, list[bytes]] = {}
    for row in rows:
        data = row[column]["bytes"]
        if data is not None and len(data) <= LARGEST:
            by_class.setdefault(row[labels[0]] if labels else None, []).append(data)
    ordered = sorted(by_class.items(), key=lambda pair: str(pair[0]))
    taken = [data for rank in range(MOST) for _, own in ordered for data in own[rank : rank + 1]]
    return [(f"example {index}", data) for index, data in enumerate(taken[:MOST], 1)]


def _example(name: str, data: bytes) -> Example | None:
    try:
        return Example(name, data, f"image/{(open_image(data, name).format or 'png').lower()}")
    except QueeError:
        return None
