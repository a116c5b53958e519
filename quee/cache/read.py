"""Reading the feature cache: every held-out sample at every node, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.errors import IntegrityError
from quee.paths import PathTree
from quee.work.io import FORMAT, read_json, read_table, verify_digests


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


def read_tree(folder: Path) -> tuple[PathTree, dict[str, Any]]:
    description = read_json(folder / "tree.json")
    if description.get("format", 0) > FORMAT:
        raise IntegrityError(f"{folder / 'tree.json'} has format {description['format']}; this version reads {FORMAT}")
    names = [node["path"] for node in description["nodes"]]
    return PathTree.from_names(description["precisions"], description["segments"], names), description


def read_cache(folder: Path) -> FeatureCache:
    """Read and verify a cache; raises IntegrityError naming a file that is missing, truncated or altered."""
    tree, description = read_tree(folder)
    verify_digests(folder, description["files"])
    names = sorted(description["files"])
    nodes = _arrays([folder / name for name in names if name.startswith("part-")], len(tree))
    width = nodes["features"].shape[-1]
    references = {
        "error": np.zeros((len(nodes["sample_id"]), 0), bool),
        "features": np.zeros((len(nodes["sample_id"]), 0, width), np.float32),
        "prediction": np.zeros((len(nodes["sample_id"]), 0), np.int32),
    }
    if description["references"]:
        references = _arrays(
            [folder / name for name in names if name.startswith("reference-")], len(description["references"])
        )
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
        references["error"],
        references["features"],
        references["prediction"],
    )


def _arrays(paths: Sequence[Path], nodes: int) -> dict[str, np.ndarray]:
    columns = ["sample_id", "split", "node", "label", "prediction", "error", "p_label", "features"]
    table = pa.concat_tables(list(_tables(paths, columns)))
    if len(table) % nodes:
        raise IntegrityError(f"{paths[0].parent}: {len(table)} rows are not a multiple of {nodes} nodes")
    arrays: dict[str, np.ndarray] = {}
    for name in columns:
        column = table[name].combine_chunks()
        if name == "features":
            width = column.type.list_size
            arrays[name] = column.values.to_numpy().reshape(-1, nodes, width)
        else:
            arrays[name] = column.to_numpy(zero_copy_only=False).reshape(-1, nodes)
    return arrays


def _tables(paths: Sequence[Path], columns: list[str]) -> Iterator[pa.Table]:
    for path in paths:
        table = read_table(path, columns)
        yield table.set_column(1, "split", table["split"].cast(pa.string()))
