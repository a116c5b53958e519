"""What `quee weights check` does: measures what weights do not state on images that no experiment here holds out."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.data import DATA, known_dataset
from quee.data.class_order import outputs_given, positions
from quee.data.division import divided
from quee.data.source import ImageSource, open_dataset
from quee.data.splits import in_turn
from quee.data.walk import some
from quee.data.weights import load_weights, record
from quee.data.weights_facts import MEASURABLE, PUBLISHED, weights_facts, weights_path
from quee.errors import QueeError, UsageError
from quee.network.answers import BACKED
from quee.network.architectures import create_backbone
from quee.network.device import place
from quee.network.sizes import candidates
from quee.network.unstated import UNKNOWNS, Answers, Measured, measure
from quee.settings.backbone import Backbone
from quee.settings.experiment import load_experiment
from quee.settings.names import experiment_names
from quee.settings.requirements import check_head
from tasks.dvc.inputs import refuse_unpulled
from tasks.scale import read_scale

if TYPE_CHECKING:
    from quee.data.weights_facts import WeightsFacts
    from quee.settings.experiment import Experiment

LEAST = 50
"""Least number of images; fewer tell too little."""


@dataclass(frozen=True)
class Request:
    """One call of `quee weights check`."""

    weights: str
    dataset: str
    images: int
    """Most images to measure on."""
    all: bool = False
    """Measure what is stated, too."""
    given: Mapping[str, Any] | None = None
    """Fields of the preprocessing that the user states."""
    class_order: str | None = None
    """Order of the outputs, as the user states it: a value of `--class-order`."""
    kwargs: Mapping[str, Any] | None = None
    """As in `backbone.kwargs`; joins those that the weights were added with."""
    planned: tuple["Experiment", ...] = ()
    """Experiments that are not written yet; they hold out as those that are here."""

    @property
    def command(self) -> str:
        return f"quee weights check {self.weights} {self.dataset}"


@dataclass(frozen=True)
class Checked:
    """What was found about weights, and what of it is to be recorded."""

    request: Request
    result: Measured
    classes: tuple[str, ...]
    """The data set's."""
    preprocessing: dict[str, Any]
    """Fields that were measured or stated, to be recorded."""
    outputs: tuple[str, ...] | None
    """Names of the outputs, to be recorded; None where they follow the data set."""
    stated: frozenset[str]
    img_size: int | None
    """Side of the images, if it was measured or stated; None where the weights fit one size alone."""

    @property
    def measured(self) -> str:
        """One line of provenance."""
        return f"on {self.result.images:,} training images of {self.request.dataset}: accuracy {_percent(self.result.after)}"

    def record(self) -> None:
        """Write it into the weights file."""
        record(weights_path(self.request.weights), self.preprocessing, self.outputs, self.measured, self.img_size)

    def lines(self) -> Iterator[str]:
        """The table, and what it means."""
        request, result = self.request, self.result
        yield (
            f"{request.weights} on {result.images:,} training images of {request.dataset}, as many of each class as there "
            f"are, none held out by an experiment here"
        )
        for row in result.rows:
            interval = ""
            if row.difference is not None:
                mean, low, high = (100 * value for value in row.difference)
                interval = f"{mean:+6.1f} [{low:+.1f}, {high:+.1f}]"
            yield (
                f"{row.unknown:18}  {row.value:40} {_percent(row.accuracy):>7}  {interval:22} {row.images:5,} images  "
                f"{row.verdict}"
            )
        if known := sorted(self.stated):
            yield f"stated{'' if request.all else ', so not measured (--all does)'}: {', '.join(known)}"
        if result.beaten:
            yield f"WARNING: {result.beaten}; --state KEY=VALUE changes it, or --set img_size=N the size"
        if order := result.order:
            words = order.words or "in an order of their own"
            yield (
                f"order of classes: the outputs are {words} ({some(order.classes, 4)}), not as in the data set "
                f"({some(self.classes, 4)}): {_percent(order.found)} of the answers are right so, {_percent(order.stated)} as in "
                "the data set"
            )
        fewer = "" if result.images_before == result.images else f" (of {result.images_before} images)"
        side = f"{result.preprocessing.size[0]}×{result.preprocessing.size[1]} pixels, " if self.img_size else ""
        yield (
            f"accuracy: {_percent(result.before)} as it was{fewer}, {_percent(result.after)} with {side}"
            f"{result.preprocessing}{' and this order' if result.order else ''}"
        )

    def facts(self) -> dict[str, Any]:
        """The same for programs, in types that JSON has."""
        result, order = self.result, self.result.order
        return {
            "weights": self.request.weights,
            "dataset": self.request.dataset,
            "images": result.images,
            "accuracy_before": result.before,
            "accuracy": result.after,
            "rows": [asdict(row) for row in result.rows],
            "preprocessing": self.preprocessing,
            "img_size": self.img_size,
            "stated": sorted(self.stated),
            "close": result.close,
            "beaten": result.beaten,
            "order": order and {"words": order.words, "classes": list(order.classes), "thin": list(order.thin)},
        }

    def refuse_open(self, write: Path | None = None) -> None:
        """Raises UsageError where somebody has to decide: two values are close, or the order of classes is its own.

        An order that was found is written to `write` first.
        """
        request, result = self.request, self.result
        for unknown, values in result.close.items():
            told = " or ".join(values)
            ways = " or ".join(f"`{request.command}{_state(v)}`" for v in values.values())
            raise UsageError(
                f"{unknown}: {told}? {result.images:,} images do not tell; state it: {ways}; or give more --images\n"
                "in an experiment: backbone.kwargs.preprocessing. Nothing was recorded."
            )
        order = result.order
        if order is not None and write is not None and not order.thin:
            write.write_text("".join(f"{name}\n" for name in order.classes), encoding="utf-8")
        if order is None or order.words:
            return
        if order.thin:
            raise UsageError(
                f"order of classes: its own, and fewer than {BACKED} right answers stand for {some(order.thin, 5)}: give more "
                "--images, or the order by --class-order FILE. Nothing was recorded."
            )
        if write is None:
            raise UsageError(
                f"order of classes: of no known kind, so it is not taken unasked: `{request.command} --write FILE` writes it "
                f"to FILE, and `{request.command} --class-order FILE` states it. Nothing was recorded."
            )
        write.write_text("".join(f"{name}\n" for name in order.classes), encoding="utf-8")
        raise UsageError(
            f"{write} has the order of the outputs; if it is right, state it: `{request.command} --class-order {write}`"
        )


