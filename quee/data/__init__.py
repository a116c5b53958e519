"""Datasets: what is known of each, and the way to their images.

Importing this package imports no torch, pyarrow or PIL: settings are checked against names alone.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee.work.registry import Registry

if TYPE_CHECKING:
    from quee.data.source import ImageSource as ImageSource
    from quee.data.source import open_dataset as open_dataset

DATA = Path("data")


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before its files are read."""

    title: str
    size: tuple[int, int]
    """Height, width: of every image, or what images of varying size are usually brought to."""
    channels: int = 3
    classes: tuple[str, ...] = ()
    """Names by label; empty where the files carry them."""
    image: str = "image"
    """Column of the hub's files with the images."""
    label: str = "label"
    """Column of the hub's files with the labels."""
    evaluation: tuple[str, ...] = ("test", "validation", "valid")
    """Beginnings of the names of the official evaluation set's files; the first one present counts."""
    source: str = ""
    """Where its files are to be had, and what `quee data add` takes."""
    argument: str = "FOLDER"
    """What stands for them in that command."""


TOLD = ("title", "source", "argument")
"""What people are told of a data set, and no stage reads."""


def unregistered(name: str) -> Dataset:
    """A dataset of whose images nothing is known before they are read."""
    return Dataset(title=name, size=(224, 224))


class Datasets(Registry[Dataset]):
    """The registered datasets, and those added under other names to `data/`."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._added()

    def __getitem__(self, name: str) -> Dataset:
        if not super().__contains__(name) and name in self._added():
            return unregistered(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*super().__iter__(), *self._added()}))

    def facts(self, name: str) -> dict[str, Any]:
        """What decides how the files of a data set are read, as plain values: part of an experiment's settings."""
        known = super().__getitem__(name) if super().__contains__(name) else unregistered(name)
        values = asdict(known)
        facts = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {"name": name, **{key: value for key, value in facts.items() if key not in TOLD}}

    @staticmethod
    def _added() -> set[str]:
        tracked = {file.stem for file in DATA.glob("*.dvc")}
        return tracked | {file.parent.name for file in DATA.glob("[!.]*/train-*.parquet")}


DATASETS = Datasets("dataset")

_DIGITS = tuple("0123456789")
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

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


def __getattr__(name: str) -> Any:
    if name in ("open_dataset", "ImageSource"):
        from quee.data import source

        return getattr(source, name)
    raise AttributeError(f"module 'quee.data' has no attribute {name!r}")
