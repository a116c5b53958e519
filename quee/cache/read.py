"""Reading the feature cache: every held-out sample at every node, as arrays."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.ensembles import Ensembles
from quee.errors import IntegrityError
from quee.paths import PathTree, read_tree
from quee.work.io import count_rows, read_table, verify_digests

GROUPS = "groups.parquet"
"""File with the group of every sample (sample_id, group), where the data set has groups."""


@dataclass(frozen=True)
class FeatureCache:
    """Cached samples of some splits as arrays; axes: S samples, N nodes, F features."""

    tree: PathTree
    description: dict[str, Any]
    sample_id: np.ndarray
    """(S,) int64, rising."""
    split: np.ndarray
    """(S,) strings."""
    label: np.ndarray
    """(S,) int32."""
    prediction: np.ndarray
    """(S, N) int32: the nodes' answers, which are those of `ensembles`, if there are any, or else of the nodes' own heads. The
    next three fields are of the answers too."""
    error: np.ndarray
    """(S, N) bool."""
    p_label: np.ndarray
    """(S, N) float32."""
    features: np.ndarray
    """(S, N, F) float32."""
    reference_error: np.ndarray
    """(S, R) bool, for the references' nodes in their order."""
    reference_features: np.ndarray
    """(S, R, F) float32."""
    reference_prediction: np.ndarray
    """(S, R) int32."""
    log_probs: np.ndarray | None = None
    """(S, U + R, classes) float16 at the nodes of `uniform_nodes`, then at the references'; None where they were not read, or
    where the cache has the most probable classes alone."""
    group: np.ndarray | None = None
    """(S,) int64, the samples that belong together; None where the data set has no groups."""
    head_log_probs: np.ndarray | None = None
    """(S, N, classes) float16 of every node's own head, from which answers are made; None as above."""
    ensembles: Ensembles | None = None
    """The ensembles that answer; None where every node answers with its own head alone."""
    own_error: np.ndarray | None = None
    """(S, N) bool of the nodes' own heads; None where these answer."""

    def __len__(self) -> int:
        return len(self.sample_id)

    def select(self, rows: np.ndarray) -> "FeatureCache":
        """The cache of some samples: a mask or indices."""
        kept = {
            f.name: getattr(self, f.name)[rows] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)
        }
        return replace(self, **kept)

    def of(self, split: str) -> "FeatureCache":
        return self.select(self.split == split)

    def heads_at(self, nodes: Sequence[int], references: bool = False) -> np.ndarray | None:
        """Log-probabilities (S, nodes, classes), float16, of the own heads at nodes of the tree, or of the references.

        None where the cache does not have them: as above, or away from uniform paths where only those were read.
        """
        if self.head_log_probs is not None and not references:
            return self.head_log_probs[:, nodes]
        if self.log_probs is None:
            return None
        known = uniform_nodes(self.tree)
        if references:
            rows = len(known) + np.array(nodes)
            return self.log_probs[:, rows] if rows.max(initial=0) < self.log_probs.shape[1] else None
        return self.log_probs[:, np.searchsorted(known, nodes)] if np.isin(nodes, known).all() else None

    def along(self, tree: PathTree, nodes: Sequence[int], references: bool) -> "FeatureCache":
        """The cache of one uniform path; its nodes, or those of a reference, become the tree, and their own heads are kept."""
        records = self.description["references" if references else "nodes"]
        return replace(
            self,
            tree=tree,
            description={**self.description, "nodes": [records[node] for node in nodes]},
            prediction=(self.reference_prediction if references else self.prediction)[:, nodes],
            error=(self.reference_error if references else self.error)[:, nodes],
            features=(self.reference_features if references else self.features)[:, nodes],
            own_error=None,
            log_probs=self.heads_at(nodes, references),
            head_log_probs=None,
        )


def uniform_nodes(tree: PathTree) -> np.ndarray:
    """(U,) the nodes along paths of one precision, rising."""
    return np.array([node for node, path in enumerate(tree.paths) if len(set(path)) == 1], np.int64)


def read_cache(
    folder: Path, log_probs: bool = False, splits: Collection[str] | None = None, heads: bool = False
) -> FeatureCache:
    """Read and verify a cache, or some splits of it, as the nodes' own heads answer.

    With `log_probs` also the log-probabilities along uniform paths, with `heads` those of all nodes. The arrays are filled
    file by file, so that reading takes little more memory than they do. Raises IntegrityError naming a file that is missing,
    truncated or altered.
    """
    tree, description = read_tree(folder)
    verify_digests(folder, description["files"])
    names = sorted(description["files"])
    own, more = ([folder / name for name in names if name.startswith(kind)] for kind in ("part-", "reference-"))
    classes = len(description["classes"])
    nodes: dict[str, Any] = _filled(own, len(tree), splits, (*BY_NODE, "log_probs") if heads else BY_NODE)
    head_log_probs = _whole(nodes.pop("log_probs", None), classes)
    references = no_references(len(nodes["sample_id"]), nodes["features"].shape[-1])
    if count := len(description["references"]):
        found = _filled(more, count, splits)
        references = {name: found[name.removeprefix("reference_")] for name in references}
    kept = None
    if log_probs:
        ways = _log_probs(own, uniform_nodes(tree), splits)
        others = _log_probs(more, len(tree) + np.arange(count), splits) if count else ways[:, :0]
        kept = _whole(np.concatenate([ways, others], axis=1), classes)
    pa.default_memory_pool().release_unused()
    group = _groups(folder, nodes["sample_id"]) if GROUPS in names else None
    return FeatureCache(
        tree, description, **nodes, **references, log_probs=kept, group=group, head_log_probs=head_log_probs
    )


