"""Pretrained weights: read without executing anything, checked against their backbone, stored as safetensors.

`quee.data.weights_facts` reads what the files say. Importing this module does not import torch.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.data.class_order import positions
from quee.data.identity import sample_keys
from quee.data.weights_facts import SEEN, WeightsFacts, has_seen, seen_keys, weights_facts, weights_path
from quee.errors import QueeError, UsageError
from quee.work.io import file_digest, read_json, read_metadata, read_shape, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from quee.data.source import ImageSource
    from quee.network.base import SegmentedBackbone
    from quee.network.checkpoints.reading import Checkpoint
    from quee.settings.backbone import Backbone
    from quee.settings.experiment import Experiment


FREE = ("img_size", "layers", "num_classes", "preprocessing")
"""Keywords that may differ from those given with the weights; loading refuses a head or size that does not fit."""
DROPOUT = re.compile(r"\w*drop\w*_rate")
"""Keywords that act during training only."""


def import_weights(
    backbone: str | None,
    source: Path,
    target: Path,
    head: Path | None = None,
    trained_on: tuple[str, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    seen: Mapping[str, np.ndarray] | None = None,
    half: bool = False,
) -> int:
    """Write the weights in `source`, and the linear head in `head`, to `target`; returns the number of parameters.

    `source` is a file, or a folder with a configuration beside the weights. Where `backbone` is None, it is the one that
    the configuration says, or whose name `target` has, or that names and shapes of the weights say. `kwargs` are an
    experiment's `backbone.kwargs`; what they leave out is taken from the configuration, or from shapes: channels, classes,
    image size. `seen` are the keys of the samples that the weights have seen, by data set. Weights without a head are
    accepted too, for finetuning or probing.
    Raises QueeError naming missing and unexpected keys where the weights do not fit the backbone, or the configuration
    contradicts them, and UsageError where no backbone is known. Weights of float16 stay so in the file, and are read as float32;
    with `half` those of float32 are rounded to it.
    """
    from quee.network.architectures import is_backbone, refuse_unknown
    from quee.network.checkpoints.reading import read_checkpoint, with_head

    if backbone is not None:
        refuse_unknown(backbone)
    found = read_checkpoint(source)
    state = found.state
    name = backbone or ("" if found.configured or not is_backbone(target.stem) else target.stem)
    name = name or found.backbone or ""
    if not name:
        raise UsageError(
            f"{source} does not tell its backbone: give --backbone NAME, a name of timm's such as resnet18 or one of "
            "docs/backbones.md"
        )
    refuse_unknown(name)
    given = {**_told(name, found), **(kwargs or {})}
    if head is not None:
        if "dinov2" not in name:
            raise UsageError(f"a head of its own is for DINOv2's backbones; {name!r} has its head in its weights")
        state = with_head(state, read_checkpoint(head).state, str(head))
    how = ", as its config.json says" if found.configured else ""
    where = f"{source} ({found.layout}{how})" if found.layout else str(source)
    fitted = _fit(name, state, given, where, found)
    if None not in (found.outputs, fitted.classes) and found.outputs != fitted.classes:
        raise QueeError(
            f"{source}: its configuration has {found.outputs} classes, the head in its weights {fitted.classes}: correct it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "backbone": name,
        "kwargs": json.dumps(fitted.kwargs, sort_keys=True),
        "prepared": fitted.prepared,
        "read_as": found.said,
        "head": fitted.head,
    }
    if found.classes is not None and fitted.classes is not None:
        metadata["classes"] = json.dumps(list(found.classes))
    if trained_on is not None:
        metadata["trained_on"] = ",".join(sorted(trained_on))
    arrays = {name: _stored(value, found.half) for name, value in fitted.state.items()}
    arrays = _halved(arrays, where) if half else arrays
    write_tensors(target, {**arrays, **_seen_tensor(seen, metadata)}, metadata)
    return sum(value.numel() for value in fitted.state.values())


def _stored(value: "Tensor", half: bool) -> np.ndarray:
    """The array of a weight; that of a file in half precision stays so, unless reading it made other numbers of it."""
    import torch

    halved = value.half() if half and value.dtype == torch.float32 else value
    return (halved if torch.equal(halved.to(value.dtype), value) else value).numpy()


def _halved(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Weights of float32 rounded to float16; raises UsageError naming the first that is out of its range."""
    found = {}
    for name, value in arrays.items():
        with np.errstate(over="ignore"):
            found[name] = value.astype(np.float16) if value.dtype == np.float32 else value
        if not np.isfinite(found[name]).all():
            raise UsageError(
                f"{source}: {name} has values beyond ±65,504, which half precision does not hold: leave out --half"
            )
    return found


