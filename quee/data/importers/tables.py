"""Tables beside images: where one says what the images are, folders may be no classes."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from quee.data.importers.report import Report
from quee.data.walk import Walk, shown, some
from quee.errors import QueeError

SUFFIXES = (".csv", ".tsv")
MOST_BYTES = 64 << 20
"""Of a table that is looked into."""
SAMPLE = 200
"""Images that are looked for in a table."""
_BETWEEN = re.compile(r"[\s,;|\"'/\\]+")


def check_tables(found: Walk, images: Sequence[str], classes: Sequence[str], report: Report) -> None:
    """Say which tables among the files name the images, for labels in tables are not read.

    Raises QueeError where such a table knows none of the folders that would be classes.
    """
    sample = [PurePosixPath(name) for name in images[:: max(1, len(images) // SAMPLE)]]
    for file in found.files:
        path = found.folder / file.name
        if path.suffix.lower() not in SUFFIXES or file.size > MOST_BYTES or not sample:
            continue
        words = _words(path)
        if 2 * sum(_named(image, words) for image in sample) < len(sample):
            continue
        if not any(word in words for name in classes for word in (name, name.lower())):
            raise QueeError(
                f"{shown(path)} names the images, and none of the folders that would be classes: {some(classes, 5)}. Labels "
                "in tables are not read: sort the images into folders by class, or take the table away"
            )
        report.notes.append(f"labels in {shown(file.name)} are not read: classes are the folders")


def _words(path: Path) -> set[str]:
    try:
        return set(_BETWEEN.split(path.read_bytes().decode("utf-8", "replace")))
    except OSError as error:
        raise QueeError(f"{shown(path)}: cannot be read ({error.strerror})") from None


def _named(image: PurePosixPath, words: set[str]) -> bool:
    return image.name in words or (len(image.stem) > 2 and image.stem in words)
