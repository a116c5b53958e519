"""Pretrained weights: read without executing anything, checked against their backbone, kept as safetensors.

A file under `data/weights/` says in its metadata which backbone it is for and which data sets' official training sets
it has seen. Importing this module imports no torch.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee.data import DATA
from quee.errors import IntegrityError, UsageError
from quee.io import write_tensors

if TYPE_CHECKING:
    from quee.backbones.base import SegmentedBackbone
    from quee.experiment import Experiment

WEIGHTS = DATA / "weights"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Published:
    """Weights that their authors publish."""

    backbone: str
    file: str
    where: str
    trained_on: tuple[str, ...]
    """Data sets whose official training sets they have seen."""
    head: str = ""
    """File of the linear head that belongs to them."""


_T2T = "the table of models at github.com/yitu-opensource/T2T-ViT"
_TRANSFERRED = "the section on transfer learning at github.com/yitu-opensource/T2T-ViT"
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
}
"""By the name that the experiments of this project give them."""


@dataclass(frozen=True)
class WeightsFacts:
    """What a file under `data/weights/` says of itself."""

    backbone: str
    trained_on: tuple[str, ...] | None
    """None: not said."""


def weights_path(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


def import_weights(
    backbone: str,
    source: Path,
    target: Path,
    head: Path | None = None,
    trained_on: tuple[str, ...] | None = None,
) -> int:
    """Write the weights in `source`, and the linear head in `head`, to `target`; returns the number of parameters.

    Names stay the authors'. Weights without any head are taken too: to be finetuned or probed. Raises QueeError naming
    missing and left-over keys when they do not fit the backbone, built with as many classes as the weights have.
    """
    from quee.backbones import backbone_names, create_backbone, is_backbone
    from quee.backbones.checkpoints import fit_state, head_layers, load_checkpoint, with_head
    from quee.registry import unknown

    if not is_backbone(backbone):
        raise UsageError(unknown("backbone", backbone, backbone_names()))
    state = load_checkpoint(source)
    kwargs: dict[str, Any] = {}
    if head is not None:
        if "dinov2" not in backbone:
            raise UsageError(f"a head of its own is for DINOv2's backbones; {backbone!r} has its head in its weights")
        layers = load_checkpoint(head)
        state = with_head(state, layers, str(head))
        kwargs["layers"] = head_layers(layers, state["cls_token"].shape[-1], str(head))
    weight = state.get("head.weight")
    if weight is not None and weight.dim() == 2:
        kwargs["num_classes"] = weight.shape[0]
    fit_state(create_backbone(backbone, **kwargs), state, str(source), new_head=not has_head(state))
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"backbone": backbone}
    if trained_on is not None:
        metadata["trained_on"] = ",".join(sorted(trained_on))
    write_tensors(target, {name: value.numpy() for name, value in state.items()}, metadata)
    return sum(value.numel() for value in state.values())


def has_head(state: dict[str, Any]) -> bool:
    return any(key.startswith(("head.", "head_dist.")) for key in state)


def weights_facts(path: Path) -> WeightsFacts:
    """From the file's header alone; raises IntegrityError when it is missing or not one that `quee weights add` wrote."""
    if not path.is_file():
        raise IntegrityError(f"missing file: {path}; {how_to_add_weights(path.stem)}")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(min(size, 100 << 20)))["__metadata__"]
        names = metadata.get("trained_on")
        return WeightsFacts(metadata["backbone"], None if names is None else tuple(filter(None, names.split(","))))
    except (ValueError, KeyError, TypeError, AttributeError):
        how = f"quee weights add {path.stem} FILE --replace"
        raise IntegrityError(f"{path} is not what `quee weights add` writes; `{how}` makes it anew") from None


def how_to_add_weights(name: str) -> str:
    """Which files to get, from where, and the command that adds them."""
    known = PUBLISHED.get(name)
    if known is None:
        return f"`quee weights add {name} FILE --backbone BACKBONE` adds weights"
    files = f"{known.file} and {known.head}" if known.head else known.file
    option = f" --head {known.head}" if known.head else ""
    return f"get {files} from {known.where}, then `quee weights add {name} {known.file}{option}`"


def has_seen(facts: WeightsFacts, dataset: str, mode: str) -> bool:
    """Whether weights count as fitted on a data set's official training set: `pretrained` ones unless they say not."""
    return mode == "pretrained" if facts.trained_on is None else dataset in facts.trained_on


def refuse_overlap(experiment: "Experiment", facts: WeightsFacts) -> None:
    """Raises UsageError where held-out splits may hold what the weights have seen."""
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


def load_weights(backbone: "SegmentedBackbone", path: Path, new_head: bool) -> None:
    """Put the weights of a file into a backbone; with `new_head` all but the head.

    Raises IntegrityError when the file is missing or damaged, UsageError when it is for another backbone, QueeError
    naming the keys that do not fit.
    """
    import torch

    from quee.backbones.checkpoints import fit_state
    from quee.io import read_tensors

    facts = weights_facts(path)
    if facts.backbone != backbone.name:
        raise UsageError(f"{path} is for backbone {facts.backbone!r}; backbone.name is {backbone.name!r}")
    state = {name: torch.from_numpy(value) for name, value in read_tensors(path).items()}
    backbone.load_state_dict(fit_state(backbone, state, str(path), new_head))


def head_classes(path: Path) -> int | None:
    """How many classes the head of a weights file tells apart; None when it has no head. From the header alone."""
    weights_facts(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shape = header.get("head.weight", {}).get("shape")
    return int(shape[0]) if shape else None
