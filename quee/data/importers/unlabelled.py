"""Images without labels, in a folder of any shape: the float network's own answers become their labels.

A few hundred images in class folders may stand beside them; they make the split `labelled`, on which accuracy is measured.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from quee.data.importers.base import Answering, Importer, Plan, Source
from quee.data.importers.folders import FolderImages, folder_images, openable
from quee.data.importers.layout import tree
from quee.data.importers.located import plan_set
from quee.data.importers.report import counted
from quee.data.walk import IMAGE_SUFFIXES, SKIP_HINT, Walk, faults_text, shown, some, walk
from quee.errors import QueeError, UsageError
from quee.measure import LABELLED


def plan(source: Source, walked: Walk) -> Plan:
    """All images below the source, and those of `labelled`, whose class folders are called as the network's outputs."""
    assert source.answering is not None
    options, found, made = source.options, walked.of(IMAGE_SUFFIXES), Plan(verify=True, answers=source.answering.facts)
    made.report.skipped.add(found.skipped)
    faults: list[str] = []
    images = _images(found, faults)
    beside = None if options.labelled is None else _labelled(Path(options.labelled), source.answering, faults)
    if faults and not options.skip_bad:
        raise QueeError(faults_text(faults, "images cannot be read", SKIP_HINT))
    made.report.bad += faults
    if not images.names:
        raise QueeError(f"{shown(found.folder)}: no images ({', '.join(IMAGE_SUFFIXES)})")
    images = replace(
        images, labels=source.answering.answers(images.read(np.arange(len(images.names))), len(images.names))
    )
    classes = source.answering.classes
    made.shards = plan_set("train", images, classes, answers=made.answers)
    made.report.notes.append(f"labels are the answers of {source.answering.name}; names of folders are not read")
    if beside is not None:
        made.shards += plan_set(LABELLED, beside, classes)
        made.report.notes.append(
            f"{counted(len(beside.names))} of {shown(beside.folder)} are labelled, in {LABELLED!r}"
        )
    return made


IMPORTER = Importer(
    lambda source: source.answering is not None and source.walked,
    plan,
    ("answers", "class_order", "labelled"),
    "images without labels",
)


def _images(found: Walk, faults: list[str]) -> FolderImages:
    """Every image of a walk, all of label 0; files that cannot be opened are left out and added to `faults`."""
    kept = [file for file, _ in openable(found.folder, ((file, file.name) for file in found.files), faults)]
    sizes = np.array([file.size for file in kept], np.int64)
    return FolderImages(found.folder, [file.name for file in kept], np.zeros(len(kept), np.int64), sizes)


def _labelled(folder: Path, answering: Answering, faults: list[str]) -> FolderImages:
    if not folder.is_dir():
        raise UsageError(
            f"--labelled {shown(folder)}: no folder; give one of class folders, called as the network's outputs"
        )
    found = walk(folder).of(IMAGE_SUFFIXES)
    top = tree(found)
    if not top.images or top.own:
        raise UsageError(
            f"--labelled {shown(folder)}: its images must be in class folders: {some(answering.classes, 5)}"
        )
    return folder_images(found, top, answering.classes, faults)
