"""Points for which the network runs again: exit heads fitted in another way, or a reference precision in the tree.

Only nodes whose result can differ are run again: with other heads, those at all gates but the last; with an added
precision, those on paths that contain it. The samples of the certification split are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quee.cache.read import FeatureCache, arrays_of, no_references
from quee.errors import UsageError
from quee.evaluation.ablation.fit import USED
from quee.paths import PathTree
from quee.settings.experiment import Experiment

COLUMNS = {"prediction": "prediction", "p_label": "p_label", "features": "features", "head_log_probs": "log_probs"}
"""Fields of a cache of own heads that evaluation reads, with their columns."""


@dataclass(frozen=True)
class Variant:
    """How a point's network differs from the network behind the feature cache."""

    heads: str | None = None
    """`exits.prefixes` of its heads, where that differs from the experiment's."""
    added: str | None = None
    """A reference precision that is added to its tree."""

    def facts(self) -> dict[str, str]:
        return {name: value for name, value in (("heads", self.heads), ("added", self.added)) if value is not None}


AS_CACHED = Variant()


def evaluated(cache: FeatureCache) -> FeatureCache:
    """The samples that ablations use."""
    return cache.select(np.isin(cache.split, USED))


def variant_tree(experiment: Experiment, tree: PathTree, variant: Variant) -> PathTree:
    """Considered paths of a variant; raises UsageError where a precision was not quantized or there are too many paths."""
    if variant.added is None:
        return tree
    paths = experiment.paths
    if variant.added not in paths.references:
        raise UsageError(
            f"ablate.added: {variant.added!r} is not among paths.references, whose networks there are; "
            f"they are {', '.join(paths.references) or 'none'}"
        )
    names = [*map(str, tree.precisions), variant.added]
    return PathTree(names, tree.segments, paths.considered, paths.max_nodes)


def known_nodes(cached: PathTree, tree: PathTree, same_heads: bool) -> np.ndarray:
    """(N,) for each node of a tree, the equal node of the cached tree; -1 where the network has to run."""
    nodes = {path: node for node, path in enumerate(cached.paths)}
    found = [nodes.get(path, -1) if same_heads or len(path) == tree.segments else -1 for path in tree.paths]
    return np.array(found)


def to_run(tree: PathTree, known: np.ndarray) -> list[int]:
    """The unknown nodes and the nodes that lead to them, in the tree's order."""
    return sorted({node for unknown in np.flatnonzero(known < 0) for node in tree.lineage(int(unknown))})


def computed(shards: Iterable[bytes], run: list[int], known: np.ndarray) -> dict[str, np.ndarray]:
    """The fields `COLUMNS` of the unknown nodes, (S, nodes, …), from shards of the nodes `run`."""
    wanted = np.flatnonzero(known[run] < 0)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for data in shards:
        values = arrays_of(pq.read_table(pa.BufferReader(data)), list(COLUMNS.values()), len(run))
        for name, column in COLUMNS.items():
            parts[name].append(values[column][:, wanted])
    return {name: np.concatenate(column) for name, column in parts.items()}


def joined(
    cache: FeatureCache, tree: PathTree, description: dict[str, Any], known: np.ndarray, own: dict[str, np.ndarray]
) -> FeatureCache:
    """A variant's cache: known nodes come from `cache`, which holds `evaluated` samples, the others from `own`.

    Features at the last gate are unused, so the cached ones are kept.
    """
    old, new = np.flatnonzero(known >= 0), np.flatnonzero(known < 0)
    found: dict[str, Any] = {}
    for name in COLUMNS:
        before: np.ndarray | None = getattr(cache, name)
        if before is None:
            continue
        whole = np.empty((len(cache), len(tree), *before.shape[2:]), before.dtype)
        whole[:, old], whole[:, new] = before[:, known[old]], own[name]
        found[name] = whole
    return replace(
        cache,
        tree=tree,
        description=description,
        error=found["prediction"] != cache.label[:, None],
        **no_references(len(cache), cache.features.shape[2]),
        **found,
    )
