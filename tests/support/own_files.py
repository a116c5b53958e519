"""Folders and Parquet files of a user's own images; every image is unique, so that a test finds it again."""

import json
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from image_files import encoded, noise

from quee.data.importers import Options, import_dataset
from quee.data.importers.report import Report
from quee.data.source import open_dataset

KINDS = {".png": "PNG", ".jpg": "JPEG", ".JPEG": "JPEG", ".webp": "WEBP"}


@cache
def picture(seed: int, suffix: str = ".png") -> bytes:
    return encoded(noise(seed, 12, 10, 3), KINDS[suffix])


def put(path: str | bytes | Path, data: bytes = b"nothing") -> None:
    """Write a file and its folders; a name given as bytes may be no UTF-8."""
    name = os.fsencode(path)
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)


class Own:
    """Images written so far: content to their set and class."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[str, str]] = {}

    def new(self, where: str, label: str, suffix: str = ".png") -> bytes:
        data = picture(len(self.known), suffix)
        self.known[data] = (where, label)
        return data

    def folders(self, folder: str | Path, where: str, counts: dict[str, int], suffix: str = ".png") -> None:
        """Write `FOLDER/CLASS/i.png`, a number of images of each class."""
        for label, count in counts.items():
            for i in range(count):
                put(Path(folder) / label / f"{i}{suffix}", self.new(where, label, suffix))

    def parquet(
        self,
        path: str | Path,
        where: str,
        labels: Sequence[str],
        names: Sequence[str] | None,
        column: str = "label",
        text: bool = False,
        described: bool = True,
        image: str = "image",
    ) -> None:
        """A Parquet file as on the hub: labels as positions in `names` or as text, `described` in its metadata or not."""
        rows = [{"bytes": self.new(where, label), "path": f"{i}.png"} for i, label in enumerate(labels)]
        values = list(labels) if text else [list(names or sorted(set(labels))).index(label) for label in labels]
        write_hub(path, rows, values, names if described and not text else None, column, image)


def write_hub(
    path: str | Path,
    rows: list[dict[str, object]],
    labels: Iterable[object],
    names: Sequence[str] | None = None,
    column: str = "label",
    image: str = "image",
    more: dict[str, list[object]] | None = None,
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(rows, kind), column: pa.array(list(labels)), **(more or {})})
    if names is not None:
        features = {image: {"_type": "Image"}, column: {"_type": "ClassLabel", "names": list(names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def add(source: str | Path, name: str = "own", **options: object) -> tuple[Report, dict[bytes, tuple[str, str]]]:
    """Import, and return the place of every image: content to set (`train` or `evaluation`) and class."""
    target = Path("data") / name
    report = import_dataset(name, Path(source), target, Options(**options), replace=True)  # type: ignore[arg-type]
    images = open_dataset(target, name)
    found = {}
    for sample in range(len(images)):
        where = "train" if sample < images.train_samples else "evaluation"
        found[images.encoded[sample][0]] = (where, images.classes[int(images.labels[sample])])
    assert len(found) == len(images) or report.duplicates != type(report.duplicates)()
    return report, found


def labels_of(count: int, names: Sequence[str]) -> list[str]:
    """A number of labels, every class in turn."""
    return [names[i % len(names)] for i in range(count)]


def spread(values: Sequence[object], seed: int) -> list[object]:
    """The same in another order."""
    return [values[i] for i in np.random.default_rng(seed).permutation(len(values))]
