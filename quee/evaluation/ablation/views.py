"""Smaller trees and fewer features, cut out of a feature cache as if the cache had been built with them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quee.cache.read import FeatureCache, no_references
from quee.errors import UsageError
from quee.paths import PathTree, path_name
from quee.precision import Precision
from quee.settings.paths import Considered

EMBEDDING = "embedding_"
"""Prefix of the names of state features from the compressed embedding; the others are measures of uncertainty."""


def smaller(
    tree: PathTree, precisions: Sequence[str], gates: Sequence[int], considered: Considered
) -> tuple[PathTree, np.ndarray]:
    """The paths of a tree that use only some precisions, and that exit or change precision only at some gates.

    Returns the smaller tree, whose segments reach from gate to gate, and (N',) the node of `tree` for each of its nodes.
    Raises UsageError for gates or precisions that the tree does not have, or where no path to the last gate is left.
    """
    if (
        list(gates) != sorted({*gates})
        or len(gates) < min(2, tree.segments)
        or gates[0] < 1
        or gates[-1] != tree.segments
    ):
        raise UsageError(
            f"gates {list(gates)}: give at least two that rise from 1 or above to {tree.segments}, the last"
        )
    chosen = [Precision(name) for name in precisions]
    if strange := [str(p) for p in chosen if p not in tree.precisions]:
        raise UsageError(f"precision {strange[0]!r} is not in the tree; it has {', '.join(map(str, tree.precisions))}")
    spans = np.diff((0, *gates))
    known = {path: node for node, path in enumerate(tree.paths)}
    names, nodes = [], []
    for path in PathTree(chosen, len(gates), considered).paths:
        whole = tuple(precision for precision, span in zip(path, spans, strict=False) for _ in range(span))
        if whole in known:
            names.append(path_name(path))
            nodes.append(known[whole])
    small = PathTree.from_names([str(p) for p in chosen], len(gates), names)
    if not len(small.nodes_at(small.segments)):
        raise UsageError(
            f"no path of the tree goes on to the last gate with {', '.join(precisions)} and gates {list(gates)}"
        )
    return small, np.array(nodes)


def view(cache: FeatureCache, small: PathTree, nodes: np.ndarray, embedding: bool = True) -> FeatureCache:
    """The cache of a smaller tree. Heads and decisions at removed gates cost nothing, nor does an unused embedding."""
    names = cache.description["feature_names"]
    kept = [i for i, name in enumerate(names) if embedding or not name.startswith(EMBEDDING)]
    description = {
        **cache.description,
        "feature_names": [names[i] for i in kept],
        "nodes": _records(cache, small, nodes, embedding),
        "precisions": [str(p) for p in small.precisions],
        "reference_precisions": [],
        "references": [],
        "segments": small.segments,
    }
    return replace(
        cache,
        tree=small,
        description=description,
        prediction=cache.prediction[:, nodes],
        error=cache.error[:, nodes],
        p_label=cache.p_label[:, nodes],
        features=cache.features[:, nodes][:, :, kept],
        log_probs=None,
        head_log_probs=None if cache.head_log_probs is None else cache.head_log_probs[:, nodes],
        **no_references(len(cache), len(kept)),
    )


def _records(cache: FeatureCache, small: PathTree, nodes: np.ndarray, embedding: bool) -> list[dict[str, Any]]:
    before, found = cache.description["nodes"], []
    for index, node in enumerate(nodes):
        parent = int(small.parent[index])
        start = _gate_before(cache.tree, nodes, parent)
        run = cache.tree.lineage(int(node))[start:]
        record = before[node]
        found.append(
            {
                **record,
                "gate": int(small.gate[index]),
                "node": index,
                "parent": parent,
                "path": small.name(index),
                "predictor_cost": record["predictor_cost"] if embedding else 0.0,
                "segment_cost": float(sum(before[n]["segment_cost"] for n in run)),
            }
        )
    return found


def _gate_before(tree: PathTree, nodes: np.ndarray, index: int) -> int:
    """Gate in `tree` of the smaller tree's node `index`; 0 for its root."""
    return 0 if index < 0 else int(tree.gate[nodes[index]])
