"""What a file of weights under `data/weights/` says about itself, read from its header without any network.

The metadata name the backbone and the data sets on whose official training sets the weights were trained. Where the images
were at hand, tensor `seen.DATASET` (n,) uint64 has the keys of the samples that the weights have seen
(`quee.data.identity`), so that overlap is judged by images, not by names of data sets.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.data import DATA
from quee.data.fitted import Fitted
from quee.data.identity import sample_keys
from quee.data.preprocessing import KEYS
from quee.errors import IntegrityError
from quee.work.io import read_metadata, read_tensor

if TYPE_CHECKING:
    from quee.data.source import ImageSource
    from quee.settings.backbone import Backbone

WEIGHTS = DATA / "weights"


SEEN = "seen."
"""Beginning of the names of tensors with the keys of the samples that weights have seen, rising; the data set follows."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Published:
    """Weights that their authors publish."""

    backbone: str
    file: str
    where: str
    trained_on: tuple[str, ...]
    """Data sets on whose official training sets the weights were trained."""
    head: str = ""
    """File of the linear head that belongs to them."""


_T2T = "the table of models at github.com/yitu-opensource/T2T-ViT"


_TRANSFERRED = "the section on transfer learning at github.com/yitu-opensource/T2T-ViT"


_RESNET_CIFAR = "the table at github.com/akamaster/pytorch_resnet_cifar10"


_DINOV2 = "dl.fbaipublicfiles.com/dinov2/dinov2_vits14 (github.com/facebookresearch/dinov2)"


PUBLISHED = {
    "t2t_vit_7": Published("t2t_vit_7", "71.7_T2T_ViT_7.pth.tar", _T2T, ("imagenet",)),
    "t2t_vit_14": Published("t2t_vit_14", "81.5_T2T_ViT_14.pth.tar", _T2T, ("imagenet",)),
    "t2t_vit_14_cifar10": Published("t2t_vit_14", "cifar10_t2t-vit_14_98.3.pth", _TRANSFERRED, ("cifar10", "imagenet")),
    "t2t_vit_14_cifar100": Published(
        "t2t_vit_14", "cirfar100_t2t-vit-14_88.4.pth", _TRANSFERRED, ("cifar100", "imagenet")
    ),
    "dinov2_vit_s14": Published(
        "vit_small_patch14_dinov2.lvd142m",
        "dinov2_vits14_pretrain.pth",
        _DINOV2,
        ("imagenet",),
        "dinov2_vits14_linear_head.pth",
    ),
    "resnet20_cifar10": Published("resnet20_cifar", "resnet20-12fca82f.th", _RESNET_CIFAR, ("cifar10",)),
    "resnet56_cifar10": Published("resnet56_cifar", "resnet56-4bfd9763.th", _RESNET_CIFAR, ("cifar10",)),
}
"""Published weights by their name in this project's experiments."""


@dataclass(frozen=True)
class WeightsFacts:
    """The metadata of a file under `data/weights/`."""

    backbone: str
    trained_on: tuple[str, ...] | None
    """Data sets on whose official training sets the weights were trained; None where the file does not say."""
    kwargs: Mapping[str, Any] | None = field(default_factory=dict)
    """Keywords of the backbone when the weights were added, without `num_classes`; None where the file does not say."""
    read_as: str = field(default="", compare=False)
    """Layout of the file that the weights were read from, and the changes on reading."""
    prepared: str = field(default="", compare=False)
    """Preprocessing of the backbone; the weights may have been trained with another."""
    fitted: Fitted | None = field(default=None, compare=False)
    """Ids of the samples on which an experiment of this project fitted the weights, as earlier versions wrote them."""
    seen: Mapping[str, int] | None = field(default=None, compare=False)
    """Number of samples by data set whose keys are in the file; None where it has no keys."""
    experiment: str = field(default="", compare=False)
    """The experiment of this project that fitted the weights; empty for weights from elsewhere."""
    classes: tuple[str, ...] | None = field(default=None, compare=False)
    """Names of the outputs in their order; None where nobody stated them, so that they are the data set's."""
    head: str = field(default="head", compare=False)
    """Name of the layer that gives the logits."""
    measured: str = field(default="", compare=False)
    """What `quee weights check` measured, and on which images."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Fields of the backbone's preprocessing that somebody stated or `quee weights check` measured."""
        found: Mapping[str, Any] = (self.kwargs or {}).get("preprocessing", {})
        return found

    @property
    def stated(self) -> frozenset[str]:
        """What needs no measuring: fields of the preprocessing, and `size`; of an experiment's weights, all."""
        size = {"size"} if "img_size" in (self.kwargs or {}) else set()
        return frozenset(MEASURABLE) if self.own else frozenset({*self.preprocessing, *size})

    @property
    def own(self) -> bool:
        """Whether an experiment of this project fitted the weights."""
        return self.fitted is not None or bool(self.experiment)


