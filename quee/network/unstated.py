"""Measures what a checkpoint does not state: how large its images are, how they are prepared, and the order of its outputs.

Wrong values raise no error and only cost accuracy. The usual values of each unknown are tried on labelled images, one
unknown after the other, all values on the same images. Values that are clearly worse leave the race early. The size comes
first, because it decides what all else costs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from timm.data import constants
from torch import Tensor

from quee.data.preprocessing import CHANNEL_ORDERS, INTERPOLATIONS, KEYS, Preprocessing, override, spread
from quee.data.transforms import to_unit
from quee.errors import UsageError
from quee.intervals import NORMAL, half_width
from quee.network.answers import Order, above_chance, assignable, find_order, more_often, recall
from quee.network.base import SegmentedBackbone
from quee.network.sizes import far_apart, neighbours, resized
from quee.work.progress import Bar, progress

RACE = (128, 512)
"""Numbers of images after which values that are clearly worse leave; those that remain see all images."""
LEVEL = 0.05
"""Probability that a value leaves wrongly, over all values of an unknown."""
DOUBT = 0.1
"""Probability, over all values of an unknown, of an advantage by chance from which on it is asked about."""
EQUAL = 0.005
"""Difference of accuracy up to which two values count as equally good."""
ALIKE = (0.06, 0.3)
"""Two normalisations are of one kind where means differ by at most the first, and deviations by this share."""
SHARP = {"bicubic", "lanczos"}
"""Interpolations of one kind."""
MARGIN = 0.05
"""Recall by which another order of the outputs must explain the answers better than another preprocessing."""
BATCH = 64
LOOKED_FOR = 256
"""Number of images on which it is asked whether answers are above chance."""
ROUNDS = ((32, 1.0), (96, 1 / 4), (LOOKED_FOR, 1 / 16))
"""Where they are not: images by which other values are ranked, and the share of them that is looked at."""
SIZED = 64
"""Number of images by which sizes enter the race."""
STEPS = 2
"""So many sizes in a row that are clearly worse end the search in their direction."""
SIZINGS = 2
"""Most times that the size is measured."""
KEPT = 256 << 20
"""Most bytes of prepared images that are kept."""
LOOKED_AT = 32
"""Number of images by which two values are compared that may make the same of all images."""

Pixels = Callable[[int, int, Preprocessing], np.ndarray]
"""Images first … last-1 as uint8 (n, h, w, c), at the size and with the channels that a preprocessing gives."""

NORMALISATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "ImageNet's": (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
    "0.5, so values from -1 to 1": (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
    "CLIP's": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "none, values from 0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "none, values from 0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
    "ImageNet's mean of values from 0 to 255": (constants.IMAGENET_DEFAULT_MEAN, (1 / 255,) * 3),
}
"""Mean and deviation by channel in the order RGB, for pixels from 0 to 1."""
OWN = "the data set's own"
CROPS = (0.875, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Unknown:
    """Something that decides accuracy and that files often leave out."""

    name: str
    keys: tuple[str, ...]
    """Fields of the preprocessing that hold it."""
    usual: Callable[[Preprocessing, tuple[Sequence[float], Sequence[float]]], dict[str, dict[str, Any]]]
    """Usual values by description, given the present preprocessing, and the data set's own mean and deviation in RGB."""
    asked: bool = True
    """Whether somebody has to decide where two values are close."""


def _normalisations(now: Preprocessing, own: tuple[Sequence[float], Sequence[float]]) -> dict[str, dict[str, Any]]:
    turn = -1 if now.channel_order == "bgr" else 1
    return {
        words: {"mean": spread(mean, now.channels)[::turn], "std": spread(std, now.channels)[::turn]}
        for words, (mean, std) in {**NORMALISATIONS, OWN: own}.items()
    }


def _channel_orders(now: Preprocessing, _: object) -> dict[str, dict[str, Any]]:
    if now.channels != 3:
        return {}
    turned = {"mean": now.mean[::-1], "std": now.std[::-1]}  # each colour keeps its mean and deviation
    return {
        order.upper(): {"channel_order": order, **(turned if order != now.channel_order else {})}
        for order in CHANNEL_ORDERS
    }