def _seen_tensor(seen: Mapping[str, np.ndarray] | None, metadata: dict[str, str]) -> dict[str, np.ndarray]:
    """The tensor with keys of samples, and their number by data set in the metadata; neither where nothing was identified."""
    if not seen:
        return {}
    metadata["seen"] = json.dumps({name: len(keys) for name, keys in seen.items()}, sort_keys=True)
    return {SEEN + name: np.unique(keys) for name, keys in seen.items()}


def _told(backbone: str, found: "Checkpoint") -> dict[str, Any]:
    """Keywords that a checkpoint tells for a backbone; for another than its own, only how its images are prepared."""
    if backbone == found.backbone:
        return dict(found.kwargs)
    return {key: value for key, value in found.kwargs.items() if key == "preprocessing"}


def take_weights(backbone: Path, prepared: Path, target: Path, images: "ImageSource", half: bool = False) -> int:
    """Write the weights of an experiment's results to `target`, with the samples they were fitted on; returns their number.

    With `half` they are rounded to float16. `backbone` and `prepared` are the result folders of the experiment's stages
    `backbone` and `prepare`, `images` its data set. What the weights had seen before is kept, as far as the file that the
    experiment began with is still there.
    """
    from quee.network.files import fitted_on, load_backbone

    head = load_backbone(backbone).logits_layer  # refuses files that do not fit together
    facts, described = read_json(backbone / "backbone.json"), read_json(prepared / "dataset.json")
    before = facts["weights"]["trained_on"] if "weights" in facts else []
    ids, seen = fitted_on(backbone), None if before is None else set(before)
    dataset = described["dataset"]
    metadata = {
        "backbone": facts["name"],
        "kwargs": json.dumps({k: v for k, v in facts["kwargs"].items() if k != "num_classes"}, sort_keys=True),
        "read_as": f"stage backbone of {backbone.parent.name}, mode {facts['mode']}",
        "head": head,
        "experiment": backbone.parent.name,
    }
    if isinstance(ids, str):
        seen = None if seen is None else seen | {dataset}
        ids = list(range(images.train_samples))
    if seen is not None:
        metadata["trained_on"] = ",".join(sorted(seen))
    keys = _seen_before(facts.get("weights"))
    now = sample_keys(images, np.array(ids, np.int64))
    keys[dataset] = np.union1d(keys[dataset], now) if dataset in keys else now
    arrays = read_tensors(backbone / "model.safetensors")
    arrays = _halved(arrays, str(backbone)) if half else arrays
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, {**arrays, **_seen_tensor(keys, metadata)}, metadata)
    return sum(value.size for value in arrays.values())


