"""Time and memory of stages `targets`, `predictors`, `policies` and `evaluate` on a large tree, from a made-up cache.

    python benchmarks/large_trees.py [--samples 20000] [--gates 12] [--nodes 500] [--epochs 200] [--stages targets,predictors]

Networks do not run: the cache has the shapes of `--samples` held-out samples at every node of a sampled tree of three
precisions, and logits drawn so that errors fall with depth and bits. Each stage runs in a process of its own, as DVC
starts it; its seconds, CPU seconds, largest resident memory and the digests of its files are printed. Without `--keep FOLDER` the
project is removed at the end; a kept one is used again.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import projects
import pyarrow as pa

from quee.cache.build import _columns, _lists, _Parts, write_description
from quee.features import feature_names, state_features
from quee.paths import PathTree
from quee.precision import Precision
from quee.settings.experiment import BLOCKS
from quee.settings.paths import Considered
from quee.work.io import FORMAT, write_table

NAME = "large"
PRECISIONS = ("w3a3", "w4a4", "w8a8")
CLASSES, EMBEDDING = 10, 8
SHARES = {"predictor": 0.6, "validation": 0.1, "test": 0.3}
PIECE = 100
"""Samples drawn at a time."""
STAGES = ("targets", "predictors", "policies", "evaluate")


def largest_sample(gates: int, nodes: int) -> PathTree:
    """The tree of the most sampled paths that has at most so many nodes."""
    found = PathTree(PRECISIONS, gates, Considered(max_switches=0))
    for count in range(1, len(PRECISIONS) ** gates):
        tree = PathTree(PRECISIONS, gates, Considered(sample=count))
        if len(tree) > nodes:
            break
        found = tree
    return found


def write_project(folder: Path, samples: int, gates: int, nodes: int, epochs: int) -> PathTree:
    """A project with the results of stages `prepare` and `features`, and an experiment that reads them."""
    tree = largest_sample(gates, nodes)
    content: dict[str, dict[str, object]] = {block: {} for block in BLOCKS}
    content["prepare"] = {"dataset": "digits"}
    content["backbone"] = {"name": "vit_digits", "gates": list(range(1, gates + 1))}
    full = len(tree.nodes_at(gates)) - len(PRECISIONS)
    content["paths"] = {"precisions": list(PRECISIONS), "references": [], "considered": {"sample": full}}
    content["targets"] = {"sweep": [20]}
    content["predictors"] = {"epochs": epochs}
    empty: dict[str, list[float]] = {"widths": [], "samples": [], "noise": [], "clusters": []}
    content["evaluate"] = {"seeds": 1, "bootstrap": 100, "quality": empty}
    projects.write_project(folder, NAME, content)
    write_cache(folder / "artifacts" / NAME, tree, samples)
    return tree


def write_cache(artifacts: Path, tree: PathTree, samples: int) -> None:
    random, out = np.random.default_rng(0), artifacts / "features"
    out.mkdir(parents=True)
    (artifacts / "prepare").mkdir()
    names = list(SHARES)
    split = np.array(names, object)[random.choice(len(names), samples, p=list(SHARES.values()))]
    columns = {"sample_id": np.arange(samples), "split": pa.array(split).dictionary_encode()}
    write_table(artifacts / "prepare" / "splits.parquet", pa.table(columns))
    label = random.integers(CLASSES, size=samples)
    hardness = random.normal(size=samples)
    bits = np.array([np.mean([p.weight_bits for p in path]) for path in tree.paths])
    strength = 3 * tree.gate / tree.segments + 0.3 * (bits - 3)  # (N,)
    parts = _Parts(out, "part")
    for start in range(0, samples, PIECE):
        rows = np.arange(start, min(start + PIECE, samples))
        logits = random.normal(size=(len(rows), len(tree), CLASSES))
        push = strength - hardness[rows, None]
        logits[np.arange(len(rows))[:, None], np.arange(len(tree)), label[rows, None]] += push
        embedding = random.normal(size=(len(rows), len(tree), EMBEDDING)) + hardness[rows, None, None]
        log_probs, features = state_features(logits.reshape(-1, CLASSES), embedding.reshape(-1, EMBEDDING))
        truth = np.repeat(label[rows], len(tree))
        own = _columns(0, log_probs, features, truth)
        parts.add(
            pa.table(
                {
                    "sample_id": np.repeat(rows, len(tree)),
                    "split": pa.array(np.repeat(split[rows], len(tree))).dictionary_encode(),
                    "node": np.tile(np.arange(len(tree), dtype=np.int32), len(rows)),
                    "label": truth.astype(np.int32),
                    "prediction": own["prediction"],
                    "error": own["prediction"] != truth,
                    "p_label": own["p_label"],
                    "log_probs": _lists(own["log_probs"]),
                    "features": _lists(own["features"]),
                }
            )
        )
    parts.finish()
    write_description(out, description(tree))


def description(tree: PathTree) -> dict[str, object]:
    """`tree.json` of segments that cost the same, their bits squared."""
    unit = {Precision(p): Precision(p).weight_bits ** 2 / 64 / tree.segments for p in PRECISIONS}
    nodes = [
        {
            "bitflops": 1e9 * sum(unit[p] for p in path),
            "cost": sum(unit[p] for p in path) + 0.001,
            "gate": len(path),
            "head_cost": 0.001,
            "node": node,
            "parent": int(tree.parent[node]),
            "path": tree.name(node),
            "predictor_cost": 0.0 if len(path) == tree.segments else 0.0005,
            "segment_cost": unit[path[-1]],
        }
        for node, path in enumerate(tree.paths)
    ]
    return {
        "classes": [str(c) for c in range(CLASSES)],
        "experiment": NAME,
        "feature_names": feature_names(EMBEDDING),
        "format": FORMAT,
        "nodes": nodes,
        "precisions": list(PRECISIONS),
        "reference_precisions": [],
        "references": [],
        "segments": tree.segments,
        "unit_bitflops": 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--gates", type=int, default=12)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument(
        "--epochs", type=int, default=200, help="most epochs of a predictor; memory does not depend on it"
    )
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        if not (folder / "experiments").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            tree = write_project(folder, options.samples, options.gates, options.nodes, options.epochs)
            size = sum(file.stat().st_size for file in (folder / "artifacts").rglob("*.parquet")) / 1e9
            print(
                f"{options.samples} samples, {options.gates} gates, {len(tree)} nodes, {size:.2f} GB on disk",
                flush=True,
            )
        for stage in options.stages.split(","):
            print(json.dumps(projects.run_stage(stage, folder, NAME)), flush=True)


if __name__ == "__main__":
    main()
