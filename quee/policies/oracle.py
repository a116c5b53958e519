"""`oracle`: the path with least error + λ · cost, knowing the errors. A bound, not a policy."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache


def oracle_nodes(cache: "FeatureCache", static_cost: np.ndarray, trade_offs: np.ndarray) -> np.ndarray:
    """Nodes (S, Λ) of the cheapest correct static path (at λ small; at λ large, of the cheapest)."""
    nodes = np.empty((len(cache), len(trade_offs)), dtype=np.int32)
    for column, trade_off in enumerate(trade_offs):
        nodes[:, column] = (cache.error + trade_off * static_cost).argmin(axis=1)
    return nodes
