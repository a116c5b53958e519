"""Requirements of an experiment, checked before anything is computed: settings against the data and the network.

Nothing here changes a result. Each function raises UsageError, naming the key, its value and the valid values, for
settings that would fail in a later stage.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.errors import QueeError, UsageError
from quee.settings.backbone import Backbone
from quee.settings.experiment import Experiment
from quee.settings.sets import HELD_OUT

if TYPE_CHECKING:
    from quee.network.base import SegmentedBackbone

NAMED = 5
"""Most classes named in a refusal."""
LEAST = 2
"""Least number of samples in every split that is used."""


def check_data(
    experiment: Experiment,
    split: np.ndarray,
    labels: np.ndarray,
    pool: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
    answered: bool = False,
) -> None:
    """Refuse data that are too few or too uneven for the settings of later stages; the message has a line per fault.

    `split` (n,) has the name of each sample's split and `labels` (n,) its class; `pool` (m,) has the labels of the samples
    from which training samples were drawn; `groups` (n,) are those of the samples. Classes without a
    training sample are taken where the labels are `answered` by the float network. Raises UsageError.
    """
    faults = [
        *_faults(experiment, split, labels, pool, classes, answered),
        *policy_faults(experiment.bundle.policy, len(classes)),
    ]
    if groups is not None:
        faults += _group_faults(experiment, split, groups)
    if faults:
        raise UsageError("\n".join(faults))


def check_answers(experiment: Experiment, answers: Mapping[str, Any] | None, digest: Callable[[str], str]) -> None:
    """Refuse labels that are a float network's `answers` where another network runs, or one that is trained on them.

    `digest` gives the SHA-256 of weights by their name. Raises UsageError.
    """
    if answers is None:
        return
    settings, name = experiment.backbone, answers["weights"]
    told = f"the labels of data set {experiment.prepare.dataset!r} are the answers of weights {name!r}"
    if settings.mode != "pretrained":
        raise UsageError(
            f"backbone.mode: {settings.mode!r}, but {told}: a new head has nothing to learn; valid: 'pretrained'"
        )
    if settings.weights is None or digest(settings.weights) != answers["sha256"]:
        raise UsageError(
            f"backbone.weights: {settings.weights!r}, but {told} as they were: give these, or `quee data add "
            f"{experiment.prepare.dataset} SOURCE --answers {settings.weights} --replace`"
        )


def pool_of(experiment: Experiment, labels: np.ndarray, training: int) -> np.ndarray:
    """(m,) labels of the samples from which training samples are drawn: all samples, or the official training set.

    `labels` (n,) are those of all samples, the first `training` of them of the official training set.
    """
    return labels if experiment.prepare.splits.evaluation_set == "pooled" else labels[:training]


def _faults(
    experiment: Experiment,
    split: np.ndarray,
    labels: np.ndarray,
    pool: np.ndarray,
    classes: Sequence[str],
    answered: bool,
) -> Iterator[str]:
    train = labels[split == "train"]
    if not answered:
        yield from _class_faults(experiment, train, pool, classes)
    if len(classes) >= LEAST:
        yield from _size_faults(experiment, split, len(train))


def policy_faults(name: str, classes: int, key: str = "bundle.policy") -> Iterator[str]:
    """Why a policy cannot be fitted for so many classes; nothing where it can. `key` says in the fault where it was named."""
    from quee.cache.build import MANY_CLASSES
    from quee.policies.base import Policy
    from quee.policies.registry import deployable

    known = {name: method.kind for name, method in deployable().items()}
    mixing = {name for name, kind in known.items() if issubclass(kind, Policy) and kind.mixes}
    if name in mixing and classes > MANY_CLASSES:
        valid = ", ".join(sorted(set(known) - mixing))
        yield (
            f"{key}: {name!r} mixes the log-probabilities of all classes, which are kept of at most {MANY_CLASSES} "
            f"classes, and the data set has {classes}; valid: {valid}"
        )


def _class_faults(experiment: Experiment, train: np.ndarray, pool: np.ndarray, classes: Sequence[str]) -> Iterator[str]:
    """The first fault of the classes of the training samples, labels (n,); other faults follow from it."""
    data, file, settings = f"data/{experiment.prepare.dataset}", _file(experiment), experiment.prepare.splits
    images, pooled = np.bincount(pool, minlength=len(classes)), settings.evaluation_set == "pooled"
    needed = 2 if pooled else 1
    few = np.flatnonzero(images < needed)
    if len(classes) < LEAST:
        yield f"{data}: {len(classes)} class; a classifier needs two"
    elif len(few):
        counted = [f"{name}: {count}" for name, count in zip(classes, images, strict=True)]
        use = "one to train on and one held out" if pooled else "in the training set"
        yield (
            f"{data}: too few images of {_classes(few, counted)}; each class needs {needed}, {use}: add images, or add the "
            "data again without the class"
        )
    elif len(train) < len(classes):
        yield (
            f"{file}: prepare.splits.train: {settings.train:g} of {len(pool)} samples are {len(train)}, for {len(classes)} "
            "classes; each needs a training sample: raise it, or prepare.limit"
        )
    elif len(absent := _absent(train, classes)):
        yield f"{data}: no training sample of {_classes(absent, classes)}; raise prepare.splits.train or prepare.limit"
    elif len(absent := _absent(_for_exits(experiment, train), classes)):
        most = experiment.exits.max_samples
        yield f"{file}: exits.max_samples: {most} training samples have none of {_classes(absent, classes)}; raise it"


def _size_faults(experiment: Experiment, split: np.ndarray, train: int) -> Iterator[str]:
    """Settings that the splits are too small for; `split` (n,) names each sample's, `train` counts the training samples."""
    file, predictor = _file(experiment), int((split == "predictor").sum())
    for name in HELD_OUT:
        count, share = int((split == name).sum()), getattr(experiment.prepare.splits, name)
        if share > 0 and count < LEAST:
            of = f"{share:g} is {count} of {len(split)} samples"
            yield f"{file}: prepare.splits.{name}: {of}; at least {LEAST} are needed: raise it"
    states = experiment.exits.draws * len(_for_exits(experiment, np.arange(train)))
    for key, value, most, what in (
        ("targets.clusters", experiment.targets.clusters, predictor, "clusters of the samples in split 'predictor'"),
        ("policies.fitted_q.folds", experiment.policies.fitted_q.folds, predictor, "parts of split 'predictor'"),
        ("exits.embedding", experiment.exits.embedding, states, "components of the training states"),
    ):
        if value > most:
            yield f"{file}: {key}: {value} {what}; there are {most}: valid up to that"


