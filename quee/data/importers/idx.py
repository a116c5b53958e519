"""MNIST and Fashion-MNIST: the IDX format, plain or gzipped."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from quee.data.importers.archive import leave_others
from quee.data.importers.arrays import array_shard
from quee.data.importers.base import Importer, Plan, Source
from quee.data.importers.provenance import lasting, package_of
from quee.errors import DamagedError, QueeError, UsageError

UNSIGNED_BYTE = 0x08
MAX_BYTES = 1 << 30


def plan(given: Source, _: object) -> Plan:
    source, dataset, plan, used = given.path, given.dataset, Plan(), set()
    for split, beginning in (("train", "train"), ("test", "t10k")):
        images, labels, files = read_set(source, beginning, dataset.size)
        used |= {file.name for file in files}
        where = f"{lasting(source)}/{' and '.join(file.name for file in files)}"
        plan.shards.append(array_shard(split, images[..., None], labels.astype(np.int64), dataset.classes, where))
    leave_others(source, used, plan.report)
    plan.report.source = package_of(source) or ""
    return plan


IMPORTER = Importer(lambda source: source.name in ("mnist", "fashion_mnist"), plan)


def read_set(folder: Path, beginning: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[Path, Path]]:
    """Images (n, h, w) and labels (m,) uint8 of the set `train` or `t10k`, and their files.

    Raises UsageError for a missing file, QueeError for a damaged one or for images of another height and width.
    """
    files = _find(folder, f"{beginning}-images", "idx3-ubyte"), _find(folder, f"{beginning}-labels", "idx1-ubyte")
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if images.shape[1:] != size:
        found, expected = ("×".join(map(str, shape)) for shape in (images.shape[1:], size))
        raise QueeError(f"{files[0]}: images of {found} pixels; expected {expected}")
    return images, labels, files


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """uint8 array; raises QueeError for a wrong magic number or a size other than the header's."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path, dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedError(f"{path}: truncated or damaged ({error})") from None


def _read(file: IO[bytes] | gzip.GzipFile, path: Path, dimensions: int) -> np.ndarray:
    magic = file.read(4)
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if magic != expected:
        raise DamagedError(f"{path}: magic number {magic.hex() or 'missing'}; expected {expected.hex()}")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DamagedError(f"{path}: truncated in its header")
    shape = struct.unpack(f">{dimensions}I", header)
    size = int(np.prod(shape, dtype=object))
    if size > MAX_BYTES:
        raise QueeError(f"{path}: the header claims {size:,} bytes; at most {MAX_BYTES:,} are read")
    content = file.read(size + 1)
    if len(content) != size:
        more = "more" if len(content) > size else f"{len(content):,}"
        raise DamagedError(f"{path}: the header claims {size:,} bytes, the file holds {more}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _find(folder: Path, beginning: str, ending: str) -> Path:
    for middle in "-.":
        for suffix in ("", ".gz"):
            if (path := folder / f"{beginning}{middle}{ending}{suffix}").is_file():
                return path
    raise UsageError(f"{folder} has no {beginning}-{ending} or {beginning}-{ending}.gz")
