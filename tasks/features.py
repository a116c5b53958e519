"""Stage `features`: the cache of every held-out sample at every node."""

import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context

import numpy as np

from quee.cache import Recipe, build_cache, describe_tree, write_description
from quee.cost import BitFlops
from quee.data.splits import split_ids
from quee.errors import UsageError
from quee.exits import ExitHeads
from quee.experiment import SPLITS
from quee.features import GateView
from quee.io import read_json
from quee.paths import PathTree
from quee.precision import Precision
from quee.store import load_precisions
from tasks.lifeline import die_with_parent
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Run every held-out sample through the tree of considered paths, once per node.

    QUEE_WORKERS (default 1) and QUEE_SHARD_SIZE (default 64) set the processes and the samples per shard; the result
    does not depend on either. Finished shards survive an interruption.
    """
    paths, prepared = stage.experiment.paths, stage.input("prepare")
    dataset, ids = read_json(prepared / "dataset.json"), split_ids(prepared / "splits.parquet")
    names = [*paths.precisions, *paths.references]
    backbone = load_precisions(stage.input("backbone"), stage.input("quantize"), map(Precision, names))
    tree = PathTree(paths.precisions, backbone.segments, paths.considered, paths.max_nodes)
    recipe = Recipe(
        data=str(stage.data),
        dataset=stage.experiment.prepare.dataset,
        digests=tuple(sorted(dataset["files"].items())),
        backbone=str(stage.input("backbone")),
        quantized=str(stage.input("quantize")),
        heads=str(stage.input("exits") / "heads.safetensors"),
        precisions=paths.precisions,
        references=paths.references,
        paths=tuple(tree.name(node) for node in range(len(tree))),
        embedding=stage.experiment.features.embedding,
    )
    held_out = [(split, ids[split]) for split in SPLITS if split != "train"]
    samples = np.concatenate([rows for _, rows in held_out])
    splits = np.concatenate([np.full(len(rows), split, dtype=object) for split, rows in held_out])
    order = np.argsort(samples)
    workers, shard_size = _setting("QUEE_WORKERS", 1), _setting("QUEE_SHARD_SIZE", 64)
    # Workers would outlive a killed stage, waiting for work, and keep whoever reads its output waiting too.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), die_with_parent) if workers > 1 else nullcontext()
    with pool as executor:
        build_cache(recipe, samples[order], splits[order], stage.partial, stage.out, shard_size, executor)
    view = GateView(backbone, ExitHeads.load(stage.input("exits") / "heads.safetensors"), recipe.embedding)
    cost = BitFlops.from_json(read_json(stage.input("quantize") / "quantization.json")["cost"])
    description = describe_tree(stage.experiment.name, tree, paths.references, cost, view, dataset["classes"])
    write_description(stage.out, description)


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{name}={text!r}: give a whole number from 1")
    return int(text)


if __name__ == "__main__":
    main("features", run)
