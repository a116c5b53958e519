"""The feature cache as the gates answer: with ensembles of the heads visited in place of the own heads.

An answer decides a node's prediction and error and the state features that measure its uncertainty. What runs a network
without its earlier heads, such as a static path, keeps the own head (`FeatureCache.own_error`); so do the references.
"""

import sys
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quee.cache.read import FeatureCache, read_cache, uniform_nodes
from quee.ensembles import FILE, Ensembles, ensemble_bitflops, read_ensembles
from quee.errors import IntegrityError


def with_ensembles(cache: FeatureCache, wanted: bool = True) -> FeatureCache:
    """The cache with the answers of ensembles that are fitted on its own predictor split.

    They are left out, with a line that says so, where there is no predictor split, or where the cache has the most
    probable classes alone. Without `wanted` the own heads answer.
    """
    return answered(cache, fitted(cache) if wanted else None)


def fitted(cache: FeatureCache) -> Ensembles | None:
    """Ensembles of a cache of own heads, from its predictor split; None, with a line that says why, where they are left out."""
    rows = np.flatnonzero(cache.split == "predictor")
    if cache.head_log_probs is None:
        count = len(cache.description["classes"])
        _say_left_out(f"the cache has no log-probabilities of all {count} classes")
        return None
    if not len(rows):
        _say_left_out("there are no samples in split 'predictor'")
        return None
    return Ensembles.fit(cache.tree, cache.head_log_probs[rows], cache.label[rows])


@cache
def _say_left_out(reason: str) -> None:
    print(f"ensembles: left out, every exit answers with its own head, because {reason}", file=sys.stderr)


def answered(cache: FeatureCache, ensembles: Ensembles | None) -> FeatureCache:
    """A cache of own heads as ensembles answer; without ensembles as it is. Of the log-probabilities of all nodes, those along
    uniform paths are kept."""
    heads, tree, log_probs = cache.head_log_probs, cache.tree, cache.log_probs
    if heads is not None and log_probs is None:
        log_probs = heads[:, uniform_nodes(tree)]
    if ensembles is None or heads is None:
        return replace(cache, log_probs=log_probs, head_log_probs=None)
    prediction, p_label = np.empty_like(cache.prediction), np.empty_like(cache.p_label)
    features, rows = cache.features.copy(), np.arange(len(cache))
    for node in range(len(tree)):
        own = heads[:, tree.lineage(node)]
        answer, features[:, node] = ensembles(np.full(len(cache), node), own, cache.features[:, node])
        prediction[:, node] = answer.argmax(axis=1)
        p_label[:, node] = np.exp(answer[rows, cache.label])
    return replace(
        cache,
        description=_with_costs(cache.description, ensembles),
        prediction=prediction,
        error=prediction != cache.label[:, None],
        p_label=p_label,
        features=features,
        log_probs=log_probs,
        head_log_probs=None,
        ensembles=ensembles,
        own_error=cache.error,
    )


def _with_costs(description: dict[str, Any], ensembles: Ensembles) -> dict[str, Any]:
    """`tree.json` whose nodes have an `ensemble_cost`, which a static path does not pay."""
    unit = description["unit_bitflops"]
    nodes = [
        {**node, "ensemble_cost": ensemble_bitflops(node["gate"], ensembles.classes) / unit}
        for node in description["nodes"]
    ]
    return {**description, "nodes": nodes}


def read_answers(
    features: Path, targets: Path, splits: Collection[str] | None = None, log_probs: bool = False
) -> FeatureCache:
    """The cache of stage `features` as the ensembles of stage `targets` answer, or some splits of it.

    Raises IntegrityError as `read_cache` does, and where the ensembles do not fit the cache.
    """
    ensembles = read_ensembles(targets)
    cache = read_cache(features, log_probs, splits, heads=ensembles is not None)
    if ensembles is not None and (fault := ensembles.fault(cache.tree, len(cache.description["classes"]))):
        raise IntegrityError(f"{targets / FILE}: {fault}")
    return answered(cache, ensembles)
