"""Pretrained weights: read without executing anything, checked against their backbone, stored as safetensors.

The metadata of a file under `data/weights/` names its backbone and the data sets on whose official training sets the
weights were trained. Importing this module does not import torch.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.data import DATA
from quee.data.class_order import positions
from quee.data.fitted import Fitted
from quee.data.preprocessing import KEYS
from quee.errors import IntegrityError, QueeError, UsageError
from quee.work.io import read_json, read_metadata, read_shape, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from quee.network.base import SegmentedBackbone
    from quee.settings.backbone import Backbone
    from quee.settings.experiment import Experiment

WEIGHTS = DATA / "weights"
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
    """Samples on which an experiment of this project fitted the weights; None for weights from elsewhere."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Fields of the backbone's preprocessing that somebody stated or `quee weights check` measured."""
    classes: tuple[str, ...] | None = field(default=None, compare=False)
    """Names of the outputs in their order; None where nobody stated them, so that they are the data set's."""
    measured: str = field(default="", compare=False)
    """What `quee weights check` measured, on which images."""

    @property
    def stated(self) -> frozenset[str]:
        """Fields of the preprocessing that need no measuring: of these weights or, for an experiment's weights, all."""
        return frozenset(KEYS) if self.fitted is not None else frozenset(self.preprocessing)


FREE = ("img_size", "layers", "num_classes", "preprocessing")
"""Keywords that may differ from those given with the weights; loading refuses a head or size that does not fit."""
OUTPUTS = re.compile(r"(?:head|head_dist)(?:\.fc)?\.(?:weight|bias)")
"""Parameters of heads with a row for each output."""
DROPOUT = re.compile(r"\w*drop\w*_rate")
"""Keywords that act during training only."""


