"""Comparison of the paths of images with expected paths: where two paths differ, and how close the steps were."""

from dataclasses import dataclass

import numpy as np

from quee.policies.base import EXIT, Router
from quee.runtime.executor import Executor, Flight


@dataclass(frozen=True)
class Routes:
    """A classifier's results on the canary's n images at its k points."""

    node: np.ndarray
    """(k, n) node at which each image leaves."""
    label: np.ndarray
    """(k, n)"""
    lead: np.ndarray
    """(k, n) probability of the label minus that of the second class."""
    features: np.ndarray
    """(k, n, segments · F) state features of the gates visited; 0 after the exit."""
    carried: np.ndarray
    """(k, n, segments, M) what the policies carry from the gates visited."""


def routes(executor: Executor, images: np.ndarray, trade_offs: np.ndarray, first: np.ndarray) -> Routes:
    """Results of prepared images (n, c, h, w) at trade-offs (k,) after first steps (k,)."""
    n = len(images)
    nodes, labels, leads, features, carried = [], [], [], [], []
    for trade_off, step in zip(trade_offs.tolist(), first.tolist(), strict=True):
        samples = executor.samples(n)
        samples.features[:] = 0
        samples.admit(slice(None), np.full(n, trade_off))
        label, lead = np.empty(n, np.int32), np.empty(n, np.float32)

        def ended(
            gate: int, slots: np.ndarray, log_probs: np.ndarray, label: np.ndarray = label, lead: np.ndarray = lead
        ) -> None:
            label[slots] = log_probs.argmax(axis=1)
            two = np.exp(np.sort(log_probs, axis=1)[:, -2:])
            lead[slots] = two[:, -1] - (two[:, 0] if two.shape[1] > 1 else 0.0)

        executor.run(samples, Flight(np.arange(n), images), np.full(n, step), ended)
        nodes.append(samples.node.astype(np.int32))
        labels.append(label)
        leads.append(lead)
        features.append(samples.features.copy())
        carried.append(samples.carried.copy())
    return Routes(np.stack(nodes), np.stack(labels), np.stack(leads), np.stack(features), np.stack(carried))


def gap(
    policy: Router,
    expected: int,
    found: int,
    features: np.ndarray,
    trade_off: float,
    carried: np.ndarray | None = None,
) -> float:
    """Difference in value between the two steps at which the paths to two nodes part; infinite where no step is shared.

    `features` (N, F) are a sample's features by node, at least for the nodes on the way to `expected`; `carried` (segments, M)
    is what the policy carries on this way, if it does.
    """
    tree = policy.tree
    a, b = tree.lineage(expected), tree.lineage(found)
    shared = sum(1 for x, y in zip(a, b, strict=False) if x == y)
    if not shared:
        return float("inf")
    steps = [EXIT if len(path) == shared else int(tree.choice[path[shared]]) for path in (a, b)]
    here = int(a[shared - 1])
    (part,) = policy.parts(np.array([trade_off]))
    own = part.policy
    kept = np.zeros((1, own.carries))
    if own.carries and carried is not None:
        kept = carried[None, shared - 1, : own.carries]
    table = own.read(shared, np.array([here]), own.seen(features[a[:shared]].reshape(1, -1), kept))
    values = own.values(table, part.knob)[0]
    return abs(float(values[steps[0] - EXIT] - values[steps[1] - EXIT]))