def state_order(request: Request) -> None:
    """Record the order of the outputs as the user states it, where there are too few images to measure anything."""
    path = weights_path(request.weights)
    classes = open_dataset(DATA / request.dataset, request.dataset).classes
    record(path, {}, outputs_given(request.class_order, classes), weights_facts(path).measured)


def check(request: Request) -> Checked:
    """Measure what the weights do not state. Raises QueeError where weights and data set do not fit, or nothing is told."""
    path = weights_path(request.weights)
    facts, known = weights_facts(path), known_dataset(request.dataset, DATA)
    refuse_unpulled(Path(), DATA / request.dataset)
    if request.images < LEAST:
        raise UsageError(f"--images {request.images}: valid are {LEAST} and more")
    images = open_dataset(DATA / request.dataset, request.dataset)
    classes = images.classes
    settings = Backbone(name=facts.backbone, mode="pretrained", weights=request.weights)
    check_head(settings, len(classes))
    named = outputs_given(request.class_order, classes) or facts.classes
    meant = np.arange(len(classes))
    if named is not None:
        meant = np.argsort(positions(named, classes, f"the head of {path}"))
    kwargs = {**(facts.kwargs or {}), **(request.kwargs or {}), "num_classes": len(classes)}
    prepared = {**facts.preprocessing, **kwargs.pop("preprocessing", {}), **(request.given or {})}
    backbone = create_backbone(facts.backbone, preprocessing=prepared, **kwargs)
    if known.channels not in (1, backbone.input.channels) and backbone.input.channels != 1:
        raise UsageError(f"{request.weights} take {backbone.input.channels} channels, the images have {known.channels}")
    load_weights(backbone, path, new_head=False)
    backbone.to(place(read_scale().device))
    if images.answers is not None:
        raise UsageError(
            f"{request.dataset}: its labels are a network's own answers, which cannot tell how images are prepared"
        )
    ids = calibration(images, request.dataset, request.planned)
    if len(ids) < LEAST:
        raise UsageError(
            f"{request.dataset}: {len(ids)} training images that no experiment here holds out; {LEAST} are needed"
        )
    ids = in_turn(ids, images.labels[ids], seed=0)[: request.images]
    stated = stated_fields(request, facts)
    sizes = candidates(backbone, images.image_size())
    answers = Answers(
        backbone,
        lambda first, last, transform: images.fitted(ids[first:last], transform),
        images.labels[ids],
        meant,
        sizes,
    )
    result = measure(answers, classes, stated, request.all, named is not None)
    fields = [key for unknown in UNKNOWNS for key in unknown.keys if not stated.intersection(unknown.keys)]
    measured = {key: getattr(result.preprocessing, key) for key in {*fields, *result.found}}
    outputs = named if result.order is None else result.order.classes
    recorded = {**measured, **(request.given or {})}
    told = sizes and ("size" not in stated or "img_size" in (request.kwargs or {}))
    side = result.preprocessing.size[0] if told else None
    return Checked(request, result, classes, recorded, None if outputs is None else tuple(outputs), stated, side)


def stated_fields(request: Request, facts: "WeightsFacts") -> frozenset[str]:
    """Fields of the preprocessing that the user, the weights file or the list of published weights states."""
    published = MEASURABLE if request.weights in PUBLISHED else ()
    kwargs = request.kwargs or {}
    size = ("size",) if "img_size" in kwargs else ()
    return facts.stated | {*published, *size, *(request.given or {}), *kwargs.get("preprocessing", {})}


def calibration(images: ImageSource, dataset: str, planned: Sequence["Experiment"] = ()) -> np.ndarray:
    """Ids (n,) of the official training set that no experiment of this project holds out, nor one that is `planned`.

    Experiments that cannot be read, or that the data set is too small for, have no splits and hold nothing out.
    """
    free = np.arange(len(images)) < images.train_samples
    found = list(planned)
    for name in experiment_names():
        with contextlib.suppress(QueeError):
            found.append(load_experiment(name))
    for experiment in found:
        if experiment.prepare.dataset != dataset:
            continue
        try:
            table = divided(images, experiment, experiment.prepare.limit)
        except QueeError:
            continue
        split = np.asarray(table["split"].to_pylist(), dtype=object)
        free[table["sample_id"].to_numpy()[split != "train"]] = False
    return np.flatnonzero(free)


def _state(values: Mapping[str, Any]) -> str:
    """Fields of a preprocessing as options `--state`, each with a leading space."""
    return "".join(f" --state {shlex.quote(f'{key}={_plain(value)}')}" for key, value in values.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ": "))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