def _seen_before(weights: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Keys by data set of the weights that an experiment began with; empty where their file is gone, or has no keys."""
    path = None if weights is None else weights_path(weights["name"])
    if weights is None or path is None or not path.is_file() or file_digest(path) != weights["sha256"]:
        return {}
    return seen_keys(path, weights_facts(path))


@dataclass(frozen=True)
class _Fitted:
    """Weights that fit their backbone."""

    state: "dict[str, Tensor]"
    """As in the checkpoint, but for layers that the backbone has in another form."""
    kwargs: dict[str, Any]
    """Keywords of the backbone without the number of classes."""
    classes: int | None
    """Number of outputs; None without a head."""
    prepared: str
    """Preprocessing of the backbone."""
    head: str
    """Name of the layer that gives the logits."""


TAKEN = ("in_chans", "img_size")
"""Keywords that shapes of weights decide unless they are given; a message asks for the others."""


def _fit(name: str, state: "dict[str, Tensor]", given: dict[str, Any], source: str, found: "Checkpoint") -> _Fitted:
    """Weights checked against the backbone that the keywords build, with as many classes as the weights have.

    Raises QueeError where the weights do not fit the backbone. The message gives the backbone or the keywords that would
    fit, if the shapes tell, or the known layouts, if the names of the weights belong to none.
    """
    import torch

    from quee.network.architectures import create_backbone, is_headless
    from quee.network.checkpoints.reading import fit_state, head_layers

    headless = {"num_classes": 1} if is_headless(name) else {}
    shapes = {key: value for key, value in given.items() if key != "preprocessing"}  # which must fit the channels found
    with torch.device("meta"):
        unfitted = create_backbone(name, **{**headless, **shapes})
    told = unfitted.asked_for(state)
    given = {**{key: told[key] for key in TAKEN if key in told}, **given}
    classes = unfitted.classes_in(state)
    implied = headless if classes is None else {"num_classes": classes}
    if classes is not None and "dinov2" in name and "cls_token" in state:
        own = {key: state[f"head.{key}"] for key in ("weight", "bias") if f"head.{key}" in state}
        implied["layers"] = head_layers(own, state["cls_token"].shape[-1], source)
    backbone = create_backbone(name, **{**implied, **given})
    try:
        fit_state(backbone, state, source, new_head=classes is None)
    except QueeError as error:
        raise type(error)(f"{error}{_advice(name, backbone.asked_for(state), found)}") from None
    return _Fitted(state, given, classes, str(backbone.input), backbone.logits_layer)


def _advice(name: str, asked: Mapping[str, Any], found: "Checkpoint") -> str:
    """What would fit weights that do not fit the backbone of this name; empty where nothing tells."""
    from quee.network.checkpoints.layouts import readable

    if not found.layout:
        return f"; its names are of no layout that is read: {readable()}"
    if found.backbone and found.backbone.partition(".")[0] != name.partition(".")[0]:
        return f"; its shapes are those of --backbone {found.backbone}{set_options(found.kwargs)}"
    heads = "; shapes do not tell num_heads" if "embed_dim" in asked else ""
    return f"{heads}; its shapes ask for{set_options(asked)}" if asked else ""


def set_options(kwargs: Mapping[str, Any]) -> str:
    """Keywords as options of `quee weights add`, quoted for a shell, each with a leading space."""
    return "".join(f" --set {shlex.quote(f'{key}={_in_yaml(value)}')}" for key, value in kwargs.items())


def _in_yaml(value: Any) -> str:
    word = isinstance(value, str) and value.isidentifier() and value.lower() not in ("true", "false", "null")
    return str(value) if word else json.dumps(value, separators=(",", ": "))


def refuse_overlap(experiment: "Experiment", facts: WeightsFacts) -> None:
    """Raises UsageError where held-out splits may hold samples that the weights have seen, as far as names of data sets tell.

    Weights with keys of the data set's samples are judged by these, in stage `backbone`, unless nobody knows what else they
    have seen.
    """
    backbone, prepare = experiment.backbone, experiment.prepare
    if facts.trained_on is not None and prepare.dataset in (facts.seen or ()):
        return
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
    if {**told, **given} != told:
        name = settings.weights
        options = set_options(given)
        raise UsageError(
            f"backbone.kwargs: {name!r} was added for {_shown(told)}, the experiment gives {_shown(given)}; "
            f"give the same or none, or "
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
    img_size: int | None = None,
) -> None:
    """Write into a weights file how images are prepared for them, what their outputs mean, and how this is known.

    `preprocessing` and `img_size`, the side of the images, join what was recorded before, among the keywords of the
    backbone; None for `classes` or `img_size` leaves them.
    Raises as `weights_facts`, and UsageError for weights that do not say their keywords.
    """
    facts = weights_facts(path)
    if facts.kwargs is None:
        raise UsageError(f"{path} was added by an earlier version: `quee weights add {path.stem} FILE --replace` first")
    kept = {key: value for key, value in read_metadata(path).items() if key != "format"}
    prepared = {**facts.preprocessing, **preprocessing}
    told = {**({"preprocessing": prepared} if prepared else {}), **({"img_size": img_size} if img_size else {})}
    kept["kwargs"] = json.dumps({**facts.kwargs, **told}, sort_keys=True)
    kept["measured"] = measured
    if classes is not None:
        kept["classes"] = json.dumps(list(classes))
    write_tensors(path, read_tensors(path), kept)  # with the keys of what they have seen


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
    keys = {SEEN + name for name in facts.seen or ()}
    arrays = {name: value for name, value in read_tensors(path).items() if name not in keys}
    state = {
        name: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float16 else value)
        for name, value in arrays.items()
    }
    if classes is not None and facts.classes is not None and not new_head:
        rows = torch.from_numpy(positions(facts.classes, classes, f"the head of {path}"))
        heads = (f"{facts.head}.", "head_dist.")  # the latter is the second head of distilled ones
        state = {name: value[rows] if name.startswith(heads) else value for name, value in state.items()}
    backbone.load_state_dict(fit_state(backbone, state, str(path), new_head))


def head_classes(path: Path) -> int | None:
    """Number of classes of the head in a weights file, read from the header alone; None without a head."""
    shape = read_shape(path, f"{weights_facts(path).head}.weight")
    return shape[0] if shape else None
