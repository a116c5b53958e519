"""Encoded images from Parquet files, read by row groups, in bounded memory."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quee.errors import IntegrityError

KEPT_BYTES = 128 << 20
"""Row groups are kept in memory up to this size."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Raises IntegrityError where the file is missing or incomplete."""
    if not path.is_file():
        raise IntegrityError(f"missing file: {path}")
    try:
        return pq.ParquetFile(path, memory_map=False, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"not a readable Parquet file: {path} ({error})") from None


@contextmanager
def reading(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, closed behind the block; raises IntegrityError where it is missing or its content is damaged."""
    try:
        with open_parquet(path) as opened:
            yield opened
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"not a readable Parquet file: {path} ({error})") from None


class EncodedImages:
    """The image column of several Parquet files as one sequence of (bytes, path)."""

    def __init__(self, paths: list[Path], column: str) -> None:
        self.paths, self.column = paths, column
        self._groups: list[tuple[int, int]] = []  # file, row group in it
        starts, sizes = [0], []
        for index, path in enumerate(paths):
            metadata = open_parquet(path).metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((index, group))
                starts.append(starts[-1] + metadata.row_group(group).num_rows)
                sizes.append(metadata.row_group(group).total_byte_size)
        self.starts = np.array(starts)
        """First sample of each row group, and the number of samples."""
        self.sizes = np.array(sizes)
        """Bytes of each row group, decompressed."""
        self._starts = starts
        self._kept: OrderedDict[int, pa.StructArray] = OrderedDict()
        self._lock = Lock()
        self._reading: dict[int, Lock] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        """Encoded bytes (empty when null) and path of one sample."""
        group = bisect_right(self._starts, index) - 1
        record = self._row_group(group)[index - self._starts[group]].as_py() or {}
        return record.get("bytes") or b"", record.get("path") or ""

    def _row_group(self, group: int) -> pa.StructArray:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            reading = self._reading.setdefault(group, Lock())
        with reading:  # two threads that need the same row group read it once
            with self._lock:
                if group in self._kept:
                    return self._kept[group]
            rows = self._read(group)
            with self._lock:
                self._kept[group] = rows
                self._reading.pop(group, None)
                while len(self._kept) > 2 and sum(self.sizes[kept] for kept in self._kept) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            return rows

    def _read(self, group: int) -> pa.StructArray:
        file, number = self._groups[group]
        with reading(self.paths[file]) as opened:  # a reader per call: readers are not shared between threads
            column = opened.read_row_group(number, columns=[self.column], use_threads=False).column(self.column)
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)

    def shuffled(self, ids: np.ndarray, rng: np.random.Generator, window: int) -> np.ndarray:
        """`ids` in random order, such that any part of the order reads row groups of about `window` bytes in all."""
        ids = np.sort(ids)
        group = np.searchsorted(self.starts, ids, side="right") - 1
        present = np.unique(group)
        turn = rng.permutation(len(present))
        block = np.zeros(len(self._groups), np.int64)
        block[present[turn]] = np.cumsum(self.sizes[present[turn]]) // window
        order = np.lexsort((rng.random(len(ids)), block[group]))
        return ids[order]
