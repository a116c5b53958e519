"""What `quee.fit` makes sure of before it computes: that a bundle will hold this network, and that labels are its outputs."""

import json
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from quee.backbones import check_state_dict, create_backbone
from quee.backbones.base import SegmentedBackbone
from quee.errors import QueeError, UsageError
from quee.labelled import Labelled
from quee.runtime.bundle import outside_files

HOW = "make it by quee.create_backbone(NAME, …) and give it your weights by load_state_dict"
ASKED = 256
"""Images by which the order of classes is checked."""
SURE = 0.5
"""Accuracy from which on a network's own answers tell which of its outputs is which class."""


def rebuilt(backbone: SegmentedBackbone, kwargs: Mapping[str, Any] | None = None) -> SegmentedBackbone:
    """The backbone as a bundle builds it, from its name and what it was made with, with its weights, on the CPU.

    `kwargs`, where given, are compared with those it was made with. Raises UsageError where what comes out is another
    network than the one given.
    """
    made = backbone.made_with
    if made is None:
        raise UsageError(
            f"the backbone was not made by quee.create_backbone, so that a bundle could not build it: {HOW}"
        )
    if kwargs is not None and dict(kwargs) != made:
        raise UsageError(f"kwargs={dict(kwargs)}, but the backbone was made with {made}; leave kwargs out")
    try:
        kept = json.loads(json.dumps(made, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the backbone was made with what a bundle cannot keep ({error}): numbers, text and lists"
        ) from None
    if outside := outside_files(kept):
        raise UsageError(f"the backbone was made with {outside[0]!r}; bundles read no other files: {HOW}")
    if backbone.num_classes < 2:
        raise UsageError(f"the backbone has {backbone.num_classes} output; give one with at least 2 classes")
    state = {name: value.detach().cpu() for name, value in backbone.state_dict().items()}
    for name, value in state.items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise UsageError(f"the backbone's {name} is of {value.dtype}; give backbone.float()")
        if not torch.isfinite(value).all():
            raise UsageError(f"the backbone's {name} has values that are not finite")
    try:
        own = create_backbone(backbone.name, backbone.gates, **kept)
        check_state_dict(own, state, "the backbone given")
    except QueeError as error:
        raise UsageError(f"the backbone was changed since it was made with {made}: {error}") from None
    own.load_state_dict(state)
    own.made_with = kept
    own.requires_grad_(False).eval()
    if own.input != backbone.input:
        raise UsageError(
            f"the backbone's input was set to {backbone.input}; give preprocessing= to create_backbone instead"
        )
    _check_same(own, backbone)
    return own


def _check_same(own: SegmentedBackbone, backbone: SegmentedBackbone) -> None:
    """Raises UsageError where two networks of the same weights answer differently."""
    generator, size = torch.Generator().manual_seed(0), own.input
    x = torch.randn(2, size.channels, size.height, size.width, generator=generator)
    with torch.inference_mode():
        expected, found = own(x), deepcopy(backbone).cpu().eval()(x)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
        raise UsageError(
            f"the backbone answers otherwise than {backbone.name!r} of the same weights: what was changed in its code or layers "
            "would not be in a bundle"
        )


def check_order(
    backbone: SegmentedBackbone, given: Labelled, indices: np.ndarray, names: Sequence[str], guessed: bool
) -> None:
    """Raises UsageError where the backbone's own answers show that its outputs are in another order than labels say.

    The order that fits its answers best is found on one half of some images and judged on the other. Where the order
    was `guessed` and the answers do not confirm it, a warning says what was taken.
    """
    rows = np.random.default_rng(0).permutation(len(indices))[:ASKED]
    with torch.inference_mode():
        answers = [backbone(given.batch(rows[i : i + 64])).argmax(dim=1) for i in range(0, len(rows), 64)]
    answer, truth = torch.cat(answers).numpy(), indices[rows]
    first = np.arange(len(rows)) % 2 == 0
    table = np.zeros((len(names), len(names)))
    np.add.at(table, (answer[first], truth[first]), 1.0)
    _, meant = linear_sum_assignment(-table)  # (outputs,) the class that each stands for
    own, best = _recall(answer, truth), _recall(meant[answer[~first]], truth[~first])
    if best >= SURE and own < best / 2:
        moved = next(output for output in np.unique(answer) if meant[output] != output)
        raise UsageError(
            f"{100 * own:.0f} % of the backbone's answers are as labelled, but {100 * best:.0f} % where its outputs are in "
            f"another order: output {moved} is class {names[meant[moved]]!r}, not {names[moved]!r}; give classes=[…], the "
            "names in the order of its outputs, or labels in this order"
        )
    if guessed and own < SURE:
        order = ", ".join(f"{index} is {name!r}" for index, name in enumerate(names[:3]))
        warnings.warn(
            f"names are taken for the backbone's outputs in sorted order ({order}{', …' if len(names) > 3 else ''}), which its "
            f"answers do not confirm ({100 * own:.0f} % are as labelled); give classes=[…] in the order of its outputs",
            stacklevel=3,
        )


def _recall(answer: np.ndarray, truth: np.ndarray) -> float:
    """Share of right answers, every class counting alike: to answer always the same is no accuracy."""
    return float(np.mean([(answer[truth == label] == label).mean() for label in np.unique(truth)]))
