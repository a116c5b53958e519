"""A bundle under shift: corrupted images and other class frequencies, against static networks of the same backbone.

Four corruptions at five severities, after Hendrycks and Dietterich (2019), scaled to small images. Operating points are
those found on validation. The study asks three questions: is the budget still kept, does a stream hold it by steering,
and does routing fail before the classifier does? The gap to the best mixture of static networks at the realised cost
answers the last: routing fails where the gap is below 0 while the static networks still work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from quee.data.preprocessing import unit
from quee.hull import hull
from quee.intervals import interval, resamples

if TYPE_CHECKING:
    from quee.runtime import AdaptiveClassifier

Row = dict[str, Any]

LEVELS: dict[str, tuple[float, float, float, float, float]] = {
    "noise": (0.05, 0.1, 0.15, 0.2, 0.3),
    "blur": (0.5, 0.75, 1.0, 1.5, 2.0),
    "contrast": (0.6, 0.45, 0.3, 0.2, 0.1),
    "rotation": (10.0, 20.0, 30.0, 45.0, 60.0),
}
"""Level by severity. noise: standard deviation, full range 1. blur: standard deviation in pixels for images of up to 28
pixels, in proportion for larger ones. contrast: remaining share. rotation: degrees."""
SEVERITIES = (1, 2, 3, 4, 5)
IMBALANCE = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Frequency of the first class relative to the last, by severity; geometric between them."""
BATCH = 250
STREAM = 1000
"""Images, drawn with replacement, over which a stream is to hold its budget."""


