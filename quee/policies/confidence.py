"""Early exits by a threshold on the exit head's confidence or entropy, at fixed precisions."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from quee.evaluation.sweep import Setting, Sweep, hull_of

HULL_THRESHOLDS = 25


def exits_by_threshold(score: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Index (S, T) of the first gate whose score reaches its threshold, else of the last.

    Scores (S, gates) or, by threshold, (S, gates, T), larger: surer; thresholds (T,) or, by gate, (gates, T).
    """
    reached = (score[:, :, None] if score.ndim == 2 else score) >= thresholds
    reached[:, -1] = True
    return reached.argmax(axis=1)


def thresholds_of(score: np.ndarray, points: int) -> np.ndarray:
    """Thresholds spread over the scores seen before the last gate, from never to always leaving; never, if that is all."""
    if score.shape[1] == 1:
        return np.array([np.inf])
    quantiles = np.quantile(score[:, :-1], np.linspace(0, 1, points - 1))
    return np.append(quantiles, np.inf)


def _sweep(
    setting: Setting, name: str, nodes: list[int], references: bool, column: int, sign: int, points: int
) -> Sweep:
    def score(split: str) -> np.ndarray:
        return sign * setting.features(split, references)[:, nodes, column].astype(np.float64)

    spent = setting.spent(nodes, references)
    thresholds = thresholds_of(score("validation"), points)
    errors, cost = {}, {}
    for split in setting.splits:
        gate = exits_by_threshold(score(split), thresholds)
        errors[split] = np.take_along_axis(setting.errors(split, references)[:, nodes], gate, axis=1)
        cost[split] = spent[gate]
    return Sweep(name, "threshold", sign * thresholds, errors, cost)


def early_exits(setting: Setting) -> Iterator[Sweep]:
    """`confidence_PRECISION` and `entropy_PRECISION`: leave at the first gate that is sure enough."""
    names = setting.feature_names
    for name, nodes, references in setting.uniform():
        yield _sweep(
            setting, f"confidence_{name}", nodes, references, names.index("max_probability"), 1, setting.points
        )
        yield _sweep(setting, f"entropy_{name}", nodes, references, names.index("entropy"), -1, setting.points)


def confidence_hull(setting: Setting) -> Iterator[Sweep]:
    """`confidence_hull`: confidence exits along every sequence of precisions, the convex hull chosen on validation."""
    tree, column = setting.tree, setting.feature_names.index("max_probability")
    sweeps = []
    for sequence in product(range(len(tree.precisions)), repeat=tree.segments):
        nodes, node = [], -1
        for choice in sequence:
            node = int(tree.children[node, choice])
            nodes.append(node)
            if node < 0:
                break
        if node >= 0:
            sweeps.append(_sweep(setting, "", nodes, False, column, 1, HULL_THRESHOLDS))
    yield hull_of("confidence_hull", sweeps)
