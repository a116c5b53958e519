"""Building the feature cache: every held-out sample at every node, executed as a tree, kept as sharded Parquet.

Shards of samples are computed by any number of workers and kept aside as they finish. The published parts have a fixed
number of rows, so their bytes depend neither on the shards nor on the workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quee.cost import BitFlops
from quee.data.source import open_dataset
from quee.ensembles import as_cached
from quee.exits.heads import ExitHeads
from quee.features import GateView
from quee.network.device import CPU, place
from quee.network.execution import MICRO_BATCH, MultiPrecisionBackbone, walk_tree
from quee.network.files import load_precisions
from quee.paths import PathTree
from quee.precision import FLOAT, Precision
from quee.work.io import FORMAT, file_digest, table_writer, verify_digests, write_json
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Lanes

PART_ROWS = 1 << 16
MANY_CLASSES, TOP = 100, 5
"""With more than MANY_CLASSES classes, the TOP most probable ones and the probability of the remainder are kept."""


@dataclass(frozen=True)
class Recipe:
    """Everything a worker needs to compute shards: absolute paths of the networks and images, and the considered paths."""

    data: str
    dataset: str
    digests: tuple[tuple[str, str], ...]
    backbone: str
    quantized: str
    heads: str
    precisions: tuple[str, ...]
    references: tuple[str, ...]
    paths: tuple[str, ...]
    embedding: bool
    device: str = CPU
    """Where the networks run."""
    networks: tuple[tuple[str, str], ...] = ()
    """Files of the networks with their SHA-256; a worker on another machine recognises other files by it."""


class ShardWorker:
    """Computes the rows of a shard of samples."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        verify_digests(Path(), dict(recipe.networks))
        names = [*recipe.precisions, *recipe.references]
        on = place(recipe.device)
        self.backbone: MultiPrecisionBackbone = load_precisions(
            Path(recipe.backbone), Path(recipe.quantized), [Precision(name) for name in names]
        ).to(on)
        self.tree = PathTree.from_names(recipe.precisions, self.backbone.segments, recipe.paths)
        self.references = [PathTree([name], self.backbone.segments) for name in recipe.references]
        heads = ExitHeads.load(Path(recipe.heads), self.backbone.first).to(on)
        self.view = GateView(self.backbone, heads, recipe.embedding)
        self.images = open_dataset(Path(recipe.data), recipe.dataset, dict(recipe.digests))
        self.transform = self.backbone.models[Precision("fp32")].input

    def rows(self, ids: np.ndarray, splits: np.ndarray, start: int = 0) -> pa.Table:
        """Rows (sample, node) of the tree; rows of the references follow those of the tree.

        `start` is the number of samples before these in the whole cache.
        """
        self.backbone.place = start % MICRO_BATCH
        images = self.images.batch(ids, self.transform).to(self.backbone.device)
        labels = self.images.labels[ids]
        columns: list[dict[str, np.ndarray]] = []
        first = 0
        for tree in (self.tree, *self.references):
            found: dict[int, dict[str, np.ndarray]] = {}
            for node, state in walk_tree(self.backbone, tree, images):
                log_probs, features = self.view(int(tree.gate[node]), tree.paths[node][-1], state)
                found[node] = _columns(first + node, log_probs, features, labels)
            columns += [found[node] for node in range(len(tree))]
            first += len(tree)
        stacked = {name: np.stack([c[name] for c in columns], axis=1) for name in columns[0]}  # (samples, nodes, …)
        count = stacked["node"].shape[1]
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in stacked.items()}
        return pa.table(
            {
                "sample_id": np.repeat(ids, count),
                "split": pa.array(np.repeat(splits, count)).dictionary_encode(),
                "node": flat["node"],
                "label": np.repeat(labels, count).astype(np.int32),
                "prediction": flat["prediction"],
                "error": flat["prediction"] != np.repeat(labels, count),
                "p_label": flat["p_label"],
                "log_probs": _lists(flat["log_probs"]),
                "features": _lists(flat["features"]),
            }
        )


