"""Checks of an import before it is put in place: all images are decoded and compared; bad images are named or removed."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from quee.data import Dataset
from quee.data.decode import in_order, verify
from quee.data.files import DatasetFiles
from quee.data.importers.base import Plan, Shard
from quee.data.importers.report import find_duplicates
from quee.data.walk import SKIP_HINT, faults_text
from quee.data.writer import copy_without
from quee.errors import DamagedError, IntegrityError, QueeError

DIGEST_BYTES = 16


def inspect_images(folder: Path, dataset: Dataset, plan: Plan, skip_bad: bool) -> dict[str, np.ndarray]:
    """Bad rows by file; empty without `skip_bad`. Counts, duplicates and bad images go to the plan's report.

    Raises QueeError naming the images that do not decode by the user's names, and for data on which nothing can be trained.
    """
    images = DatasetFiles(folder, dataset)
    if not len(images):
        raise QueeError("the source has no images")
    shards = [next(shard for shard in plan.shards if shard.name == path.name) for path in images.files]
    starts = np.cumsum([0, *(shard.samples for shard in shards)])

    def place(sample: int) -> tuple[Shard, int]:
        index = int(np.searchsorted(starts, sample, side="right")) - 1
        return shards[index], sample - int(starts[index])

    def origin(sample: int) -> str:
        shard, row = place(sample)
        return shard.origin(row)

    digests, faults = _inspect(images, plan.verify, origin)
    if faults and not skip_bad:
        named = [f"{origin(sample)}: {why}" for sample, why in faults.items()]
        raise DamagedError(faults_text(named, f"of {len(images):,} images cannot be used", SKIP_HINT))
    plan.report.bad += [f"{origin(sample)}: {why}" for sample, why in faults.items()]
    good = np.setdiff1d(np.arange(len(images)), list(faults))
    training = int(np.searchsorted(good, images.train_samples))
    labels = images.labels[good]
    if (trained := len(np.unique(labels[:training]))) < 2:
        raise QueeError(f"there are training images of {trained} class{'' if trained == 1 else 'es'}; training takes 2")
    official = int(np.searchsorted(good, images.train_samples + images.evaluation_samples))
    plan.report.count(labels[:official], training, images.classes)
    plan.report.duplicates = find_duplicates(digests[good], labels, training, lambda i: origin(int(good[i])))
    bad: dict[str, list[int]] = {}
    for sample in faults:
        shard, row = place(sample)
        bad.setdefault(shard.name, []).append(row)
    return {name: np.array(rows) for name, rows in bad.items()}


def _inspect(images: DatasetFiles, decodes: bool, origin: Callable[[int], str]) -> tuple[np.ndarray, dict[int, str]]:
    """Digests (n, 16) uint8 of the images' bytes, and by sample the fault of every image that does not decode."""
    digests = np.zeros((len(images), DIGEST_BYTES), np.uint8)

    def one(sample: int) -> str | None:
        try:
            data, _ = images.encoded[sample]
        except IntegrityError:  # names the copy, but the user knows the original
            raise DamagedError(f"{origin(sample)}: not readable, the file is damaged") from None
        digests[sample] = np.frombuffer(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), np.uint8)
        if not data:
            return "no bytes in it"
        try:
            if decodes:
                verify(data, "")
        except QueeError as error:
            return str(error).removeprefix(": ")
        return None

    found = enumerate(in_order(one, len(images), "checking images"))
    return digests, {sample: why for sample, why in found if why is not None}


def without_bad(folder: Path, bad: dict[str, np.ndarray]) -> Path:
    """Move the files of `folder` to a new folder without the rows in `bad`; returns the new folder."""
    good = folder.with_name(f"{folder.name}.good")
    shutil.rmtree(good, ignore_errors=True)
    good.mkdir()
    for path in sorted(folder.iterdir()):
        if path.name in bad:
            copy_without(path, good / path.name, bad[path.name])
        else:
            _link(path, good / path.name)
    shutil.rmtree(folder)
    return good


def _link(path: Path, other: Path) -> None:
    """Link a file to another place, or copy it if the file system has no links."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)
