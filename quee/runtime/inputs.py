"""Many images by name: files, folders of files, Parquet; in bounded memory and in any order."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from quee.data.rowgroups import EncodedImages, open_parquet
from quee.errors import IntegrityError, UsageError
from quee.runtime.array_files import SUFFIXES as ARRAYS
from quee.runtime.array_files import ArrayFile
from quee.runtime.pixels import check_choice

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
COLUMNS = ("image", "img")


class Inputs:
    """The images of files, of folders (all below, sorted), of Parquet files with the hub's schema and of numpy's arrays."""

    def __init__(self, paths: Sequence[str | Path], pixels: str = "uint8") -> None:
        """`pixels` says how arrays are read. Raises UsageError for what is not there or holds no images."""
        check_choice(pixels)
        self.pixels = pixels
        self.sources: list[Path | EncodedImages | ArrayFile] = []
        self.starts = [0]
        for path in map(Path, paths):
            for file in _files(path):
                source = _source(file, pixels)
                self.sources.append(source)
                self.starts.append(self.starts[-1] + (1 if isinstance(source, Path) else len(source)))
        if not len(self):
            raise UsageError("no images given: name files, folders or Parquet files")

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, stop: int) -> Iterator[tuple[str, str | bytes | np.ndarray]]:
        """Names of the images start … stop-1, and what `AdaptiveClassifier.route` takes: a path, bytes or an array."""
        from bisect import bisect_right

        for index in range(start, min(stop, len(self))):
            place = bisect_right(self.starts, index) - 1
            source, row = self.sources[place], index - self.starts[place]
            if isinstance(source, Path):
                yield str(source), str(source)
            elif isinstance(source, ArrayFile):
                yield f"{source.path}#{row}", source[row]
            else:
                data, name = source[row]
                yield f"{source.paths[0]}#{row}" + (f" {name}" if name else ""), data

    def identity(self) -> list[list[object]]:
        """Name, bytes and time of change of every file, and how arrays are read: what work may be resumed by."""
        found: list[list[object]] = [[self.pixels]]
        for source in self.sources:
            path = source if isinstance(source, Path) else _path(source)
            facts = path.stat()
            found.append([str(path.absolute()), facts.st_size, facts.st_mtime_ns])
        return found


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"no such image, folder or Parquet file: {path}")
    kinds = (*SUFFIXES, ".parquet")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in kinds and file.is_file())
    if not found:
        raise UsageError(f"{path}: no images in this folder; valid: {', '.join(kinds)}")
    return found


def _source(path: Path, pixels: str) -> Path | EncodedImages | ArrayFile:
    if path.suffix == ".parquet":
        return _parquet(path)
    return ArrayFile(path, pixels) if path.suffix in ARRAYS else path


def _path(source: EncodedImages | ArrayFile) -> Path:
    return source.path if isinstance(source, ArrayFile) else source.paths[0]


def _parquet(path: Path) -> EncodedImages:
    try:
        schema = open_parquet(path).schema_arrow
    except IntegrityError as error:
        raise UsageError(str(error)) from None
    for name in COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return EncodedImages([path], name)
    raise UsageError(f"{path}: no column image: struct<bytes: binary, path: string>; it has {', '.join(schema.names)}")
