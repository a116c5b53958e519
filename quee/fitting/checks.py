"""Checks of `quee.fit` before it computes: settings, path of the bundle, whether a bundle can hold the network, whether
labels fit the outputs, and whether every class has images."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from quee.data.decode import to_array
from quee.data.preprocessing import Preprocessing
from quee.data.splits import cut, stratified_order
from quee.errors import QueeError, UsageError
from quee.fitting.given import Given
from quee.network.answers import SURE, find_order, recall
from quee.network.architectures import check_state_dict, create_backbone, outside_files
from quee.network.asking import ask
from quee.network.base import SegmentedBackbone
from quee.network.sizes import candidates
from quee.network.unstated import Answers, better_size
from quee.settings.experiment import Experiment, check_policy, checked_experiment

HOW = "make it by quee.create_backbone(NAME, …) and give it your weights by load_state_dict"
SHARES = {"train": 0.5, "predictor": 0.3, "validation": 0.2}
CALIBRATION = 256
"""Most images for fitting the ranges of quantizers; fewer where a quarter of all images is less."""
LEAST = 40
"""Least number of images; with fewer, the validation split would be meaningless."""
ASKED = 256
"""Number of images that the order of classes is checked on."""
DARK = 64
"""Images whose pixels are all below this value of 255 may have fewer bits."""


def bundle_path(out: str | Path | None) -> Path:
    """The path of the new bundle; raises UsageError where no bundle can be made."""
    if not isinstance(out, str | Path) or not str(out):
        raise UsageError(f"out={out!r}: give the path of the bundle to be made")
    if "://" in str(out):
        raise UsageError(f"out={str(out)[:80]!r} is an address; a bundle is made in a folder of this machine")
    if str(out).startswith("~"):
        raise UsageError(
            f"out={str(out)[:80]!r} would be a folder called ~: give os.path.expanduser({str(out)[:80]!r})"
        )
    target = Path(out).absolute()
    try:
        os.lstat(target)
    except FileNotFoundError:
        return target
    except NotADirectoryError:
        raise UsageError(f"{out}: {_above(target)} is not a folder") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(out)[:80]!r} is no path for a bundle: {getattr(error, 'strerror', error)}") from None
    raise UsageError(f"{out} exists; give a new path")


def _above(target: Path) -> Path:
    """The nearest existing folder above."""
    return next(parent for parent in target.parents if os.path.lexists(parent))


@contextmanager
def aside_of(target: Path) -> Iterator[Path]:
    """A folder for work in progress, on the file system of the target."""
    above = _above(target)
    try:
        made = TemporaryDirectory(dir=above, prefix=".quee-fit-")
    except OSError as error:
        raise UsageError(f"{target} cannot be made: {above}: {error.strerror}") from None
    with made as aside:
        yield Path(aside)


def checked_settings(
    backbone: SegmentedBackbone, precisions: Sequence[str] | str, budget: float, seed: int, policy: str = "auto"
) -> Experiment:
    """The settings of all stages, checked like those of an experiment; raises UsageError."""
    if precisions != "auto" and (isinstance(precisions, str) or not isinstance(precisions, Sequence)):
        raise UsageError(f"quee.fit: precisions={precisions!r}; give a list, as ['w4a4', 'w8a8'], or 'auto'")
    if isinstance(budget, Real) and not isinstance(budget, bool):
        budget = float(budget) if abs(budget) < sys.float_info.max else float("inf")
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        seed = int(seed)
    check_policy(policy, "quee.fit: policy")
    settings = checked_experiment(
        "quee.fit",
        name="fit",
        prepare={"dataset": "fit", "seed": seed},
        backbone={"name": backbone.name, "gates": list(backbone.gates)},
        paths={"precisions": "auto" if precisions == "auto" else [str(name) for name in precisions], "references": []},
        bundle={"budget": budget, "policy": policy},
    )
    kinds, most = len(settings.paths.named), settings.paths.max_nodes
    if (nodes := sum(kinds**length for length in range(1, backbone.segments + 1))) > most:
        raise UsageError(
            f"quee.fit: {kinds} precisions over {backbone.segments} segments make a tree of {nodes} nodes, of which at most "
            f"{most} are taken; give fewer precisions, or a backbone of fewer gates"
        )
    return settings


def check_pixels(low: int, high: int) -> None:
    """Raises UsageError where the least and the greatest value of all pixels show that the images are empty.

    Warns where all images are so dark that they may have fewer than 8 bits.
    """
    if high <= 1:
        raise UsageError(
            "no pixel is above 1 of 255; were images from 0 to 1 cast to uint8? Multiply them by 255 first"
        )
    if low == high:
        raise UsageError(f"all pixels of all images are {low}")
    if high < DARK:
        warnings.warn(
            f"no pixel is above {high} of 255; if {high} is to be white, multiply images by {255 // high}", stacklevel=3
        )


def divided(indices: np.ndarray, names: Sequence[str], seed: int, answered: bool = False) -> dict[str, np.ndarray]:
    """Sorted rows of the splits train, calibration (a part of train), predictor and validation.

    Raises UsageError where a class has no image in `train`, on which exit heads are fitted, unless the classes are those
    `answered` by the float network.
    """
    if len(indices) < LEAST:
        raise UsageError(f"{len(indices)} images to fit on; give at least {LEAST}")
    order = stratified_order(indices, np.random.default_rng([seed, 0x5917]))
    parts = cut(order, SHARES)
    seen = np.bincount(indices[parts["train"]], minlength=len(names))
    if (absent := np.flatnonzero(seen == 0).tolist()) and not answered:
        counts = np.bincount(indices, minlength=len(names))
        some = ", ".join(f"{names[index]!r} ({counts[index]})" for index in absent[:5])
        raise UsageError(
            f"{len(absent)} of {len(names)} classes have no image in the half that fits exit heads: {some}"
            f"{', …' if len(absent) > 5 else ''}; give at least 4 images of each"
        )
    parts["calibration"] = parts["train"][: min(CALIBRATION, max(16, len(indices) // 4))]
    return {name: np.sort(rows) for name, rows in parts.items()}


def rebuilt(backbone: SegmentedBackbone, kwargs: Mapping[str, Any] | None = None) -> SegmentedBackbone:
    """The backbone as a bundle builds it: from its name and keywords, with its weights, on the CPU.

    `kwargs`, where given, are compared with the keywords it was made with. Raises UsageError where the built network
    differs from the given one.
    """
    made = backbone.made_with
    if made is None:
        raise UsageError(
            f"the backbone was not made by quee.create_backbone, so that a bundle could not build it: {HOW}"
        )
    try:
        kept = json.loads(json.dumps(made, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the backbone was made with what a bundle cannot keep ({error}): numbers, text and lists"
        ) from None
    if kwargs is not None and json.dumps(dict(kwargs), sort_keys=True, default=str) != json.dumps(kept, sort_keys=True):
        raise UsageError(f"kwargs={dict(kwargs)}, but the backbone was made with {made}; leave kwargs out")
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
    """Raises UsageError where two networks with the same weights answer differently."""
    generator, size = torch.Generator().manual_seed(0), own.input
    x = torch.randn(2, *size.shape, generator=generator)
    with torch.inference_mode():
        expected, found = own(x), deepcopy(backbone).cpu().eval()(x)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
        raise UsageError(
            f"the backbone answers otherwise than {backbone.name!r} of the same weights: what was changed in its code or layers "
            "would not be in a bundle"
        )


def check_size(backbone: SegmentedBackbone, given: Given, indices: np.ndarray) -> None:
    """Raises UsageError where nobody states the size of images, and answers are clearly better at a smaller one.

    Smaller images are made of those that are kept at the backbone's size.
    """
    sizes = [side for side in candidates(backbone) if side <= backbone.input.size[0]]
    if "img_size" in (backbone.made_with or {}) or len(sizes) < 2:
        return
    rows = np.random.default_rng(0).permutation(len(indices))[:ASKED]

    def pixels(first: int, last: int, transform: Preprocessing) -> np.ndarray:
        kept, whole = given.transform.coloured(given.rows[rows[first:last]]), replace(transform, crop_pct=1.0)
        images = (Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in kept)
        return np.stack([to_array(whole.fit(image)) for image in images])

    answers = Answers(backbone, pixels, indices[rows], np.arange(backbone.num_classes), sizes)
    if (better := better_size(answers)) is not None:
        raise UsageError(
            f"quee.fit: {better}; give preprocessing={{'img_size': PIXELS}}, the size that the model was trained on "
            f"({backbone.input.size[0]} to keep it), beside mean, std, interpolation and crop_pct where these are not the usual"
        )


def check_order(
    backbone: SegmentedBackbone, given: Given, indices: np.ndarray, names: Sequence[str], guessed: bool
) -> None:
    """Raises UsageError where the backbone's own answers show that its outputs are in another order than labels say.

    If the order was `guessed` and the answers do not confirm it, a warning tells the order that is used.
    """
    rows = np.random.default_rng(0).permutation(len(indices))[:ASKED]
    answer = ask(backbone, (given.batch(rows[i : i + 64]) for i in range(0, len(rows), 64)))
    truth = indices[rows]
    if order := find_order(answer, truth, names, np.arange(len(names))):
        moved = next(output for output in np.unique(answer) if order.meant[output] != output)
        known = f", {order.words}" if order.words else ""
        raise UsageError(
            f"{100 * order.stated:.0f} % of the backbone's answers are as labelled, but {100 * order.found:.0f} % where its "
            f"outputs are in another order{known}: output {moved} is class {order.classes[moved]!r}, not {names[moved]!r}; give "
            "classes=[…], the names in the order of its outputs, or labels in this order"
        )
    own = recall(answer, truth)
    if guessed and own < SURE:
        listed = ", ".join(f"{index} is {name!r}" for index, name in enumerate(names[:3]))
        warnings.warn(
            f"names are taken for the backbone's outputs in sorted order ({listed}{', …' if len(names) > 3 else ''}), which its "
            f"answers do not confirm ({100 * own:.0f} % are as labelled); give classes=[…] in the order of its outputs",
            stacklevel=3,
        )
