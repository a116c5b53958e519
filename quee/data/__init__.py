"""Registry of datasets.

Importing this package imports no torch, pyarrow or PIL: settings are checked against names alone.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quee.errors import UsageError
from quee.work.registry import Registry, unknown

DATA = Path("data")
RESERVED = ("sources", "weights")
"""Folders in it that are no data sets."""


@dataclass(frozen=True)
class Dataset:
    """Facts of a dataset before its files are read."""

    title: str
    size: tuple[int, int]
    """Height and width of every image, or the usual target where images vary in size."""
    channels: int = 3
    classes: tuple[str, ...] = ()
    """Names by label; empty where the files carry them."""
    image: str = "image"
    """Column of the hub's files with the images."""
    label: str = "label"
    """Column of the hub's files with the labels."""
    evaluation: tuple[str, ...] = ("test", "validation", "valid")
    """Prefixes of file names of the official evaluation set; the first one present counts."""
    source: str = ""
    """Where to get its files; `quee data add` takes them."""
    argument: str = "FOLDER"
    """Placeholder for these files in that command."""
    drawn_from: str = ""
    """For data sets that are drawn: the file or folder in a project from whose content more images can be drawn, by anyone."""


TOLD = ("title", "source", "argument", "drawn_from")
"""Fields that decide no result: what people read, and places. What is drawn from is known by its digest."""

DATASETS: Registry[Dataset] = Registry("dataset")


def dataset_called(name: str) -> Dataset:
    """Facts of a dataset; for a dataset that is not registered, nothing is known before its images are read."""
    return DATASETS[name] if name in DATASETS else Dataset(title=name, size=(224, 224))


def names_in(data: Path) -> list[str]:
    """The registered datasets, and those added under other names to the folder `data`, sorted."""
    added = {file.stem for file in data.glob("*.dvc")} | {
        file.parent.name for file in data.glob("[!.]*/train-*.parquet")
    }
    return sorted({*DATASETS, *added})


def known_dataset(name: str, data: Path) -> Dataset:
    """Facts of a dataset; raises UsageError for one that is neither registered nor in the folder `data`."""
    if name not in DATASETS and name not in (names := names_in(data)):
        raise UsageError(unknown("dataset", name, names, "`quee data list`"))
    return dataset_called(name)


def facts(name: str) -> dict[str, Any]:
    """The facts that decide how the files of a dataset are read, as plain values; they are part of an experiment's settings."""
    values = {key: value for key, value in asdict(dataset_called(name)).items() if key not in TOLD}
    return {"name": name, **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}}


_DIGITS = tuple("0123456789")
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

_CHARACTERS = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
"""EMNIST's `bymerge`: the other lower-case letters share a class with their capital."""

DATASETS.register("digits")(
    Dataset(
        "Optical digits of scikit-learn", (8, 8), 1, _DIGITS, source="nothing (it comes with scikit-learn)", argument=""
    )
)
DATASETS.register("mnist")(
    Dataset("MNIST", (28, 28), 1, _DIGITS, source="a folder with the four IDX files, plain or .gz")
)
DATASETS.register("fashion_mnist")(
    Dataset(
        "Fashion-MNIST",
        (28, 28),
        1,
        _CLOTHES,
        source="a folder with the four IDX files, plain or .gz (github.com/zalandoresearch/fashion-mnist, "
        "or Debian's package dataset-fashion-mnist)",
    )
)
DATASETS.register("cluttered_fashion")(
    Dataset(
        "Cluttered Fashion (synthetic)",
        (64, 64),
        1,
        _CLOTHES,
        source="the four IDX files of Fashion-MNIST, from which it is drawn; `make cluttered-fashion` gets them",
        drawn_from="data/fashion_mnist",
    )
)
DATASETS.register("street_characters")(
    Dataset(
        "Street Characters (synthetic)",
        (32, 32),
        3,
        _CHARACTERS,
        source="data/sources/street_glyphs.npz, from which it is drawn; `make street-characters` pulls it",
        argument="data/sources/street_glyphs.npz",
        drawn_from="data/sources/street_glyphs.npz",
    )
)
DATASETS.register("cifar10")(
    Dataset(
        "CIFAR-10",
        (32, 32),
        3,
        _OBJECTS,
        image="img",
        source="cifar-10-python.tar.gz or cifar-10-binary.tar.gz from www.cs.toronto.edu/~kriz/cifar.html",
        argument="cifar-10-python.tar.gz",
    )
)
DATASETS.register("cifar100")(
    Dataset(
        "CIFAR-100",
        (32, 32),
        3,
        image="img",
        label="fine_label",
        source="cifar-100-python.tar.gz or cifar-100-binary.tar.gz from www.cs.toronto.edu/~kriz/cifar.html",
        argument="cifar-100-python.tar.gz",
    )
)
DATASETS.register("svhn")(
    Dataset(
        "SVHN, cropped digits",
        (32, 32),
        3,
        _DIGITS,
        source="a folder with train_32x32.mat and test_32x32.mat from ufldl.stanford.edu/housenumbers",
    )
)
DATASETS.register("imagenet")(
    Dataset(
        "ImageNet-1k (ILSVRC 2012)",
        (224, 224),
        3,
        evaluation=("validation", "test"),
        source="a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from "
        "image-net.org, or with train/ and val/ class folders, or with the hub's Parquet files",
    )
)