def _columns(node: int, log_probs: np.ndarray, features: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.arange(len(labels))
    kept = log_probs
    if log_probs.shape[1] > MANY_CLASSES:
        top = -np.sort(-log_probs, axis=1)[:, :TOP]
        rest = np.log(np.maximum(1 - np.exp(top).sum(axis=1, keepdims=True), 1e-7))
        kept = np.concatenate([top, rest], axis=1)
    return {
        "node": np.full(len(labels), node, np.int32),
        "prediction": log_probs.argmax(axis=1).astype(np.int32),
        "p_label": np.exp(log_probs[rows, labels]).astype(np.float32),
        "log_probs": as_cached(kept),
        "features": features,
    }


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


@lru_cache(1)
def _worker(recipe: Recipe) -> ShardWorker:
    return ShardWorker(recipe)


def sample_shards(recipe: Recipe, ids: np.ndarray, splits: np.ndarray, size: int) -> list[Shard]:
    """Shards of up to `size` samples each that together are samples `ids` (n,) with their `splits` (n,)."""
    pieces = [(start, slice(start, start + size)) for start in range(0, len(ids), size)]
    return [
        Shard(f"shard-{start:09d}", compute_shard, (recipe, ids[rows], splits[rows], start)) for start, rows in pieces
    ]


def compute_shard(recipe: Recipe, ids: np.ndarray, splits: np.ndarray, start: int) -> bytes:
    """A shard of samples, after `start` others, as bytes of a Parquet file. Runs in any process, one at a time in each."""
    with alone():
        table = _worker(recipe).rows(ids, splits, start)
    sink = pa.BufferOutputStream()
    with table_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def build_cache(
    recipe: Recipe,
    ids: np.ndarray,
    splits: np.ndarray,
    store: Store,
    out: Path,
    shard_size: int,
    lanes: Lanes,
) -> None:
    """Compute the shards that `store` lacks, then publish `part-*` and `reference-*` files in `out`.

    `ids` (n,) sorted sample ids and their `splits` (n,). Finished shards are not computed again.
    """
    shards = sample_shards(recipe, ids, splits, shard_size)
    run_shards(shards, store, lanes, "feature cache")
    nodes = len(recipe.paths)
    parts, references = _Parts(out, "part"), _Parts(out, "reference")
    for data in read_shards(shards, store):
        table = pq.read_table(pa.BufferReader(data))
        of_tree = table["node"].to_numpy() < nodes
        parts.add(table.filter(pa.array(of_tree)))
        if recipe.references:
            references.add(table.filter(pa.array(~of_tree)))
    parts.finish()
    references.finish()


class _Parts:
    """Writes rows as files of PART_ROWS rows each, whatever the size of the tables that are added."""

    def __init__(self, out: Path, kind: str) -> None:
        self.out, self.kind = out, kind
        self._pending: list[pa.Table] = []
        self._held = self._number = 0

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._held += len(table)
        while self._held >= PART_ROWS:
            self._write(PART_ROWS)

    def finish(self) -> None:
        """Write the remaining rows."""
        if self._held:
            self._write(self._held)

    def _write(self, rows: int) -> None:
        table = pa.concat_tables(self._pending).unify_dictionaries().combine_chunks()
        part, rest = table.slice(0, rows), table.slice(rows)
        # Encoded anew, so that the dictionary lists this part's splits in the order of rows.
        split = pa.array(part["split"].to_pylist()).dictionary_encode()
        part = part.set_column(1, "split", split).combine_chunks()
        with table_writer(self.out / f"{self.kind}-{self._number:05d}.parquet", part.schema) as writer:
            writer.write_table(part, row_group_size=PART_ROWS)
        self._pending, self._held, self._number = ([rest] if len(rest) else []), len(rest), self._number + 1


def describe_tree(
    experiment: str, tree: PathTree, references: Sequence[str], cost: BitFlops, view: GateView, classes: Sequence[str]
) -> dict[str, Any]:
    """`tree.json`: considered paths with their costs. `cost` is the static path's, in units of static w8a8. A node's
    `predictor_cost` is the cost of its state features; a predictor adds the cost of its own products."""
    unit = cost.unit

    def record(node: int, path: Sequence[Precision], parent: int) -> dict[str, Any]:
        gate, last = len(path), path[-1]
        segments = sum(cost.bitflops(j, p) for j, p in enumerate(path, 1))
        final = gate == tree.segments
        head = cost.bitflops(0, last) if final else view.heads.head_bitflops(gate, last)
        return {
            "bitflops": segments + head,
            "cost": (segments + head) / unit,
            "gate": gate,
            "head_cost": head / unit,
            "node": node,
            "parent": parent,
            "path": "-".join(map(str, path)),
            "predictor_cost": 0.0 if final else view.bitflops(gate) / unit,
            "segment_cost": cost.bitflops(gate, last) / unit,
        }

    nodes = [record(node, path, int(tree.parent[node])) for node, path in enumerate(tree)]
    chains, first = [], len(tree)
    for name in references:
        chain = PathTree([name], tree.segments)
        chains += [
            record(first + node, path, first + int(chain.parent[node]) if chain.parent[node] >= 0 else -1)
            for node, path in enumerate(chain)
        ]
        first += len(chain)
    return {
        "classes": list(classes),
        "experiment": experiment,
        "feature_names": view.names,
        "float_cost": cost.plain.static((Precision(FLOAT),) * tree.segments) / unit,
        "format": FORMAT,
        "nodes": nodes,
        "precisions": [str(p) for p in tree.precisions],
        "reference_precisions": list(references),
        "references": chains,
        "segments": tree.segments,
        "unit_bitflops": unit,
    }


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `tree.json` with the digests of the Parquet files beside it."""
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*.parquet"))}
    write_json(folder / "tree.json", {**description, "files": files})
