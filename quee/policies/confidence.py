"""Early exits by a threshold on the exit head's confidence or entropy, at fixed precisions."""

from collections.abc import Collection, Iterator

import numpy as np

from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.policies.thresholds import Thresholds


class Confidence(Thresholds):
    """Exits where the largest probability reaches the threshold."""

    measures: Collection[str] = ("max_probability",)

    def score(self, features: np.ndarray) -> np.ndarray:
        return self.column(features, "max_probability")


class Entropy(Thresholds):
    """Exits where the entropy, in nats, is at most the threshold."""

    measures: Collection[str] = ("max_probability", "entropy")
    sign = -1.0

    def score(self, features: np.ndarray) -> np.ndarray:
        return -self.column(features, "entropy")


def early_exits(setting: Setting) -> Iterator[Sweep]:
    """`confidence_PRECISION` and `entropy_PRECISION`: each uniform precision alone, references included."""
    for name, nodes, references in setting.uniform():
        alone = setting.along(name, nodes, references)
        for kind, policy in (("confidence", Confidence), ("entropy", Entropy)):
            points = policy.along(alone, [(0,) * len(nodes)], setting.points)
            yield routed_sweep(f"{kind}_{name}", alone, policy.on(alone, points))