MEASURABLE = (*KEYS, "size")
"""Fields of a preprocessing that weights may leave unsaid; the size is kept as keyword `img_size`."""


def weights_path(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


def weights_facts(path: Path) -> WeightsFacts:
    """Read the metadata from the file's header; raises IntegrityError for a missing file or one of another origin."""
    if not path.is_file():
        raise IntegrityError(f"missing file: {path}; {how_to_add_weights(path.stem)}")
    try:
        metadata = read_metadata(path)
        names, kwargs = metadata.get("trained_on"), json.loads(metadata.get("kwargs", "null"))
        seen = None if names is None else tuple(filter(None, names.split(",")))
        fitted = Fitted.read(metadata["fitted_on"]) if "fitted_on" in metadata else None
        told = (metadata.get("read_as", ""), metadata.get("prepared", ""))
        classes = tuple(map(str, json.loads(metadata["classes"]))) if "classes" in metadata else None
        head, measured = metadata.get("head", "head"), metadata.get("measured", "")
        counts = json.loads(metadata["seen"]) if "seen" in metadata else None
        own = metadata.get("experiment", "")
        return WeightsFacts(metadata["backbone"], seen, kwargs, *told, fitted, counts, own, classes, head, measured)
    except (IntegrityError, ValueError, KeyError, TypeError, AttributeError):
        how = f"quee weights add {path.stem} FILE --replace"
        raise IntegrityError(f"{path} is not what `quee weights add` writes; `{how}` makes it anew") from None


def how_to_add_weights(name: str) -> str:
    """Which files to get and from where, with the command that adds them, or fetches them if DVC tracks them."""
    known, pointer = PUBLISHED.get(name), WEIGHTS / f"{name}.dvc"
    if pointer.is_file():
        return f"`dvc pull {pointer}` brings it, and so does `quee run`"
    if known is None:
        return f"`quee weights add {name} FILE --backbone BACKBONE` adds weights"
    files = f"{known.file} and {known.head}" if known.head else known.file
    option = f" --head {known.head}" if known.head else ""
    return f"get {files} from {known.where}, then `quee weights add {name} {known.file}{option}`"


def has_seen(facts: WeightsFacts, dataset: str, mode: str) -> bool:
    """Whether weights count as fitted on a data set's official training set; `pretrained` ones do unless they say otherwise."""
    return mode == "pretrained" if facts.trained_on is None else dataset in facts.trained_on


def seen_keys(path: Path, facts: WeightsFacts) -> dict[str, np.ndarray]:
    """Keys (n,) uint64 of the samples that the weights in a file have seen, by data set."""
    return {name: read_tensor(path, SEEN + name) for name in facts.seen or ()}


def seen_samples(name: str, images: "ImageSource", dataset: str) -> np.ndarray | None:
    """(N,) bool: which samples of a data set the weights `name` have seen; None where the weights do not say it by sample.

    Raises UsageError where they say it by ids of other files.
    """
    path = weights_path(name)
    facts = weights_facts(path)
    if facts.seen is not None:
        return np.isin(sample_keys(images), np.concatenate(list(seen_keys(path, facts).values())))
    if facts.fitted is None or facts.fitted.dataset != dataset:
        return None
    facts.fitted.refuse_other_files(name, images.digests)
    return np.isin(np.arange(len(images)), facts.fitted.ids)


def built_with(settings: "Backbone") -> dict[str, Any]:
    """Keywords of an experiment's backbone: its own, and those of its weights that it does not give."""
    given = dict(settings.kwargs)
    if settings.weights is None or not (path := weights_path(settings.weights)).is_file():
        return given
    told = dict(weights_facts(path).kwargs or {})
    own = given.get("preprocessing")
    if isinstance(own, Mapping) and "preprocessing" in told:
        given["preprocessing"] = {**told["preprocessing"], **own}
    return {**told, **given}