def weights_path(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


def import_weights(
    backbone: str | None,
    source: Path,
    target: Path,
    head: Path | None = None,
    trained_on: tuple[str, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> int:
    """Write the weights in `source`, and the linear head in `head`, to `target`; returns the number of parameters.

    Where `backbone` is None, it is the one whose name `target` has, or else the one that the file's own names and shapes
    say. `kwargs` are an experiment's `backbone.kwargs`. Weights without a head are accepted too, for finetuning or probing.
    Raises QueeError naming missing and unexpected keys where the weights do not fit the backbone with as many classes as
    the weights have, and UsageError where no backbone is known.
    """
    from quee.network.architectures import is_backbone, refuse_unknown
    from quee.network.checkpoints.reading import read_checkpoint, with_head

    if backbone is not None:
        refuse_unknown(backbone)
    given = dict(kwargs or {})
    found = read_checkpoint(source)
    state = found.state
    if backbone is None and found.architecture and not is_backbone(target.stem):
        backbone, told = import_module(found.architecture).named(state)
        given = {**told, **given}
    backbone = backbone or target.stem
    refuse_unknown(backbone)
    if head is not None:
        if "dinov2" not in backbone:
            raise UsageError(f"a head of its own is for DINOv2's backbones; {backbone!r} has its head in its weights")
        state = with_head(state, read_checkpoint(head).state, str(head))
    name = f"{source} ({found.layout})" if found.layout else str(source)
    prepared = _fit(backbone, state, given, name, found.layout)
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "backbone": backbone,
        "kwargs": json.dumps(given, sort_keys=True),
        "prepared": prepared,
        "read_as": found.said,
    }
    if trained_on is not None:
        metadata["trained_on"] = ",".join(sorted(trained_on))
    write_tensors(target, {name: value.numpy() for name, value in state.items()}, metadata)
    return sum(value.numel() for value in state.values())


def take_weights(backbone: Path, prepared: Path, target: Path) -> int:
    """Write the weights of an experiment's results to `target`, with the samples they were fitted on; returns their number.

    `backbone` and `prepared` are the result folders of the experiment's stages `backbone` and `prepare`.
    """
    from quee.network.files import fitted_on, load_backbone

    load_backbone(backbone)  # refuses files that do not fit together
    facts, described = read_json(backbone / "backbone.json"), read_json(prepared / "dataset.json")
    before = facts["weights"]["trained_on"] if "weights" in facts else []
    ids, seen = fitted_on(backbone), None if before is None else set(before)
    metadata = {
        "backbone": facts["name"],
        "kwargs": json.dumps({k: v for k, v in facts["kwargs"].items() if k != "num_classes"}, sort_keys=True),
        "read_as": f"stage backbone of {backbone.parent.name}, mode {facts['mode']}",
    }
    if isinstance(ids, str):
        seen = None if seen is None else seen | {described["dataset"]}
    else:
        metadata["fitted_on"] = Fitted(
            described["dataset"], described["files"], np.sort(np.array(ids, np.int64))
        ).text()
    arrays = read_tensors(backbone / "model.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    if seen is not None:
        metadata["trained_on"] = ",".join(sorted(seen))
    write_tensors(target, arrays, metadata)
    return sum(value.size for value in arrays.values())


def _fit(name: str, state: "dict[str, Tensor]", given: dict[str, Any], source: str, layout: str) -> str:
    """Preprocessing of the backbone that the keywords build, with as many classes as the weights have.

    Raises QueeError where the weights do not fit the backbone. The message gives the keywords that would fit, if the
    shapes tell, or the known layouts, if the names of the weights belong to none.
    """
    from quee.network.architectures import create_backbone
    from quee.network.checkpoints.layouts import readable
    from quee.network.checkpoints.reading import fit_state

    backbone = create_backbone(name, **{**_implied(name, state, source), **given})
    try:
        fit_state(backbone, state, source, new_head=not has_head(state))
    except QueeError as error:
        hints = set_options(backbone.asked_for(state))
        more = f"; its shapes ask for{hints}" if hints else ""
        if not layout:
            more += f"; its names are of no layout that is read: {readable()}"
        raise type(error)(f"{error}{more}") from None
    return str(backbone.input)


def _implied(name: str, state: "dict[str, Tensor]", source: str) -> dict[str, Any]:
    """Keywords that the head in the weights decides; without a head, one class for a backbone name that has none."""
    from quee.network.architectures import is_headless
    from quee.network.checkpoints.reading import head_layers

    head = {key: state[f"head.{key}"] for key in ("weight", "bias") if f"head.{key}" in state}
    if "weight" not in head or head["weight"].dim() != 2:
        return {"num_classes": 1} if is_headless(name) else {}
    kwargs: dict[str, Any] = {"num_classes": len(head["weight"])}
    if "dinov2" in name and "cls_token" in state:
        kwargs["layers"] = head_layers(head, state["cls_token"].shape[-1], source)
    return kwargs


def set_options(kwargs: Mapping[str, Any]) -> str:
    """Keywords as options of `quee weights add`, quoted for a shell, each with a leading space."""
    return "".join(f" --set {shlex.quote(f'{key}={_in_yaml(value)}')}" for key, value in kwargs.items())


def _in_yaml(value: Any) -> str:
    word = isinstance(value, str) and value.isidentifier() and value.lower() not in ("true", "false", "null")
    return str(value) if word else json.dumps(value, separators=(",", ": "))


def has_head(state: Mapping[str, Any]) -> bool:
    return any(key.startswith(("head.", "head_dist.")) for key in state)


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
        prepared = {**(kwargs or {}).get("preprocessing", {}), **json.loads(metadata.get("preprocessing", "{}"))}
        classes = tuple(map(str, json.loads(metadata["classes"]))) if "classes" in metadata else None
        recorded = (prepared, classes, metadata.get("measured", ""))
        return WeightsFacts(metadata["backbone"], seen, kwargs, *told, fitted, *recorded)
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


def refuse_overlap(experiment: "Experiment", facts: WeightsFacts) -> None:
    """Raises UsageError where held-out splits may hold samples that the weights have seen."""
    backbone, prepare = experiment.backbone, experiment.prepare
    if prepare.splits.evaluation_set == "held_out" or not has_seen(facts, prepare.dataset, backbone.mode):
        return
    if facts.trained_on is None:
        seen = "do not say what they were trained on (`quee weights add … --trained-on`)"
    else:
        seen = f"have seen the official training set of {prepare.dataset}"
    raise UsageError(
        f"backbone.weights: {backbone.weights!r} {seen}, so no held-out split may come from it: "
        f"prepare.splits.evaluation_set must be 'held_out'; got {prepare.splits.evaluation_set!r}"
    )


def refuse_other_kwargs(settings: "Backbone", facts: WeightsFacts) -> None:
    """Raises UsageError where an experiment builds another network than the one its weights were added for."""
    if facts.kwargs is None:
        return
    told, given = _deciding(facts.kwargs), _deciding(settings.kwargs)
    if told != given:
        name = settings.weights
        options = set_options(given)
        raise UsageError(
            f"backbone.kwargs: {name!r} was added for {_shown(told)}, the experiment gives {_shown(given)}; give the same, or "
            f"`quee weights add {name} FILE --backbone {facts.backbone}{options} --replace`"
        )


def _deciding(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords that decide which function the weights compute, as plain JSON values."""
    kept = {key: value for key, value in kwargs.items() if key not in FREE and not DROPOUT.fullmatch(key)}
    plain: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
    return plain


def _shown(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_in_yaml(value)}" for key, value in kwargs.items()) or "no kwargs"


def record(
    path: Path,
    preprocessing: Mapping[str, Any],
    classes: Sequence[str] | None,
    measured: str,
) -> None:
    """Write into a weights file how images are prepared for them, what their outputs mean, and how this is known.

    `preprocessing` joins what was recorded before; None for `classes` leaves them. Raises as `weights_facts`.
    """
    facts = weights_facts(path)
    kept = {key: value for key, value in read_metadata(path).items() if key != "format"}
    kept["preprocessing"] = json.dumps({**facts.preprocessing, **preprocessing}, sort_keys=True)
    kept["measured"] = measured
    if classes is not None:
        kept["classes"] = json.dumps(list(classes))
    write_tensors(path, read_tensors(path), kept)


def load_weights(
    backbone: "SegmentedBackbone", path: Path, new_head: bool, classes: Sequence[str] | None = None
) -> None:
    """Load the weights of a file into a backbone; with `new_head` all but the head.

    Where the file names its outputs, they are put into the order of `classes`, the data set's. Raises IntegrityError for
    a missing or damaged file, UsageError for weights of another backbone or of other classes, QueeError naming the keys
    that do not fit.
    """
    import torch

    from quee.network.checkpoints.reading import fit_state

    facts = weights_facts(path)
    if facts.backbone != backbone.name:
        raise UsageError(f"{path} is for backbone {facts.backbone!r}; backbone.name is {backbone.name!r}")
    state = {name: torch.from_numpy(value) for name, value in read_tensors(path).items()}
    if classes is not None and facts.classes is not None and not new_head:
        rows = torch.from_numpy(positions(facts.classes, classes, f"the head of {path}"))
        state = {name: value[rows] if OUTPUTS.fullmatch(name) else value for name, value in state.items()}
    backbone.load_state_dict(fit_state(backbone, state, str(path), new_head))


def head_classes(path: Path) -> int | None:
    """Number of classes of the head in a weights file, read from the header alone; None without a head."""
    weights_facts(path)
    shape = read_shape(path, "head.weight")
    return shape[0] if shape else None
