"""Shards of data sets that are drawn, in worker processes, and checked against the published digest of their pixels."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from quee.data.importers.base import Plan, Shard, Source, shard_name
from quee.data.importers.provenance import lasting
from quee.data.writer import Sample, encode_png, write_images
from quee.errors import QueeError, UsageError
from quee.work import shards
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.progress import part_of_a_shard
from quee.work.store import Store

PIECE = 250
"""Images that are drawn at once; 40 MB of memory."""

Draw = Callable[[str, str, int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Draws images `start` to `stop` of a set from a source, given as (source, set, start, stop): pixels (n, h, w, c) uint8,
labels (n,) and groups (n,). Set `test` is drawn from the evaluation sources, every other from the training sources, and
sets of different names have nothing in common. It is a function of a module, because workers import it."""


@dataclass(frozen=True)
class Drawn:
    """What is drawn from a source: the number of images in each set, and the digest of its pixels, labels and groups."""

    train: tuple[int, str]
    test: tuple[int, str]


@dataclass(frozen=True)
class Origin:
    """How the images of a data set are drawn, and from which sources."""

    name: str
    draw: Draw
    digest: Callable[[Path], str]
    """Digest of a source's content."""
    known: Mapping[str, Drawn]
    """Sources by their digest, with what is published of the sets that are drawn from them."""
    seconds: float
    """Of a core, for an image."""

    def checked(self, source: Path) -> Drawn:
        """What is published of a source; raises UsageError for another one."""
        if (digest := self.digest(source)) not in self.known:
            valid = ", ".join(one[:12] for one in self.known)
            raise UsageError(
                f"{source} is another file than {self.name} is drawn from: digest {digest[:12]}; expected {valid}"
            )
        return self.known[digest]


def plan_drawn(source: Source, origin: Origin) -> Plan:
    """The shards of a data set that is drawn from a source. Raises UsageError for a source that is not known."""
    known, plan = origin.checked(source.path), Plan()
    for split, (count, expected) in {"train": known.train, "test": known.test}.items():
        write = partial(_write, source, split, count, expected, origin)
        labels = np.zeros(0, np.int64)  # drawn with the images
        shard = Shard(shard_name(split, 0, 1), count, write, partial(_name, split), labels, source.dataset.classes)
        plan.shards.append(shard)
    plan.report.source = f"{lasting(source.path)}, digest {origin.digest(source.path)}"
    plan.report.notes.append("synthetic: drawn from the source, pixels as published")
    return plan


def digest_of(images: Iterable[tuple[np.ndarray, int, int]]) -> str:
    """Digest of decoded pixels, label and group of image after image; it depends on no encoding."""
    hasher = hashlib.sha256()
    for pixels, label, group in images:
        hasher.update(pixels.tobytes() + int(label).to_bytes(8, "little") + int(group).to_bytes(8, "little"))
    return hasher.hexdigest()


def _name(split: str, number: int) -> str:
    return f"{split}/{number:06d}.png"


def _packed(draw: Draw, source: str, split: str, start: int, stop: int) -> bytes:
    pixels, labels, groups = draw(source, split, start, stop)
    return packed_tensors({"pixels": pixels, "labels": labels.astype(np.int64), "groups": groups.astype(np.int64)})


def _write(
    source: Source,
    split: str,
    count: int,
    expected: str,
    origin: Origin,
    path: Path,
) -> None:
    # Beside the folder of finished files, because that one is put in place as it is.
    store = Store(str(path.parent.resolve().with_name(f"{path.parent.name}.{split}")))
    where = str(source.path.resolve())
    pieces = [
        shards.Shard(f"{start:06d}", _packed, (origin.draw, where, split, start, min(start + PIECE, count)))
        for start in range(0, count, PIECE)
    ]
    with part_of_a_shard():
        shards.run_shards(pieces, store, source.lanes(origin.seconds * count), f"drawing {split}")

    def images() -> Iterator[tuple[np.ndarray, int, int]]:
        for data in shards.read_shards(pieces, store):
            part, _ = unpacked_tensors(data, store.url)
            yield from zip(part["pixels"], part["labels"], part["groups"], strict=True)

    if (found := digest_of(images())) != expected:
        raise QueeError(
            f"{source.name}, {split}: pixels have digest {found[:12]}, those published have {expected[:12]}: this machine "
            "computes other values, by a fault of quee or of NumPy"
        )
    samples = (
        Sample(encode_png(pixels), _name(split, number), int(label), int(group))
        for number, (pixels, label, group) in enumerate(images())
    )
    write_images(path, samples, source.dataset.classes, grouped=True)
    store.discard()