def _group_faults(experiment: Experiment, split: np.ndarray, groups: np.ndarray) -> Iterator[str]:
    """Splits (n,) of too few groups (n,) to say anything of others."""
    for name in HELD_OUT:
        count = len(np.unique(groups[split == name]))
        if (split == name).any() and count < LEAST:
            yield (
                f"{_file(experiment)}: prepare.splits.{name}: {count} group of samples of {len(np.unique(groups))} in all; at "
                f"least {LEAST} are needed: raise its share"
            )


def _absent(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    return np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)


def _for_exits(experiment: Experiment, train: np.ndarray) -> np.ndarray:
    """The training samples (n,) that exit heads are fitted on."""
    from quee.data.splits import thinned  # imports pyarrow, which reading settings does not need

    return train[thinned(np.arange(len(train)), experiment.exits.max_samples, experiment.exits.seed)]


def _classes(which: np.ndarray, classes: Sequence[str]) -> str:
    """Text such as `2 of 10 classes (cat, dog)`, with the first few names."""
    names = ", ".join(str(classes[k]) for k in which[:NAMED])
    more = f" and {len(which) - NAMED} more" if len(which) > NAMED else ""
    return f"{len(which)} of {len(classes)} classes ({names}{more})"


def check_classes(settings: Backbone, classes: int) -> None:
    """Refuse a number of classes in `backbone.kwargs` that differs from the data's."""
    given = settings.kwargs.get("num_classes", classes)
    if given != classes:
        raise UsageError(f"backbone.kwargs.num_classes: {given}; the data set has {classes} classes")


def check_head(settings: Backbone, classes: int) -> None:
    """Refuse weights with a head for another number of classes if the mode keeps the head."""
    from quee.data.weights import head_classes
    from quee.data.weights_facts import weights_path

    if settings.mode != "pretrained" or settings.weights is None:
        return
    if (own := head_classes(weights_path(settings.weights))) != classes:
        found = "no head" if own is None else f"a head for {own} classes"
        raise UsageError(
            f"backbone.mode pretrained: {settings.weights!r} has {found}, the data set {classes} classes; "
            "valid: finetune, linear_probe"
        )


