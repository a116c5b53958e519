"""The experiment that `quee start` proposes: what images and weights decide, and the YAML with a comment on each choice."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quee.errors import UsageError
from quee.settings.bundle import Bundle
from quee.settings.paths import Paths
from quee.settings.prepare import Splits
from quee.settings.targets import Targets
from quee.trees.shape import largest

Use = Literal["pooled", "held_out", "test"]
HELD_OUT = {"predictor": 0.4, "validation": 0.1, "test": 0.5}
"""Shares of the evaluation set where the network has seen the training set; the rest of the data fits heads and quantizers."""
FOLDED = 5000
"""With fewer evaluation images, all but validation are cross-fitted in FOLDS folds, so that each of them is tested."""
FOLDS = 5
IN_FOLDS = {"predictor": 0.68, "validation": 0.15, "test": 0.17, "folds": FOLDS}
TRAINED_HERE = {"train": 0.8, "predictor": 0.12, "validation": 0.08, "test": 1.0}
"""Shares where a network or its head is trained here: the official evaluation set is the test split."""
LEAST_CALIBRATION = 16
PER_CLUSTER = 4
"""Least number of samples, on average, in a cluster of the targets."""
ASK = (
    "are these images among those that the weights were trained on? Give --trained-on-these, or --not-trained-on-these: "
    "accuracy on images that a network was trained on says nothing"
)


ALL_SEEN = (
    "the weights were trained on all of these images, so accuracy cannot be measured on them; give a folder with train/ and "
    "test/, where test/ holds images that they were not trained on"
)


def weights_here(weights: str) -> bool:
    """Whether a value of `--weights` is the name of weights of this project."""
    from quee.data.weights_facts import weights_path

    return re.fullmatch(r"[\w.-]+", weights) is not None and weights_path(weights).is_file()


def refuse_missing(weights: str) -> None:
    """Raises UsageError where a value of `--weights` is neither the name of weights that are here nor a file."""
    if not weights_here(weights) and not Path(weights).exists():
        raise UsageError(f"no file {weights!r}, and no weights of that name here (`quee weights list`)")


@dataclass(frozen=True)
class Images:
    """Facts of the images that decide."""

    dataset: str
    training: int
    evaluation: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """Facts of the weights that decide."""

    name: str
    head_classes: int | None
    """Classes of the head in the file; None without a head."""
    seen: bool | None
    """Whether they were trained on these images; None where nobody said."""


@dataclass(frozen=True)
class Choice:
    """A setting and the reason for it."""

    value: Any
    why: str


def mode_of(images: Images, weights: Weights | None) -> Choice:
    """`backbone.mode`."""
    if weights is None:
        return Choice("train", "no weights are given, so the network is trained here from the beginning")
    if weights.head_classes == len(images.classes):
        return Choice(
            "pretrained", f"the weights as they are; their head has {weights.head_classes} classes, as the images"
        )
    own = "no head" if weights.head_classes is None else f"a head for {weights.head_classes} classes"
    return Choice(
        "linear_probe", f"the weights have {own}; for these {len(images.classes)} classes a new one is fitted"
    )


def use_of(images: Images, weights: Weights | None, mode: str) -> Choice:
    """`prepare.splits.evaluation_set`. Without evaluation images, `weights.seen` is False where there are weights."""
    seen = None if weights is None else weights.seen
    if mode == "pretrained":
        if seen is False:
            return Choice("pooled", "the network has seen none of these images, so every split may be any part of them")
        told = (
            "was trained on"
            if seen
            else "may have been trained on (nobody said; --not-trained-on-these says it was not)"
        )
        return Choice(
            "held_out",
            f"the network {told} the training images, so all that is measured comes from the evaluation images",
        )
    if seen:
        return Choice("held_out", "the weights have seen the training images, so what is measured is not among them")
    if images.evaluation:
        return Choice("test", "the evaluation images are the test split, and nothing else uses them")
    return Choice("pooled", "there is one set of images, so every split is a part of it")


def splits_of(use: Use, training: int, evaluation: int) -> dict[str, Any]:
    """Block `prepare.splits` for a number of images of both sets."""
    default = Splits()
    if use == "held_out":
        shares: dict[str, Any] = {"train": 1.0, **(IN_FOLDS if evaluation < FOLDED else HELD_OUT)}
    elif use == "test":
        shares = dict(TRAINED_HERE)
    else:
        shares = {name: getattr(default, name) for name in ("train", "predictor", "validation", "test")}
    fitted = int(shares["train"] * (training + evaluation if use == "pooled" else training))
    calibration = max(LEAST_CALIBRATION, min(default.calibration, fitted))
    return {"evaluation_set": use, "calibration": calibration, **shares}


_SPLITS = {
    "train": "exit heads are fitted on it, and the network where it is trained here",
    "calibration": "of these, so many images for the ranges of quantizers",
    "predictor": "error predictors and policies are fitted on it",
    "validation": "operating points are chosen on it",
    "test": "every number of the report is measured on it",
    "folds": "the evaluation images are few: each but those of validation is tested once, by what was fitted without it",
}


def text_of(
    name: str,
    images: Images,
    weights: Weights | None,
    backbone: str,
    kwargs: dict[str, Any],
    gates: tuple[int, ...],
    mode: Choice,
    use: Choice,
    heading: list[str],
) -> str:
    """The experiment's YAML."""
    splits, paths, bundle = splits_of(use.value, images.training, images.evaluation), Paths(), Bundle()
    clusters, tree = _clusters(splits, images), largest(paths, len(gates))
    lines = [*(f"# {line}" for line in heading), "prepare:", f"  dataset: {images.dataset}", "  splits:"]
    lines += [f"    # {_sentence(use.why)}", f"    evaluation_set: {use.value}"]
    lines += [f"    {key}: {splits[key]:g}  # {why}" for key, why in _SPLITS.items() if key in splits]
    lines += ["backbone:", f"  name: {json.dumps(backbone)}"]
    if kwargs:
        lines += [
            "  # As the weights need it, beside what their file says; num_classes is the number of classes of the images."
        ]
        lines += [f"  kwargs: {json.dumps(kwargs, sort_keys=True)}"]
    lines += [
        f"  # An exit after each of {len(gates)} parts of {gates[-1]} blocks; the more gates, the more paths to cache."
    ]
    lines += [f"  gates: {json.dumps(gates)}", f"  # {_sentence(mode.why)}", f"  mode: {mode.value}"]
    if weights is not None:
        lines += [f"  weights: {weights.name}"]
    lines += [
        "  # Random changes to training images; what is safe depends on the images, so none is on. See docs/backbones.md.",
        "  augmentation: {flip: false, crop_padding: 0}",
        "paths:",
        "  # Every segment runs at one of these. auto: chosen among candidates of 2 to 8 bits by what each does on split",
        f"  # validation, at most {len(tree.precisions)} of them: {len(tree)} paths.",
        "  precisions: auto",
        "  # Measured beside them, for comparison.",
        f"  references: {json.dumps(paths.references)}",
        *clusters,
        "bundle:",
        "  # The policy that the deployed classifier uses, and what it may spend if a request says nothing; 1 is the static",
        "  # w8a8 network. A request can give another budget.",
        f"  policy: {bundle.policy}",
        f"  budget: {bundle.budget:g}",
        "report:",
        f"  title: {json.dumps(f'QuEE on {name} with {backbone}')}",
    ]
    return "\n".join(lines) + "\n"


def _clusters(splits: dict[str, Any], images: Images) -> list[str]:
    """Block `targets` where the default number of clusters is too great for the split that is clustered."""
    sets = {"pooled": images.training + images.evaluation, "held_out": images.evaluation, "test": images.training}
    samples, usual = int(splits["predictor"] * sets[splits["evaluation_set"]]), Targets().clusters
    if samples >= PER_CLUSTER * usual:
        return []
    few = max(2, samples // PER_CLUSTER)
    return [
        "targets:",
        f"  # Fewer than the usual {usual}: split predictor has about {samples} images.",
        f"  clusters: {few}",
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
