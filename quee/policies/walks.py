"""Policies that carry numbers along their paths, on a feature cache.

What such a policy has at a node depends only on the sample and the node, because a node is a path. So it is computed once
per node, and the simulation reads it like state features.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from quee.policies.base import Policy, Router, Walk

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache


def walk(policy: Policy, cache: "FeatureCache", nodes: Iterable[int] | None = None) -> Walk:
    """The walk of a policy on the samples of a cache, at `nodes` with all nodes before them, rising; by default where it stands.

    Raises ValueError where the policy needs log-probabilities that the cache does not have.
    """
    tree = cache.tree
    if nodes is None:
        nodes = range(len(tree)) if policy.stands is None else np.flatnonzero(policy.stands).tolist()
    carried, error = np.zeros((len(cache), len(tree), policy.carries)), cache.error.copy()
    start = np.zeros((len(cache), policy.carries))
    for node in nodes:
        parent = int(tree.parent[node])
        said = cache.heads_at(tree.lineage(node)) if policy.classes else cache.prediction[:, node]
        if said is None:
            raise ValueError("the cache does not have the log-probabilities of all classes that the policy needs")
        before = start if parent < 0 else carried[:, parent]
        carried[:, node], log_probs = policy.carry(np.full(len(cache), node), before, said)
        if log_probs is not None:
            error[:, node] = log_probs.argmax(axis=1) != cache.label
    return Walk(carried, error)


def walks_of(router: Router, cache: "FeatureCache") -> dict[str, Walk]:
    """The walks of those of its policies that carry anything, by name."""
    return {name: walk(policy, cache) for name, policy in router.policies().items() if policy.carries}
