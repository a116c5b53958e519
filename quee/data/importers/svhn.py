"""SVHN, cropped digits: MATLAB files of version 5."""

from pathlib import Path

import numpy as np

from quee.data.importers.archive import leave_others
from quee.data.importers.arrays import array_shard
from quee.data.importers.base import Importer, Plan, Source
from quee.errors import DamagedError, QueeError, UsageError, one_line

ENDING = "_32x32.mat"


def plan(given: Source, _: object) -> Plan:
    """`train_32x32.mat` and `test_32x32.mat` of a folder; with option `extra`, `extra_32x32.mat` joins the training set."""
    source, options, classes = given.path, given.options, given.dataset.classes
    names = ["train", "extra"] if options.extra else ["train"]
    parts = [read_mat(_file(source, name)) for name in names]
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    plan = Plan([array_shard("train", images, labels, classes, f"{source}, {' and '.join(names)}")])
    images, labels = read_mat(_file(source, "test"))
    plan.shards.append(array_shard("test", images, labels, classes, f"{source}, test"))
    used = {_file(source, name).name for name in (*names, "test")}
    if not options.extra and (extra := source / f"extra{ENDING}").is_file():
        plan.report.leave(extra.name, 1, "--extra adds it to the training set")
        used.add(extra.name)
    leave_others(source, used, plan.report)
    return plan


IMPORTER = Importer(lambda source: source.name == "svhn", plan, ("extra",))


def _file(source: Path, name: str) -> Path:
    path = source / f"{name}{ENDING}"
    if not path.is_file():
        raise UsageError(f"{source} has no {path.name}")
    return path


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels 0 to 9: the file's label 10 stands for the digit 0."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # damaged files raise many types
        raise DamagedError(f"{path}: not a whole MATLAB file of version 5 ({one_line(error)})") from None
    if missing := {"X", "y"} - set(content):
        raise QueeError(f"{path} has no variable {min(missing)}")
    pixels, labels = content["X"], content["y"].reshape(-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
        raise QueeError(f"{path}: X is {pixels.dtype} of shape {pixels.shape}; expected uint8 (32, 32, 3, n)")
    if pixels.shape[3] != len(labels):
        raise QueeError(f"{path}: {pixels.shape[3]} images and {len(labels)} labels")
    bad = np.flatnonzero((labels < 1) | (labels > 10))
    if len(bad):
        raise QueeError(f"{path}: label {labels[bad[0]]} of image {bad[0]} is out of range; valid: 1 to 10")
    return pixels.transpose(3, 0, 1, 2), labels.astype(np.int64) % 10
