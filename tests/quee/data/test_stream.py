"""Images drawn without end: by number and seed alone, from training sources alone, and none of the data set's."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from drawn_files import TEST, TRAIN, write_garments, write_glyphs

from quee.data import DATASETS, names_in
from quee.data.identity import pixel_key, sample_keys
from quee.data.importers import import_dataset
from quee.data.preprocessing import Preprocessing
from quee.data.source import open_dataset
from quee.data.stream import ORIGINS, Stream, open_stream
from quee.errors import IntegrityError, UsageError
from quee.settings.backbone import Augmentation
from quee.work.workers import EXECUTORS, Workers

BATCH = 10


def sources(name: str) -> None:
    """The data set of that name and what more of its images are drawn from, in the current folder."""
    if name == "street_characters":
        Path("data/sources").mkdir(parents=True)
        import_dataset(name, write_glyphs(Path("data/sources/street_glyphs.npz")), Path("data") / name)
    else:
        garments = write_garments(Path("files"))
        import_dataset(name, garments, Path("data") / name)
        import_dataset("fashion_mnist", garments, Path("data/fashion_mnist"))


def transform(name: str, side: int | None = None) -> Preprocessing:
    size = DATASETS[name].size if side is None else (side, side)
    return Preprocessing(size, channels=DATASETS[name].channels, mean=(0.0,), std=(1.0,))


@contextmanager
def executor(kind: str) -> Iterator[Executor]:
    with EXECUTORS[kind](Workers(2)).open() as opened:
        yield opened


def drawn(stream: Stream, first: int, last: int, how: Preprocessing, kind: str = "inline") -> tuple[np.ndarray, ...]:
    """Numbers, pixels uint8 (n, h, w, c) and labels of some batches."""
    with executor(kind) as opened:
        found = list(stream.batches(opened, first, last, BATCH, how))
    numbers, images, labels = (
        np.concatenate([np.asarray(part) for part in column]) for column in zip(*found, strict=True)
    )
    return numbers, np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8), labels


@pytest.mark.parametrize("name", ORIGINS)
def test_an_image_depends_on_its_number_and_the_seed_alone(name: str, project: Path) -> None:
    sources(name)
    how = transform(name)
    numbers, pixels, labels = drawn(open_stream(name, 0), 0, 3, how)
    assert numbers.tolist() == list(range(30)) and pixels.shape[1:] == (*DATASETS[name].size, DATASETS[name].channels)
    for kind in ("inline", "processes"):
        later = drawn(open_stream(name, 0), 1, 3, how, kind)
        for whole, part in zip((numbers, pixels, labels), later, strict=True):
            assert np.array_equal(whole[10:], part)
    other = drawn(open_stream(name, 1), 0, 3, how)
    assert not (other[1] == pixels).all(axis=(1, 2, 3)).any()
    assert len({pixel_key(image) for image in pixels}) == 30


@pytest.mark.parametrize("name", ORIGINS)
def test_no_image_of_the_stream_is_one_of_the_data_set(name: str, project: Path) -> None:
    sources(name)
    images = open_dataset(Path("data") / name, name)
    own = set(sample_keys(images).tolist())
    _, pixels, _ = drawn(open_stream(name, 0), 0, 6, transform(name))
    keys = {int.from_bytes(pixel_key(image), "little") for image in pixels}
    assert len(own) == TRAIN + TEST and not keys & own


@pytest.mark.parametrize("name", ORIGINS)
def test_the_stream_is_drawn_from_the_training_sources(name: str, project: Path) -> None:
    sources(name)
    stream = open_stream(name, 0)
    draw = stream.origin.draw
    groups = set(draw(str(stream.path), stream.name, 0, 400)[2].tolist())
    training = set(draw(str(stream.path), "train", 0, 400)[2].tolist())
    evaluation = set(draw(str(stream.path), "test", 0, 400)[2].tolist())
    assert groups == training and not groups & evaluation


def test_images_come_at_the_size_that_is_asked_for_and_augmented_by_their_number(project: Path) -> None:
    sources("street_characters")
    stream, how = open_stream("street_characters", 0), transform("street_characters", 16)
    assert drawn(stream, 0, 1, how)[1].shape == (BATCH, 16, 16, 3)
    with executor("inline") as opened:
        (_, plain, _), (_, second, _) = stream.batches(opened, 0, 2, BATCH, how, Augmentation(flip=True))
        ((_, again, _),) = stream.batches(opened, 1, 2, BATCH, how, Augmentation(flip=True))
    assert np.array_equal(second, again) and not np.array_equal(plain, second)


def test_the_data_set_fashion_mnist_is_as_good_a_source_as_its_files(project: Path) -> None:
    sources("cluttered_fashion")
    origin = ORIGINS["cluttered_fashion"]
    assert origin.digest(Path("data/fashion_mnist")) == origin.digest(Path("files"))
    for one, other in zip(
        origin.draw("files", "train", 0, 9), origin.draw("data/fashion_mnist", "train", 0, 9), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", ORIGINS)
def test_a_source_that_is_missing_or_another_is_refused(name: str, project: Path) -> None:
    with pytest.raises(
        IntegrityError, match=f"missing: {DATASETS[name].drawn_from}, from which images of {name} are drawn"
    ):
        open_stream(name, 0)
    sources(name)
    for digest in list(ORIGINS[name].known):
        del ORIGINS[name].known[digest]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=f"{DATASETS[name].drawn_from} is another file than {name} is drawn from"):
        open_stream(name, 0)


def test_every_data_set_that_is_drawn_has_a_stream(project: Path) -> None:
    assert set(ORIGINS) == {name for name in names_in(Path("data")) if name in DATASETS and DATASETS[name].drawn_from}
