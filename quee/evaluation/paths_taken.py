"""Which path every test image takes under a policy at a budget, what is spent on it, and whether the answer is right."""

from dataclasses import dataclass

import numpy as np

from quee.paths import PathTree
from quee.policies.base import Router, simulate_behind
from quee.policies.methods import Method
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.policies.walks import walks_of


@dataclass(frozen=True)
class PathsTaken:
    """Test images T under one operating point of a policy."""

    tree: PathTree
    sample: np.ndarray
    """(T,) sample ids, rising."""
    label: np.ndarray
    """(T,)"""
    node: np.ndarray
    """(T,) where each leaves."""
    cost: np.ndarray
    """(T,) all that is spent on it."""
    segment: np.ndarray
    """(N,) cost of a node's last segment."""
    right: np.ndarray
    """(T,) bool."""
    sure: np.ndarray
    """(T,) probability that the node's head gives the label."""
    answer: np.ndarray | None = None
    """(T,) classes answered; None where the policy makes its answers itself."""

    def __len__(self) -> int:
        return len(self.sample)

    def extremes(self, label: int) -> tuple[int, int] | None:
        """Rows of a class's easiest and hardest image: least and most cost, and of equal ones the surest and the least sure.

        None where there are fewer than two images of it.
        """
        rows = np.flatnonzero(self.label == label)
        if len(rows) < 2:
            return None
        order = rows[np.lexsort((self.sample[rows], -self.sure[rows], self.cost[rows].round(9)))]
        return int(order[0]), int(order[-1])

    def spent(self) -> list[dict[str, float]]:
        """Mean cost of each segment by the precision that it runs at."""
        found: list[dict[str, float]] = [{} for _ in range(self.tree.segments)]
        for node, count in zip(*np.unique(self.node, return_counts=True), strict=True):
            for place, step in enumerate(self.tree.lineage(int(node))):
                precision, cost = str(self.tree.paths[step][-1]), float(self.segment[step]) * int(count) / len(self)
                found[place][precision] = found[place].get(precision, 0.0) + cost
        return found


def policy_and_sweep(setting: Setting, method: Method) -> tuple[Router, Sweep] | None:
    """A method's policy and its operating points; None where it cannot be fitted in this setting."""
    policy = method.of(setting)
    if policy is None:
        return None
    first_step = setting.options.first_step if setting.options else "rollout"
    return policy, routed_sweep(method.shown, setting, policy, first_step)


def paths_taken(setting: Setting, policy: Router, sweep: Sweep, budget: float) -> PathsTaken:
    """The test images under the point of a policy's sweep that serves the budget, the heavier one where it lies between two."""
    assert sweep.knobs is not None
    assert sweep.first is not None
    at = [int(sweep.weights(budget)[0].argmax())]
    cache, tree = setting.caches["test"], setting.tree
    walks = walks_of(policy, cache)
    node = simulate_behind(tree, policy, cache.features, sweep.knobs[at], sweep.first[at], walks)[:, 0]
    own = any(part.name in walks for part in policy.parts(sweep.knobs[at]))
    return PathsTaken(
        tree,
        cache.sample_id,
        cache.label,
        node,
        sweep.costs["test"][:, at[0]],
        setting.costs.segment,
        sweep.errors["test"][:, at[0]] < 0.5,
        np.take_along_axis(cache.p_label, node[:, None], axis=1)[:, 0],
        None if own else np.take_along_axis(cache.prediction, node[:, None], axis=1)[:, 0],
    )
