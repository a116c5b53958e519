"""Any number of images by name, from files, folders and Parquet files, in bounded memory and any order."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from quee.data.columns import IMAGES
from quee.data.walk import IMAGE_SUFFIXES, Skipped, faults_text, shown, walk
from quee.errors import DamagedError, IntegrityError, QueeError, UsageError
from quee.runtime.pixels import check_choice, check_form
from quee.work.extras import require_package

if TYPE_CHECKING:
    from quee.data.rowgroups import EncodedImages

PARQUET = ".parquet"
ARRAYS = (".npy", ".npz")
MEMBER = "images"
"""The array that is taken from an archive of several."""


class Inputs:
    """The images of files, of folders (at every depth, sorted), of Parquet files in the hub's schema and of NumPy files."""

    def __init__(self, paths: Sequence[str | Path], pixels: str = "uint8", skip_bad: bool = False) -> None:
        """`pixels` tells how arrays are read.

        Raises UsageError for an input that is missing or has no images; `skip_bad` skips such Parquet files in folders.
        """
        check_choice(pixels)
        self.pixels = pixels
        self.sources: list[Path | EncodedImages | ArrayFile] = []
        self.starts = [0]
        self.skipped = Skipped()
        """Files in folders that are not taken: other kinds, hidden files, thumbnails."""
        self.bad: list[str] = []
        """Parquet files in folders that were left out, with the reason."""
        faults: list[QueeError] = []
        for path in map(Path, paths):
            try:
                files, within = self._files(path), path.is_dir()
            except QueeError as error:
                faults.append(error)
                continue
            for file in files:
                try:
                    self._add(_source(file, pixels))
                except UsageError as error:
                    if skip_bad and within:
                        self.bad.append(str(error))
                    else:
                        faults.append(error)
        if faults:
            damaged = all(isinstance(fault, DamagedError) for fault in faults)
            kind = DamagedError if damaged else UsageError
            raise kind(faults_text(list(map(str, faults)), "paths hold no images"))
        if not len(self):
            raise UsageError("no images given: name files, folders or Parquet files")

    def _add(self, source: "Path | EncodedImages | ArrayFile") -> None:
        self.sources.append(source)
        self.starts.append(self.starts[-1] + (1 if isinstance(source, Path) else len(source)))

    def _files(self, path: Path) -> list[Path]:
        """The file itself, or the images and Parquet files below a folder."""
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise UsageError(f"no such image, folder or Parquet file: {shown(path)}")
        kinds = (*IMAGE_SUFFIXES, PARQUET)
        found = walk(path).of(kinds)
        if not found.files:
            there = f"; there are {found.skipped}" if str(found.skipped) else ""
            raise UsageError(f"{shown(path)}: no images in this folder; valid: {', '.join(kinds)}{there}")
        self.skipped.add(found.skipped)
        return [path / file.name for file in found.files]

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, stop: int) -> Iterator[tuple[str, str | bytes | np.ndarray]]:
        """Names and contents of the images start … stop-1; a content is a path, bytes or an array, as `route` takes it.

        Names are valid UTF-8; other bytes of a file's name are written in the form `\\xe9`.
        """
        from bisect import bisect_right

        for index in range(start, min(stop, len(self))):
            place = bisect_right(self.starts, index) - 1
            source, row = self.sources[place], index - self.starts[place]
            if isinstance(source, Path):
                yield shown(source), str(source)
            elif isinstance(source, ArrayFile):
                yield f"{shown(source.path)}#{row}", source[row]
            else:
                data, name = source[row]
                yield f"{shown(source.paths[0])}#{row}" + (f" {name}" if name else ""), data

    def identity(self) -> list[list[object]]:
        """Name, size and time of change of every file, and how arrays are read: the key of resumable work."""
        found: list[list[object]] = [[self.pixels]]
        for source in self.sources:
            path = source if isinstance(source, Path) else _path(source)
            facts = path.stat()
            found.append([str(path.absolute()), facts.st_size, facts.st_mtime_ns])
        return found


def _source(path: Path, pixels: str) -> "Path | EncodedImages | ArrayFile":
    if path.suffix.lower() == PARQUET:
        return _parquet(path)
    return ArrayFile(path, pixels) if path.suffix.lower() in ARRAYS else path


def _path(source: "EncodedImages | ArrayFile") -> Path:
    return source.path if isinstance(source, ArrayFile) else source.paths[0]


def _parquet(path: Path) -> "EncodedImages":
    require_package("pyarrow", f"reading {shown(path)}", "parquet")
    import pyarrow as pa  # Parquet is an extra

    from quee.data.rowgroups import EncodedImages, open_parquet

    try:
        schema = open_parquet(path).schema_arrow
    except IntegrityError as error:
        raise DamagedError(str(error)) from None
    for name in IMAGES:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return EncodedImages([path], name)
    raise UsageError(
        f"{shown(path)}: no column image: struct<bytes: binary, path: string>; it has {', '.join(schema.names)}"
    )


class ArrayFile:
    """The images of a file, by row; a `.npy` is mapped into memory, not read whole."""

    def __init__(self, path: Path, pixels: str = "uint8") -> None:
        """Raises UsageError where the file is no array of images that `quee.runtime.pixels` accepts."""
        self.path = path
        self.images = _array(path)
        check_form(self.images, str(path), pixels=pixels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.images[row]


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = found.files
            if len(names) != 1 and MEMBER not in names:
                raise UsageError(f"{path}: arrays {', '.join(names) or 'none'}; give one alone, or name it {MEMBER!r}")
            return np.asarray(found[names[0] if len(names) == 1 else MEMBER])
    except UsageError:
        raise
    except (ValueError, OSError, EOFError, BadZipFile, KeyError) as error:
        raise DamagedError(f"{path}: no array that can be read ({' '.join(str(error).split())[:160]})") from None
