"""Reading the feature cache: every held-out sample at every node, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.errors import IntegrityError
from quee.paths import PathTree, read_tree
from quee.work.io import read_table, verify_digests

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
    """(S, N) int32."""
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

    def log_probs_at(self, nodes: Sequence[int], references: bool) -> np.ndarray | None:
        """Log-probabilities (S, nodes, classes), float64, at nodes of a uniform path, or of a reference; None as above."""
        if self.log_probs is None:
            return None
        known = uniform_nodes(self.tree)
        rows = len(known) + np.array(nodes) if references else np.searchsorted(known, nodes)
        return self.log_probs[:, rows].astype(np.float64)


def uniform_nodes(tree: PathTree) -> np.ndarray:
    """(U,) the nodes along paths of one precision, rising."""
    return np.array([node for node, path in enumerate(tree.paths) if len(set(path)) == 1], np.int64)


def read_cache(folder: Path, log_probs: bool = False) -> FeatureCache:
    """Read and verify a cache, with `log_probs` also the log-probabilities along uniform paths.

    Raises IntegrityError naming a file that is missing, truncated or altered.
    """
    tree, description = read_tree(folder)
    verify_digests(folder, description["files"])
    names = sorted(description["files"])
    nodes = _arrays([folder / name for name in names if name.startswith("part-")], len(tree))
    references = no_references(len(nodes["sample_id"]), nodes["features"].shape[-1])
    more = [folder / name for name in names if name.startswith("reference-")]
    if count := len(description["references"]):
        found = _arrays(more, count)
        references = {name: found[name.removeprefix("reference_")] for name in references}
    kept = None
    if log_probs:
        ways = _log_probs([folder / name for name in names if name.startswith("part-")], uniform_nodes(tree))
        others = _log_probs(more, len(tree) + np.arange(count)) if count else ways[:, :0]
        whole = ways.shape[2] == len(description["classes"])
        kept = np.concatenate([ways, others], axis=1) if whole else None
    return FeatureCache(
        tree,
        description,
        nodes["sample_id"][:, 0],
        nodes["split"][:, 0],
        nodes["label"][:, 0],
        nodes["prediction"],
        nodes["error"],
        nodes["p_label"],
        nodes["features"],
        **references,
        group=_groups(folder, nodes["sample_id"][:, 0]) if GROUPS in names else None,
        log_probs=kept,
    )


def _groups(folder: Path, samples: np.ndarray) -> np.ndarray:
    """Groups (S,) of the samples; raises IntegrityError where the file is of other samples."""
    table = read_table(folder / GROUPS)
    if not np.array_equal(table["sample_id"].to_numpy(), samples):
        raise IntegrityError(f"{folder / GROUPS}: its samples are not those of the cache")
    found: np.ndarray = table["group"].to_numpy()
    return found


def no_references(samples: int, features: int) -> dict[str, np.ndarray]:
    """Fields of the cache of a tree without references."""
    return {
        "reference_error": np.zeros((samples, 0), bool),
        "reference_features": np.zeros((samples, 0, features), np.float32),
        "reference_prediction": np.zeros((samples, 0), np.int32),
    }


def _arrays(paths: Sequence[Path], nodes: int) -> dict[str, np.ndarray]:
    columns = ["sample_id", "split", "node", "label", "prediction", "error", "p_label", "features"]
    tables = [read_table(path, columns) for path in paths]
    table = pa.concat_tables([own.set_column(1, "split", own["split"].cast(pa.string())) for own in tables])
    if len(table) % nodes:
        raise IntegrityError(f"{paths[0].parent}: {len(table)} rows are not a multiple of {nodes} nodes")
    return arrays_of(table, columns, nodes)


def _log_probs(paths: Sequence[Path], nodes: np.ndarray) -> np.ndarray:
    """Column `log_probs` at some nodes, rising: (S, nodes, kept classes) float16."""
    parts = []
    for path in paths:
        table = read_table(path, ["node", "log_probs"])
        column = table["log_probs"].combine_chunks()
        rows = np.isin(table["node"].to_numpy(), nodes)
        parts.append(column.values.to_numpy().reshape(len(table), -1)[rows])
    found = np.concatenate(parts)
    return found.reshape(-1, len(nodes), found.shape[1])


def arrays_of(table: pa.Table, columns: Sequence[str], nodes: int) -> dict[str, np.ndarray]:
    """Columns of a table with `nodes` rows per sample: (S, nodes), of `features` (S, nodes, F)."""
    arrays: dict[str, np.ndarray] = {}
    for name in columns:
        column = table[name].combine_chunks()
        if name == "features":
            width = column.type.list_size
            arrays[name] = column.values.to_numpy().reshape(-1, nodes, width)
        else:
            arrays[name] = column.to_numpy(zero_copy_only=False).reshape(-1, nodes)
    return arrays