def _crops(now: Preprocessing, _: object) -> dict[str, dict[str, Any]]:
    cropped = {f"{100 * share:g} % of the shorter side": {"crop_pct": share, "resize": "shorter"} for share in CROPS}
    return {**cropped, "all of both sides": {"crop_pct": 1.0, "resize": "both"}}


def _pixels(now: Preprocessing) -> str:
    return f"{now.size[0]}×{now.size[1]}"


def _interpolations(now: Preprocessing, _: object) -> dict[str, dict[str, Any]]:
    return {name: {"interpolation": name} for name in INTERPOLATIONS}


SIZE = Unknown("size of images", ("size",), lambda now, _: {_pixels(now): {}}, asked=False)
"""Its values are `Answers.sizes`. Neighbouring sizes are no question: a network hardly tells them apart."""
UNKNOWNS = (
    Unknown("mean and deviation", ("mean", "std"), _normalisations),
    Unknown("channels", ("channel_order",), _channel_orders),
    Unknown("crop", ("crop_pct", "resize"), _crops),
    Unknown("interpolation", ("interpolation",), _interpolations),
)
"""How images are prepared, once their size is known."""

MOST_CHANGES = 2 * len(UNKNOWNS)


@dataclass(frozen=True)
class Row:
    """A line of the table: one value of one unknown."""

    unknown: str
    value: str
    images: int
    accuracy: float
    difference: tuple[float, float, float] | None
    """Accuracy less that of the value in use at the end of the race, with its paired 95 % interval; None for that value."""
    verdict: str