def _whole(log_probs: np.ndarray | None, classes: int) -> np.ndarray | None:
    """Log-probabilities (S, nodes, kept classes); None where they are of the most probable classes alone."""
    return None if log_probs is None or log_probs.shape[2] != classes else log_probs


def _groups(folder: Path, samples: np.ndarray) -> np.ndarray:
    """Groups (S,) of the samples; raises IntegrityError where the file lacks one."""
    table = read_table(folder / GROUPS)
    known = table["sample_id"].to_numpy()
    at = np.searchsorted(known, samples).clip(max=len(known) - 1)
    if not np.array_equal(known[at], samples):
        raise IntegrityError(f"{folder / GROUPS}: its samples are not those of the cache")
    found: np.ndarray = table["group"].to_numpy()[at]
    return found


def no_references(samples: int, features: int) -> dict[str, Any]:
    """Fields of the cache of a tree without references."""
    return {
        "reference_error": np.zeros((samples, 0), bool),
        "reference_features": np.zeros((samples, 0, features), np.float32),
        "reference_prediction": np.zeros((samples, 0), np.int32),
    }


BY_SAMPLE = ("sample_id", "split", "label")
BY_NODE = ("prediction", "error", "p_label", "features")


def _filled(
    paths: Sequence[Path], nodes: int, splits: Collection[str] | None, by_node: Sequence[str] = BY_NODE
) -> dict[str, np.ndarray]:
    """The columns of `BY_SAMPLE` (S,) and those `by_node` (S, nodes, …), of the samples of some splits or of all."""
    rows = sum(map(count_rows, paths))
    if rows % nodes:
        raise IntegrityError(f"{paths[0].parent}: {rows} rows are not a multiple of {nodes} nodes")
    arrays: dict[str, np.ndarray] = {}
    end = 0
    for path in paths:
        table = read_table(path, [*BY_SAMPLE, *by_node])
        kept = _kept(table, splits)
        start, end = end, end + (len(table) if kept is None else int(kept.sum()))
        for name in (*BY_SAMPLE, *by_node):
            values = _values(table[name])
            if name not in arrays:  # memory of rows that are left out is never touched
                arrays[name] = np.empty((rows, *values.shape[1:]), values.dtype)
            arrays[name][start:end] = values if kept is None else values[kept]
    found = {name: arrays[name][:end:nodes].copy() for name in BY_SAMPLE}
    return found | {name: arrays[name][:end].reshape(-1, nodes, *arrays[name].shape[1:]) for name in by_node}


def _kept(table: pa.Table, splits: Collection[str] | None) -> np.ndarray | None:
    """Which rows are of the splits; None for all."""
    return None if splits is None else np.isin(_values(table["split"]), list(splits))


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """A column as an array (rows, …); equal strings are one object."""
    whole = column.combine_chunks()
    if pa.types.is_dictionary(whole.type):
        names: np.ndarray = whole.dictionary.to_numpy(zero_copy_only=False)[whole.indices.to_numpy()]
        return names
    if pa.types.is_fixed_size_list(whole.type):
        return whole.values.to_numpy().reshape(-1, whole.type.list_size)  # type: ignore[no-any-return]
    return whole.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _log_probs(paths: Sequence[Path], nodes: np.ndarray, splits: Collection[str] | None) -> np.ndarray:
    """Column `log_probs` at some nodes, rising: (S, nodes, kept classes) float16."""
    parts = []
    for path in paths:
        table = read_table(path, ["node", "split", "log_probs"])
        rows, kept = np.isin(table["node"].to_numpy(), nodes), _kept(table, splits)
        parts.append(_values(table["log_probs"])[rows if kept is None else rows & kept])
    found = np.concatenate(parts)
    return found.reshape(-1, len(nodes), found.shape[1])


def arrays_of(table: pa.Table, columns: Sequence[str], nodes: int) -> dict[str, np.ndarray]:
    """Columns of a table with `nodes` rows per sample: (S, nodes), of `features` (S, nodes, F)."""
    values = {name: _values(table[name]) for name in columns}
    return {name: value.reshape(-1, nodes, *value.shape[1:]) for name, value in values.items()}