def check_network(experiment: Experiment, classes: int | None = None, channels: int | None = None) -> None:
    """Refuse settings that do not fit the network: kwargs, gates, layers, components. Builds the network without weights.

    `classes` and `channels` are the data set's, if they are known. Needs PyTorch. Raises UsageError.
    """
    try:
        _check_network(experiment, classes, channels)
    except QueeError as error:
        raise UsageError(f"{_file(experiment)}: {error}") from None


def _check_network(experiment: Experiment, classes: int | None, channels: int | None) -> None:
    import torch

    from quee.data.weights_facts import built_with
    from quee.network.architectures import create_backbone
    from quee.network.probe import linear_head
    from quee.network.training import freeze

    settings = experiment.backbone
    if classes is not None:
        check_classes(settings, classes)
        check_head(settings, classes)
    with torch.device("meta"):
        backbone = create_backbone(settings.name, **built_with(settings))
    depth = len(backbone.block_names)
    if settings.segments > depth and settings.fixed_gates is None:
        raise UsageError(
            f"backbone.gates: auto: {settings.segments} gates; {settings.name} has {depth} blocks, valid up to that"
        )
    try:  # any block may become a gate that is chosen by measurement
        backbone.set_gates(settings.fixed_gates or tuple(range(1, depth + 1)))
    except UsageError as error:
        raise UsageError(f"backbone.gates: {error}") from None
    freeze(backbone, settings.trained_blocks)
    _check_sizes(settings, backbone)
    if settings.mode == "linear_probe":
        linear_head(backbone)
    if channels not in (None, 1, backbone.input.channels) and backbone.input.channels != 1:
        raise UsageError(
            f"backbone.name: {settings.name} takes images of {backbone.input.channels} channels, the data have {channels}"
        )
    _check_quantize(experiment, backbone)
    gates = range(1, backbone.segments + 1)
    if experiment.exits.pooling != "auto":
        try:
            backbone.pooling_parts(experiment.exits.pooling)
        except UsageError as error:
            raise UsageError(f"exits.pooling: {error}") from None
    width = min(backbone.pooled_width(gate, backbone.global_pooling) for gate in gates)
    if experiment.exits.embedding > width:
        raise UsageError(
            f"exits.embedding: {experiment.exits.embedding} components of a state {width} wide; valid: up to {width}"
        )


def _check_sizes(settings: Backbone, backbone: "SegmentedBackbone") -> None:
    """Refuse sizes of training images that the backbone does not take, or that do not end with its own."""
    import torch

    from quee.network.sizes import sharing

    if settings.sizes is None:
        return
    *smaller, last = settings.sizes
    if (height_width := backbone.input.size) != (last, last):
        own = " × ".join(map(str, height_width))
        raise UsageError(
            f"backbone.sizes: {last} is the last side, and {settings.name} takes images of {own} pixels here"
        )
    for side in smaller:
        try:
            with torch.device("meta"):
                sharing(backbone, side)
        except UsageError as error:
            raise UsageError(f"backbone.sizes: {error}") from None


def _check_quantize(experiment: Experiment, backbone: "SegmentedBackbone") -> None:
    from quee.precision import Precision
    from quee.quantization.formats import float_products
    from quee.quantization.layers import quantizable, resolved
    from quee.settings.quantize import QuantizationConfig

    quantize, paths = experiment.quantize, experiment.paths
    try:
        for precision in map(Precision, (*paths.possible, *paths.references)):
            if not precision.is_float:
                config = QuantizationConfig.of_settings(precision, quantize)
                resolved(quantizable(backbone), config.layers)
        if quantize.float_products != "auto" and not float_products(backbone):
            raise UsageError(
                f"float_products: {quantize.float_products} is for products that calibration does not quantize, and "
                f"{experiment.backbone.name} has none: leave it out"
            )
    except QueeError as error:
        raise UsageError(f"quantize: {error}") from None


def _file(experiment: Experiment) -> str:
    return f"experiments/{experiment.name}.yaml"