@dataclass
class Measured:
    """What the answers told."""

    images: int
    before: float
    """Accuracy with the preprocessing and the order at the start."""
    after: float
    """Accuracy with what was found."""
    preprocessing: Preprocessing
    rows: list[Row]
    found: dict[str, Any] = field(default_factory=dict)
    """Fields of the preprocessing that are clearly better with another value, with this value."""
    order: Order | None = None
    """The order of the outputs where it is clearly not the stated one."""
    close: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By unknown: the values, by description, between which these images do not tell."""
    beaten: str = ""
    """The stated value that is most clearly worse than another; empty where none is."""
    images_before: int = 0
    """Number of images of `before`: fewer where the size changed, for the size at the start may be an expensive one."""


class Answers:
    """A network's answers to labelled images by preprocessing; what is computed once is kept."""

    def __init__(
        self,
        backbone: SegmentedBackbone,
        pixels: Pixels,
        labels: np.ndarray,
        meant: np.ndarray,
        sizes: Sequence[int] = (),
    ) -> None:
        """`labels` (n,) are those of the images, `meant` (outputs,) says which label each output stands for.

        `sizes` are sides of images that may be tried (`quee.network.sizes.candidates`).
        """
        self.backbone, self.pixels, self.labels, self.meant = backbone, pixels, labels, meant
        self.sizes = tuple(sizes)
        self.place = next(backbone.parameters()).device
        self.bar: Bar | None = None
        self._logits: dict[Preprocessing, np.ndarray] = {}
        self._losses: dict[tuple[Preprocessing, int, bytes], np.ndarray] = {}
        self._fitted: dict[tuple[Any, ...], np.ndarray] = {}
        self._networks: dict[tuple[int, int], SegmentedBackbone | None] = {backbone.input.size: backbone}

    def network(self, transform: Preprocessing) -> SegmentedBackbone | None:
        """The backbone for images of this size; None where its weights do not fit it."""
        if transform.size not in self._networks:
            made = resized(self.backbone, transform.size[0])
            self._networks[transform.size] = None if made is None else made.to(self.place)
        return self._networks[transform.size]

    def fitted(self, transform: Preprocessing, count: int) -> np.ndarray:
        """uint8 (count, h, w, c); those of the last geometries are kept, up to KEPT bytes."""
        key = (transform.size, transform.crop_pct, transform.interpolation, transform.resize, transform.crop_offset)
        kept = self._fitted.get(key, np.zeros((0, *transform.size, transform.channels), np.uint8))
        if len(kept) < count:
            kept = np.concatenate([kept, self.pixels(len(kept), count, transform)])
        self._fitted.pop(key, None)
        self._fitted[key] = kept  # the last one
        while len(self._fitted) > 1 and sum(value.nbytes for value in self._fitted.values()) > KEPT:
            del self._fitted[next(iter(self._fitted))]
        return kept[:count]

    def by_output(self, transform: Preprocessing, count: int) -> np.ndarray:
        """Logits (count, outputs) float32, in the order of the backbone's outputs."""
        kept = self._logits.get(transform, np.zeros((0, self.backbone.num_classes), np.float32))
        if len(kept) < count:
            parts = [kept, *self._computed(transform, len(kept), count)]
            kept = self._logits[transform] = np.concatenate(parts)
        return kept[:count]

    def logits(self, transform: Preprocessing, count: int) -> np.ndarray:
        """Logits (count, classes) float64, in the order of the labels."""
        return self.by_output(transform, count)[:, np.argsort(self.meant)].astype(np.float64)

    def _computed(self, transform: Preprocessing, first: int, last: int) -> Iterator[np.ndarray]:
        pixels, network = self.fitted(transform, last), self.network(transform)
        assert network is not None  # values that do not fit are no trials
        for start in range(first, last, BATCH):
            x: Tensor = transform.normalise(to_unit(pixels[start : min(start + BATCH, last)]))
            with torch.inference_mode():
                yield np.nan_to_num(network(x.to(self.place)).float().cpu().numpy())  # values far off overflow
            if self.bar:
                self.bar.advance(len(x))

    def answer(self, transform: Preprocessing, count: int) -> np.ndarray:
        """Outputs (count,) with the largest logit."""
        return self.by_output(transform, count).argmax(axis=1)

    def correct(self, transform: Preprocessing, count: int) -> np.ndarray:
        """(count,) bool"""
        return np.asarray(self.meant[self.answer(transform, count)] == self.labels[:count])

    def accuracy(self, transform: Preprocessing, count: int) -> float:
        return float(self.correct(transform, count).mean())

    def loss(self, transform: Preprocessing, count: int) -> np.ndarray:
        """Cross-entropy (count,) at the temperature that fits best, so that the logits' scale decides nothing."""
        key = (transform, count, self.meant.tobytes())
        if key not in self._losses:
            self._losses[key] = _tempered(self.logits(transform, count), self.labels[:count])
        return self._losses[key]

    def worse(self, one: Preprocessing, best: Preprocessing, count: int, level: float) -> bool:
        """Whether `one` is clearly worse than `best`: right less often, or not more often and of larger loss."""
        right, rights = self.correct(one, count), self.correct(best, count)
        if more_often(rights, right, level):
            return True
        more = self.loss(one, count) - self.loss(best, count)
        least = half_width(more, -float(ndtri(level)))
        return bool(rights.sum() >= right.sum() and least > 0 and more.mean() > least)


