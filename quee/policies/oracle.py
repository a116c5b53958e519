"""`oracle`: the path with least error + λ · cost when the errors are known. It is a bound, not a policy."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from quee.policies.base import trade_offs
from quee.policies.sweep import Setting, Sweep

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache


def oracle_nodes(cache: "FeatureCache", static_cost: np.ndarray, trade_offs: np.ndarray) -> np.ndarray:
    """Nodes (S, Λ) with least error + λ · cost of the static path; at small λ, the cheapest path that is right."""
    nodes = np.empty((len(cache), len(trade_offs)), dtype=np.int32)
    for column, trade_off in enumerate(trade_offs):
        nodes[:, column] = (cache.error + trade_off * static_cost).argmin(axis=1)
    return nodes


def oracle(setting: Setting) -> Iterator[Sweep]:
    """`oracle`: a static path per sample and λ."""
    values = trade_offs(setting.points)
    nodes = {split: oracle_nodes(cache, setting.costs.static, values) for split, cache in setting.caches.items()}
    errors = {split: np.take_along_axis(setting.errors(split), n, axis=1) for split, n in nodes.items()}
    costs = {split: setting.costs.static[n] for split, n in nodes.items()}
    yield Sweep("oracle", "lambda", values, errors, costs, nodes)
