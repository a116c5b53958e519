"""ImageNet-1k from its official archives: a tar with one tar per class, a flat tar of validation images, the devkit.

Labels are positions among the sorted WordNet ids, as is usual. Only the devkit numbers classes in another way.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from quee.data.importers.archive import leave_others, read_members
from quee.data.importers.base import Importer, Plan, Source
from quee.data.importers.located import plan_set
from quee.data.importers.report import Report
from quee.data.walk import IMAGE_SUFFIXES, shown
from quee.errors import DamagedError, QueeError, UsageError, one_line

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKITS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar", "ILSVRC2012_devkit_t12")
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def recognise(source: Source) -> bool:
    return source.name == "imagenet" and (source.path / TRAIN).is_file()


@dataclass
class TarImages:
    """Members of an uncompressed tar by position."""

    path: Path
    names: list[str]
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def read(self, order: np.ndarray) -> Iterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            for index in order:
                content = os.pread(file.fileno(), int(self.sizes[index]), int(self.offsets[index]))
                if len(content) != self.sizes[index]:
                    raise DamagedError(f"{self.path}: truncated in {shown(self.names[index])}")
                yield content

    def origin(self, index: int) -> str:
        return f"{shown(self.path)}: {shown(self.names[index])}"


def plan(given: Source, _: object) -> Plan:
    source, options, plan = given.path, given.options, Plan(verify=True)
    train, classes = train_images(source / TRAIN, plan.report)
    plan.shards += plan_set("train", train, classes)
    if (source / VALIDATION).is_file():
        images = validation_images(source, options.ground_truth, classes, plan.report)
        plan.shards += plan_set("validation", images, classes)
        plan.report.notes.append(f"evaluation set: {VALIDATION}")
    used = {TRAIN, VALIDATION, *DEVKITS, *([options.ground_truth.name] if options.ground_truth else [])}
    leave_others(source, used, plan.report)
    return plan


IMPORTER = Importer(recognise, plan, ("ground_truth",), "ImageNet's archives")


def train_images(path: Path, report: Report) -> tuple[TarImages, tuple[str, ...]]:
    """Images of a tar that holds a tar per class, named after it; the inner archives are read in place."""
    size = path.stat().st_size
    inner = [entry for entry in _members(path, 0, size) if report.skipped.admits(entry[0], (".tar",))]
    classes = tuple(sorted(PurePosixPath(name).stem for name, _, _ in inner))
    if len(set(classes)) < len(classes) or len(classes) < 2:
        raise QueeError(f"{path}: {len(set(classes))} different class archives of {len(classes)}; expected 2 or more")
    index = {wnid: label for label, wnid in enumerate(classes)}
    names: list[str] = []
    rows: list[tuple[int, int, int]] = []
    for archive, start, length in inner:
        wnid = PurePosixPath(archive).stem
        for name, offset, bytes_ in _members(path, start, length):
            if report.skipped.admits(name, IMAGE_SUFFIXES):
                names.append(f"{wnid}/{PurePosixPath(name).name}")
                rows.append((index[wnid], offset, bytes_))
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return TarImages(path, names, columns[:, 0], columns[:, 1], columns[:, 2]), tuple(map(shown, classes))


def validation_images(source: Path, ground_truth: Path | None, classes: tuple[str, ...], report: Report) -> TarImages:
    """Images of the flat tar, in the order of their names, with the labels of the ground truth."""
    path = source / VALIDATION
    found = [member for member in _members(path, 0, None) if report.skipped.admits(member[0], IMAGE_SUFFIXES)]
    members = sorted((PurePosixPath(name).name, offset, size) for name, offset, size in found)
    names = [name for name, _, _ in members]
    wnids = _wnids(source, ground_truth, names)
    if len(wnids) != len(names):
        raise QueeError(f"{path} has {len(names)} images, the ground truth {len(wnids)} labels")
    index = {wnid: label for label, wnid in enumerate(classes)}
    if unknown := [wnid for wnid in wnids if wnid not in index]:
        raise QueeError(f"the ground truth names {unknown[0]}, which is no class of the training set")
    positions = np.array([(offset, size) for _, offset, size in members], np.int64).reshape(-1, 2)
    labels = np.array([index[wnid] for wnid in wnids], np.int64)
    return TarImages(path, names, labels, positions[:, 0], positions[:, 1])


def _wnids(source: Path, ground_truth: Path | None, names: list[str]) -> list[str]:
    """WordNet ids of the validation images, in order of file names.

    A ground-truth file has a line per image: the devkit's number, a WordNet id, or a file name and a WordNet id.
    """
    devkit = next((source / name for name in DEVKITS if (source / name).exists()), None)
    found = read_members(devkit, {GROUND_TRUTH, META}) if devkit else {}
    if ground_truth is not None:
        if not ground_truth.is_file():
            raise UsageError(f"ground truth {ground_truth} does not exist")
        text = ground_truth.read_text(encoding="utf-8", errors="replace")
    elif GROUND_TRUTH in found:
        text = found[GROUND_TRUTH].decode("ascii", "replace")
    else:
        raise UsageError(f"{source} has neither {DEVKITS[0]} with {GROUND_TRUTH} nor was --ground-truth given")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if any(len(line) == 2 for line in lines):
        return _by_name(lines, names)
    values = [line[0] for line in lines]
    if not all(value.isdigit() for value in values):
        return values
    if META not in found:
        raise UsageError(f"the ground truth has the devkit's class numbers, whose meaning is in {DEVKITS[0]}")
    numbers = _devkit_numbers(found[META])
    if unknown := [value for value in values if int(value) not in numbers]:
        raise QueeError(f"the ground truth has class number {unknown[0]}, which is not in {META}")
    return [numbers[int(value)] for value in values]


def _by_name(lines: list[list[str]], names: list[str]) -> list[str]:
    given = {line[0]: line[1] for line in lines if len(line) == 2}
    if missing := [name for name in names if name not in given]:
        raise QueeError(f"the ground truth has no line for {missing[0]}")
    return [given[name] for name in names]


def _devkit_numbers(meta: bytes) -> dict[int, str]:
    """Class number to WordNet id, for classes without children; the other classes are groups of these."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        rows = [row for row in np.atleast_1d(synsets) if int(row["num_children"]) == 0]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except Exception as error:  # damaged files raise many types
        raise DamagedError(f"{META} of the devkit is not readable ({one_line(error)})") from None


class _Part(io.RawIOBase):
    """A part of a file that reads like a file of its own, without reading ahead."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._at = descriptor, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = os.pread(self._descriptor, min(len(view), max(self._size - self._at, 0)), self._start + self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _members(path: Path, start: int, size: int | None) -> list[tuple[str, int, int]]:
    """Name, position in the file, and size of every regular file of a tar that begins at `start`."""
    length = path.stat().st_size - start if size is None else size
    found = []
    try:
        with path.open("rb", buffering=0) as file:
            part = _Part(file.fileno(), start, length)
            with tarfile.open(fileobj=part, mode="r:") as archive:
                # tarfile keeps all members it has seen: a million of them is a gigabyte.
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]
                    if member.isfile():
                        if member.offset_data + member.size > length:
                            raise DamagedError(f"{path}: truncated in {shown(member.name)}")
                        found.append((member.name, start + member.offset_data, member.size))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DamagedError(f"{path}: not a whole tar archive ({error})") from None
    return found