def _tempered(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy (n,) of logits (n, classes) divided by the temperature that makes its mean smallest."""
    below = logits - logits.max(axis=1, keepdims=True)
    own = below[np.arange(len(labels)), labels]

    def losses(log_temperature: float) -> np.ndarray:
        scale = np.exp(-log_temperature)
        return np.asarray(np.log(np.exp(below * scale).sum(axis=1)) - own * scale)

    best = minimize_scalar(lambda t: float(losses(t).mean()), bounds=(-4, 6), method="bounded", options={"xatol": 0.01})
    return losses(float(best.x))


def measure(
    answers: Answers,
    classes: Sequence[str],
    stated: frozenset[str] = frozenset(),
    all_: bool = False,
    ordered: bool = False,
) -> Measured:
    """Try the usual values of every unknown on all images of `answers`, beginning with the backbone's preprocessing.

    `classes` are the names of the labels. Fields in `stated` are measured only with `all_`, and never changed; a stated
    value that is clearly worse than another is told in `beaten`. With `ordered` the order of the outputs is stated.
    Raises UsageError where no answers are above chance.
    """
    start, count, stated_order = answers.backbone.input, len(answers.labels), answers.meant
    free = [unknown for unknown in UNKNOWNS if not stated.intersection(unknown.keys)]
    fixed = [unknown for unknown in UNKNOWNS if all_ and unknown not in free]
    sized = bool(answers.sizes) and "size" not in stated
    if answers.sizes and not sized and all_:
        fixed = [SIZE, *fixed]
    now, order = _footing(answers, classes, free, sized, ordered)
    result = Measured(count, 0.0, 0.0, now, [])
    answers.meant = stated_order if order is None else order.meant
    _search(answers, result, free, fixed, sized)
    if not ordered:
        order = find_order(answers.answer(result.preprocessing, count), answers.labels, classes, stated_order)
        meant = stated_order if order is None else order.meant
        if (meant != answers.meant).any():
            answers.meant = meant
            _search(answers, result, free, fixed, sized)
    result.order = order
    if not above_chance(answers.meant[answers.answer(result.preprocessing, count)], answers.labels):
        raise _chance(answers, result.preprocessing, count, classes, sized)
    result.after = answers.accuracy(result.preprocessing, count)
    result.images_before = count if result.preprocessing.size == start.size else min(LOOKED_FOR, count)
    first = stated_order[answers.answer(start, result.images_before)] == answers.labels[: result.images_before]
    result.before = float(first.mean())
    result.found = {key: new for key in KEYS if (new := getattr(result.preprocessing, key)) != getattr(start, key)}
    return result


def better_size(answers: Answers) -> str | None:
    """Says which size is clearly better than the backbone's, and by how much; None where none is."""
    start = answers.backbone.input
    if not answers.sizes or answers.accuracy(start, len(answers.labels)) >= 1 - EQUAL:
        return None
    race = _race(answers, start, start, SIZE)
    if race.chosen == start:
        return None
    count = min(race.seen[start], race.seen[race.chosen])
    return (
        f"{100 * answers.accuracy(start, count):.0f} % of {count} answers are right with images of {_pixels(start)} pixels, and "
        f"{100 * answers.accuracy(race.chosen, count):.0f} % at {_pixels(race.chosen)}"
    )


def _footing(
    answers: Answers, classes: Sequence[str], free: Sequence[Unknown], sized: bool, ordered: bool
) -> tuple[Preprocessing, Order | None]:
    """Where to begin: a preprocessing, and another order of the outputs if need be, with answers above chance.

    That is the present preprocessing, unless its answers are not above chance or fit another order. Then a change of one
    unknown, of size and mean together, or of mean and order of channels may explain the answers; it comes before another
    order. Few images rank these changes, and more images look at the best of them.
    """
    start, few = answers.backbone.input, min(LOOKED_FOR, len(answers.labels))

    def judged(transform: Preprocessing, count: int) -> tuple[float, Order | None]:
        """Recall by the stated order, 0 where it is not above chance, and another order that the answers fit."""
        answer, truth = answers.answer(transform, count), answers.labels[:count]
        given = answers.meant[answer]
        order = None if ordered else find_order(answer, truth, classes, answers.meant)
        return (recall(given, truth) if above_chance(given, truth) else 0.0), order

    def score(transform: Preprocessing, count: int) -> float:
        answer, truth = answers.answer(transform, count), answers.labels[:count]
        given = recall(answers.meant[answer], truth)
        return given if ordered else given + assignable(answer, truth, len(classes))

    found, order = judged(start, few)
    if found and order is None:
        return start, None
    for tried in _changes(answers, free, sized):
        alive = list(tried)
        with progress("looking for answers above chance", ROUNDS[0][0] * len(alive)) as answers.bar:
            for images, share in ROUNDS:
                count = min(images, few)
                alive = sorted(alive, key=lambda one: -score(one, count))[: max(1, round(share * len(tried)))]
                if images == ROUNDS[0][0]:
                    continue
                results = {start: (found, order), **{one: judged(one, count) for one in alive}}
                direct = max(results, key=lambda one: results[one][0])
                turned = max(results, key=lambda one: results[one][1].found if results[one][1] else 0.0)  # type: ignore[union-attr]
                other = results[turned][1]
                if other is not None and other.found > results[direct][0] + MARGIN:
                    if images == LOOKED_FOR:  # an order takes more images to tell
                        return turned, other
                elif results[direct][0]:
                    return direct, None
    raise _chance(answers, start, few, classes, sized)


def _changes(answers: Answers, free: Sequence[Unknown], sized: bool) -> Iterator[dict[Preprocessing, None]]:
    """Preprocessings that may have answers above chance where the present one has not, the likeliest kinds first.

    A size of about half or twice the right one is enough to be above chance, so few are tried, and none above the present
    one, which would be dear.
    """
    start, (mean, order) = answers.backbone.input, UNKNOWNS[:2]
    if sized:
        sides = far_apart([side for side in answers.sizes if side <= start.size[0]])
        fitting = [one for one in map(start.resized, sides[::-1]) if answers.network(one) is not None]
        yield dict.fromkeys(
            one for at in fitting for one in (_trials(answers, at, at, mean) if mean in free else (at,))
        )
    tried = dict.fromkeys(one for unknown in free for one in _trials(answers, start, start, unknown))
    if mean in free and order in free:
        for one in list(_trials(answers, start, start, mean)):
            tried |= dict.fromkeys(_trials(answers, one, start, order))
    if tried:
        yield tried


def _chance(answers: Answers, now: Preprocessing, count: int, classes: Sequence[str], sized: bool) -> UsageError:
    sizes = f"size of images ({', '.join(map(str, answers.sizes))}), " if sized else ""
    return UsageError(
        f"no answers above chance: {100 * answers.accuracy(now, count):.1f} % of {count} images are right, and no usual "
        f"{sizes}preprocessing or order of the outputs helps; were the weights trained on these "
        f"{len(classes)} classes, and does the backbone have the right keywords?"
    )


@dataclass(frozen=True)
class Race:
    """How the values of one unknown did."""

    unknown: Unknown
    trials: dict[Preprocessing, str]
    """Preprocessings with the values, the present one first, and the values' descriptions."""
    seen: dict[Preprocessing, int]
    """Number of images on which each was measured."""
    alive: tuple[Preprocessing, ...]
    """Those that are not clearly worse than the best one."""
    chosen: Preprocessing
    close: tuple[Preprocessing, ...] = ()
    """Values between which the images do not tell."""
    dearer: tuple[Preprocessing, ...] = ()
    """Larger sizes than the present one that are no better."""

    def gain(self, answers: Answers) -> float:
        """Accuracy of the chosen value less that of the present one, on the same images."""
        now = next(iter(self.trials))
        count = min(self.seen[now], self.seen[self.chosen])
        return answers.accuracy(self.chosen, count) - answers.accuracy(now, count)


def _search(answers: Answers, result: Measured, free: Sequence[Unknown], fixed: Sequence[Unknown], sized: bool) -> None:
    """Choose the size, then change the unknown that gains most, until none gains; then fill the table.

    One unknown can make up for a part of another one's wrong value, so the largest gain comes first, and the size is
    measured again where others changed. The unknowns in `fixed` are measured at the end and never changed.
    """
    start, first = answers.backbone.input, []
    for _ in range(SIZINGS):
        if sized:
            first = [_race(answers, result.preprocessing, start, SIZE)]
            result.preprocessing = first[0].chosen
        at = result.preprocessing
        for _ in range(MOST_CHANGES):
            races = [_race(answers, result.preprocessing, start, unknown) for unknown in free]
            best = max(races, key=lambda race: race.gain(answers), default=None)
            if best is None or best.chosen == result.preprocessing:
                break
            result.preprocessing = best.chosen
        if not sized or result.preprocessing == at:
            break
    races = [*first, *races]
    result.rows, result.close, result.beaten = [], {}, ""
    for race in races:
        result.rows += _rows(answers, race, start)
        if race.close:
            result.close[race.unknown.name] = {
                race.trials[one]: {key: getattr(one, key) for key in race.unknown.keys} for one in race.close
            }
    most = 0.0
    for unknown in fixed:
        race = _race(answers, result.preprocessing, start, unknown)
        result.rows += _rows(answers, replace(race, chosen=result.preprocessing, close=()), start, "stated")
        if (gain := race.gain(answers)) > most:
            most = gain
            result.beaten = (
                f"{unknown.name}: {race.trials[result.preprocessing]} is stated, and {race.trials[race.chosen]} is clearly "
                f"better, by {100 * gain:.1f} points"
            )


def _trials(answers: Answers, now: Preprocessing, start: Preprocessing, unknown: Unknown) -> dict[Preprocessing, str]:
    """Preprocessings with the values of one unknown, the present one first, each with the value's description.

    A value that makes the same of the first images as one before it is left out.
    """
    if unknown is SIZE:
        sides = (now.size[0], start.size[0], *answers.sizes)
        return {one: _pixels(one) for one in map(now.resized, dict.fromkeys(sides))}
    usual = {words: override(now, changes) for words, changes in unknown.usual(now, _own(answers, now)).items()}
    before = replace(now, **_at_start(start, now, unknown))
    found: dict[Preprocessing, str] = {}
    seen: list[Tensor] = []
    for transform in (now, before, *usual.values()):
        x = transform.normalise(to_unit(answers.fitted(transform, min(LOOKED_AT, len(answers.labels)))))
        if not any(torch.equal(x, other) for other in seen):
            seen.append(x)
            known = next((words for words, one in usual.items() if one == transform), "")
            found[transform] = known or _words(transform, unknown)
    return found


def _at_start(start: Preprocessing, now: Preprocessing, unknown: Unknown) -> dict[str, Any]:
    """The fields of an unknown as at the start, each colour with its mean and deviation."""
    turn = -1 if start.channel_order != now.channel_order else 1
    if "channel_order" in unknown.keys:
        return {"channel_order": start.channel_order, "mean": now.mean[::turn], "std": now.std[::turn]}
    return {key: getattr(start, key)[::turn] if key in ("mean", "std") else getattr(start, key) for key in unknown.keys}


def _own(answers: Answers, now: Preprocessing) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the data set's channels, in RGB, for pixels from 0 to 1; rounded to 4 digits."""
    pixels = answers.fitted(now, min(RACE[0], len(answers.labels))) / 255
    mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    return [round(float(v), 4) for v in mean], [max(round(float(v), 4), 1e-4) for v in std]


def _words(transform: Preprocessing, unknown: Unknown) -> str:
    values = {key: getattr(transform, key) for key in unknown.keys}
    shown = {
        key: ", ".join(f"{v:.4g}" for v in value) if isinstance(value, tuple) else value
        for key, value in values.items()
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _race(answers: Answers, now: Preprocessing, start: Preprocessing, unknown: Unknown) -> Race:
    """Measure the values of one unknown beside the present preprocessing; those that are clearly worse leave early.

    The present value stays where no other is better by more than EQUAL or more than by chance, and where it is asked about.
    """
    trials, total = _trials(answers, now, start, unknown), len(answers.labels)
    if len(trials) == 1:
        return Race(unknown, trials, dict.fromkeys(trials, total), (now,), now)
    level = LEVEL / ((len(trials) - 1) * (len(RACE) + 1))
    with progress(f"measuring {unknown.name}", total * len(trials)) as answers.bar:
        alive, few = list(trials), min(SIZED, total)
        dearer: tuple[Preprocessing, ...] = ()
        if unknown is SIZE:
            entered, alive, dearer = _near(answers, list(trials), few, level)
            trials = {one: trials[one] for one in entered}
        seen = {one: total if one in alive else few for one in trials}
        for count in (*(few for few in RACE if few < total), total):
            best = max(alive, key=lambda one: (answers.accuracy(one, count), -float(answers.loss(one, count).mean())))
            left = [one for one in alive if one != best and answers.worse(one, best, count, level)]
            seen.update(dict.fromkeys(left, count))
            alive = [one for one in alive if one not in left]
            kind = now if now in alive or unknown.asked else best
            if (kind in alive and all(one == kind or _alike(one, kind) for one in alive)) or len(alive) == 1:
                seen.update(dict.fromkeys(alive, count))
                break
    chosen, close = _chosen(answers, alive, best, now, seen[best], DOUBT / max(1, len(trials) - 1), unknown.asked)
    return Race(unknown, trials, seen, tuple(alive), chosen, tuple(close), dearer)


def _near(
    answers: Answers, sizes: Sequence[Preprocessing], count: int, level: float
) -> tuple[list[Preprocessing], list[Preprocessing], tuple[Preprocessing, ...]]:
    """The sizes that were tried, the present one first; those that may be the right one; larger ones that are no better.

    Accuracy rises towards the right size and falls behind it, so a walk from the present one ends where STEPS sizes in a
    row are clearly worse than the best, or larger and no better. Smaller ones come first, as they are cheap; there is no
    walk to larger ones where a smaller one is clearly better.
    """
    now, rising = sizes[0], sorted(sizes, key=lambda one: one.size)
    place, tried, alive = rising.index(now), [now], [now]
    dearer: list[Preprocessing] = []

    def best() -> Preprocessing:
        return max(alive, key=lambda one: (answers.accuracy(one, count), -float(answers.loss(one, count).mean())))

    for way in (rising[:place][::-1], rising[place + 1 :]):
        worse = 0
        if answers.worse(now, best(), count, level):
            break
        for one in way:
            if worse == STEPS:
                break
            if answers.network(one) is None:
                continue
            tried.append(one)
            gain = answers.accuracy(one, count) - answers.accuracy(now, count)
            if answers.worse(one, best(), count, level):
                worse += 1
            elif one.size > now.size and gain <= EQUAL:
                worse, dearer = worse + 1, [*dearer, one]
            else:
                worse, alive = 0, [*alive, one]
    found = best()
    return tried, [one for one in alive if one == found or not answers.worse(one, found, count, level)], tuple(dearer)


def _rows(answers: Answers, race: Race, start: Preprocessing, verdict: str = "") -> Iterator[Row]:
    """The rows of one unknown; `verdict` on the chosen value where it is not measured whether to change it."""
    for one, words in race.trials.items():
        images = min(race.seen[one], race.seen[race.chosen])
        if one == race.chosen:
            changed = any(getattr(one, key) != value for key, value in _at_start(start, one, race.unknown).items())
            said = verdict or (
                "taken" if changed else "kept" if len(race.trials) > 1 else "others make the same images"
            )
            difference = None
        else:
            difference = _difference(answers, one, race.chosen, images)
            worse = "clearly worse" if difference[2] < 0 else "clearly worse by its loss"
            lost = "no better" if one in race.dearer else worse
            said = lost if one not in race.alive else "close" if one in race.close else "as good"
        yield Row(race.unknown.name, words, images, answers.accuracy(one, images), difference, said)


def _chosen(
    answers: Answers,
    alive: Sequence[Preprocessing],
    best: Preprocessing,
    now: Preprocessing,
    count: int,
    level: float,
    asked: bool,
) -> tuple[Preprocessing, list[Preprocessing]]:
    """The value to go on with, and the values between which the images do not tell."""
    if alive == [best]:
        return best, []
    behind = {one: answers.accuracy(best, count) - answers.accuracy(one, count) for one in alive}
    near = [one for one in alive if behind[one] <= EQUAL or _alike(one, best)]
    if now in near or (now in alive and not answers.worse(now, best, count, level)):
        return now, []
    if not asked:
        return best, []
    if now in alive:
        return now, [now, *(one for one in alive if one != now)]
    far = [one for one in alive if one not in near]
    return near[0], [near[0], *far] if far else []  # near[0] is the most usual one


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two preprocessings make nearly the same images: they differ little in mean and deviation or in a sharp
    interpolation, or are neighbouring sizes."""
    if replace(one, size=other.size) == other:
        return neighbours(one.size[0], other.size[0])
    if replace(one, interpolation=other.interpolation) == other:
        return {one.interpolation, other.interpolation} <= SHARP
    if replace(one, mean=other.mean, std=other.std) != other:
        return False
    means = max(abs(a - b) for a, b in zip(one.mean, other.mean, strict=True))
    ratios = max(max(a / b, b / a) for a, b in zip(one.std, other.std, strict=True))
    return means <= ALIKE[0] and ratios <= 1 + ALIKE[1]


def _difference(answers: Answers, one: Preprocessing, chosen: Preprocessing, count: int) -> tuple[float, float, float]:
    """Difference of accuracy on the same images, with its 95 % interval by the normal approximation."""
    pairs = answers.correct(one, count).astype(float) - answers.correct(chosen, count)
    mean, half = float(pairs.mean()), half_width(pairs, NORMAL)
    return mean, mean - half, mean + half
