"""Stage `features`: the cache of every held-out sample at every node."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.cache.build import Recipe, build_cache, describe_tree, write_description
from quee.cache.read import GROUPS
from quee.cost import BitFlops
from quee.data.splits import split_groups, split_ids
from quee.exits.heads import ExitHeads
from quee.features import GateView
from quee.measure import LABELLED, measure_of
from quee.network.files import load_precisions
from quee.paths import PathTree
from quee.precision import Precision
from quee.settings.sets import HELD_OUT
from quee.trees.settled import read_settled
from quee.work.io import file_digest, read_json, write_table
from tasks.scale import read_scale
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Run every held-out sample through the tree of considered paths, once per node.

    QUEE_EXECUTOR, QUEE_WORKERS, QUEE_DASK, QUEE_SHARDS, QUEE_SHARD_SIZE or .quee/scale.yaml set where shards are computed;
    the result does not depend on it. Finished shards survive an interruption.
    """
    scale = read_scale()
    recipe = recipe_of(stage, scale.device)
    samples, splits = held_out(stage)
    lanes = scale.lanes(multiply_adds(stage, recipe, len(samples)))
    store = scale.store(stage) / f"shards-{scale.shard_size}"
    build_cache(recipe, samples, splits, store, stage.out, scale.shard_size, lanes)
    groups = split_groups(stage.input("prepare") / "splits.parquet", samples)
    if groups is not None:
        write_table(stage.out / GROUPS, pa.table({"sample_id": samples, "group": groups}))
    write_description(stage.out, described(stage, recipe))


def described(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """`tree.json` of the paths of a recipe."""
    names = [*recipe.precisions, *recipe.references]
    backbone = load_precisions(Path(recipe.backbone), Path(recipe.quantized), map(Precision, names))
    tree = PathTree.from_names(recipe.precisions, backbone.segments, recipe.paths)
    view = GateView(backbone, ExitHeads.load(Path(recipe.heads), backbone.first), recipe.embedding)
    cost = BitFlops.from_json(read_json(stage.input("quantize") / "quantization.json")["cost"])
    dataset = read_json(stage.input("prepare") / "dataset.json")
    found = describe_tree(stage.experiment.name, tree, recipe.references, cost, view, dataset["classes"])
    return {**found, "device": recipe.device, **measure_of(dataset).facts}


def recipe_of(stage: Stage, device: str) -> Recipe:
    """Everything that a worker needs, on any machine."""
    settled, dataset = read_settled(stage.input("tree")), read_json(stage.input("prepare") / "dataset.json")
    backbone, quantized, exits = (stage.input(name).resolve() for name in ("backbone", "quantize", "exits"))
    return Recipe(
        data=str(stage.data.resolve()),
        dataset=stage.experiment.prepare.dataset,
        digests=tuple(sorted(dataset["files"].items())),
        backbone=str(backbone),
        quantized=str(quantized),
        heads=str(exits / "heads.safetensors"),
        precisions=tuple(map(str, settled.tree.precisions)),
        references=tuple(map(str, settled.references)),
        paths=tuple(settled.tree.name(node) for node in range(len(settled.tree))),
        embedding=stage.experiment.features.embedding,
        device=device,
        networks=tuple(
            (str(file), file_digest(file))
            for folder in (backbone, quantized, exits)
            for file in sorted(folder.glob("*.safetensors"))
        ),
    )


def multiply_adds(stage: Stage, recipe: Recipe, samples: int) -> float:
    """Multiply-adds of a recipe on a number of samples; all segments count as equal."""
    backbone = stage.input("backbone")
    segments = len(read_json(backbone / "backbone.json")["gates"])
    executed = len(recipe.paths) + segments * len(recipe.references)
    return float(read_json(backbone / "metrics.json")["macs"]) * executed / segments * samples


def held_out(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) of the held-out samples, rising, and their splits (n,)."""
    ids = split_ids(stage.input("prepare") / "splits.parquet")
    chosen = [(split, ids[split]) for split in (*HELD_OUT, LABELLED)]
    samples = np.concatenate([rows for _, rows in chosen])
    splits = np.concatenate([np.full(len(rows), split, dtype=object) for split, rows in chosen])
    order = np.argsort(samples)
    return samples[order], splits[order]


if __name__ == "__main__":
    main(run)