def corrupted(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Images uint8 (n, h, w, c) under a corruption; severity 0 changes nothing.

    Each image has its own noise or direction of rotation. Raises ValueError for an unknown corruption or severity.
    """
    if kind not in LEVELS or severity not in (0, *SEVERITIES):
        raise ValueError(f"corruption {kind!r} at severity {severity}; valid: {', '.join(LEVELS)} at 0 to 5")
    if severity == 0:
        return images
    level = LEVELS[kind][severity - 1]
    x = images.astype(np.float32) / 255
    if kind == "noise":
        x = np.stack([i + np.random.default_rng([seed, k]).normal(0, level, i.shape) for k, i in enumerate(x)])
    elif kind == "blur":
        sigma = level * max(1.0, x.shape[1] / 28)
        x = ndimage.gaussian_filter(x, (0, sigma, sigma, 0))
    elif kind == "contrast":
        mean = x.mean(axis=(1, 2), keepdims=True)
        x = mean + level * (x - mean)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], len(x))
        turned = [
            ndimage.rotate(i, s * level, axes=(0, 1), reshape=False, order=1, mode="nearest")
            for s, i in zip(signs, x, strict=True)
        ]
        x = np.stack(turned)
    found: np.ndarray = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return found


def imbalanced(labels: np.ndarray, classes: int, ratio: float) -> np.ndarray:
    """Sample weights (n,) with mean 1 that make class 0 `ratio` times as frequent as the last class."""
    share = np.geomspace(ratio, 1, classes)
    weights: np.ndarray = (share / np.maximum(np.bincount(labels, minlength=classes), 1))[labels]
    return weights / weights.mean()


@dataclass(frozen=True)
class Outcome:
    """Results on n images: errors and costs of the bundle by budget, errors of the static networks."""

    errors: np.ndarray
    """(n, budgets) bool"""
    costs: np.ndarray
    """(n, budgets)"""
    predicted: np.ndarray
    """(budgets,) mean predicted error at the gates visited before the last; NaN for a network of one segment."""
    static: np.ndarray
    """(n, precisions) bool"""


def outcome(
    classifier: "AdaptiveClassifier", images: np.ndarray, labels: np.ndarray, budgets: Sequence[float]
) -> Outcome:
    """Run the bundle at every budget, and the whole network at every precision of its tree.

    Images uint8 (n, h, w, c) at the backbone's size.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        x = prepared(classifier, images[rows])
        routed = [classifier.route_prepared(x, budget=budget) for budget in budgets]
        said = np.stack([static_predictions(classifier, x, b) for b in range(len(classifier.tree.precisions))], axis=1)
        parts.append(
            (
                np.stack([r.label != labels[rows] for r in routed], axis=1),
                np.stack([r.cost for r in routed], axis=1),
                np.stack([_known(r.predicted_error) for r in routed], axis=1),
                said != labels[rows, None],
            )
        )
    errors, costs, predicted, static = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Outcome(errors, costs, _known(predicted.T), static)


def prepared(classifier: "AdaptiveClassifier", images: np.ndarray) -> np.ndarray:
    """Images uint8 (n, h, w, c) at the backbone's size to its input."""
    return classifier.transform.normalise(unit(classifier.transform.coloured(images)))


def streamed(
    classifier: "AdaptiveClassifier", images: np.ndarray, order: np.ndarray, budget: float
) -> tuple[np.ndarray, np.ndarray]:
    """Answers and costs (n,) of a stream that takes the images in an order (n,) and starts with the condition."""
    stream = classifier.stream(budget=budget)
    parts = [
        stream.route_prepared(prepared(classifier, images[order[start : start + BATCH]]))
        for start in range(0, len(order), BATCH)
    ]
    return np.concatenate([part.label for part in parts]), np.concatenate([part.cost for part in parts])


def _known(values: np.ndarray) -> np.ndarray:
    """Means (n,) over the values of each row (n, k) that are not NaN; NaN where all are."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)


def static_predictions(classifier: "AdaptiveClassifier", x: np.ndarray, choice: int) -> np.ndarray:
    """Answers (n,) of the whole network at one of the tree's precisions."""
    import torch

    precision, state = classifier.tree.precisions[choice], torch.from_numpy(x)
    with torch.inference_mode():
        for segment in range(1, classifier.tree.segments + 1):
            state = classifier.backbone.run(segment, precision, state)
        log_probs, _ = classifier.view(classifier.tree.segments, precision, state)
    found: np.ndarray = log_probs.argmax(axis=1)
    return found


def shift_rows(
    classifier: "AdaptiveClassifier",
    images: np.ndarray,
    labels: np.ndarray,
    budgets: Sequence[float],
    kinds: Sequence[str] = (*LEVELS, "imbalance"),
    severities: Sequence[int] = SEVERITIES,
    repeats: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Iterator[Row]:
    """A row per condition and budget, the clean images first (`kind` "none").

    `gap` is the bundle's accuracy minus that of static networks mixed to the cost really spent, along their hull on the
    clean images. `gap_low` and `gap_high` are its 95 % interval (paired bootstrap over images, or over their
    `groups` (n,)). `overspent` is cost / budget - 1. `held_cost`, `held_accuracy` and `held_overspent` are those of a
    stream of STREAM images that steers its budget (`AdaptiveClassifier.stream`).
    """
    clean = outcome(classifier, images, labels, budgets)
    cost = static_cost(classifier)
    kept = hull(cost, 1 - clean.static.mean(axis=0))
    draws = resamples(len(labels), repeats, seed, groups)

    def rows(kind: str, severity: int, shown: np.ndarray, found: Outcome, weights: np.ndarray) -> Iterator[Row]:
        order = np.random.default_rng(seed).choice(len(labels), STREAM, p=weights / weights.sum())
        for index, budget in enumerate(budgets):
            said, paid = streamed(classifier, shown, order, budget)
            error, spent = found.errors[:, index] * weights, found.costs[:, index] * weights
            mix = _mixture(cost[kept], float(spent.mean()))
            gap = found.static[:, kept] @ mix * weights - error
            low, high = interval(draws @ gap)
            predicted = float(found.predicted[index])
            yield {
                "accuracy": float(1 - error.mean()),
                "budget": float(budget),
                "cost": float(spent.mean()),
                "gap": float(gap.mean()),
                "gap_high": float(high),
                "gap_low": float(low),
                "held_accuracy": float(np.mean(said == labels[order])),
                "held_cost": float(paid.mean()),
                "held_overspent": float(paid.mean() / budget - 1),
                "kind": kind,
                "overspent": float(spent.mean() / budget - 1),
                "predicted_error": None if isnan(predicted) else predicted,
                "severity": severity,
                "static_accuracy": float(1 - (found.static[:, kept[-1]] * weights).mean()),
            }

    even = np.ones(len(labels))
    yield from rows("none", 0, images, clean, even)
    for kind in kinds:
        for severity in severities:
            if kind == "imbalance":
                weights = imbalanced(labels, len(classifier.classes), IMBALANCE[severity - 1])
                yield from rows(kind, severity, images, clean, weights)
            else:
                shown = corrupted(images, kind, severity, seed)
                yield from rows(kind, severity, shown, outcome(classifier, shown, labels, budgets), even)


def static_cost(classifier: "AdaptiveClassifier") -> np.ndarray:
    """(precisions,) cost of the whole network at each precision of the tree."""
    return np.array([classifier.static_costs[str(p)] for p in classifier.tree.precisions])


def _mixture(cost: np.ndarray, spent: float) -> np.ndarray:
    """Weights of static networks, rising in cost, that together cost `spent`; the nearest network where none can."""
    weights = np.zeros(len(cost))
    right = int(np.searchsorted(cost, spent))
    if right in (0, len(cost)):
        weights[min(right, len(cost) - 1)] = 1
        return weights
    weights[right] = (spent - cost[right - 1]) / (cost[right] - cost[right - 1])
    weights[right - 1] = 1 - weights[right]
    return weights
