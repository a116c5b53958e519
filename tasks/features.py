"""Stage `features`: the cache of every held-out sample at every node."""

import numpy as np

from quee.cache import Recipe, build_cache, describe_tree, write_description
from quee.cost import BitFlops
from quee.data.splits import split_ids
from quee.exits import ExitHeads
from quee.experiment import SPLITS
from quee.features import GateView
from quee.io import file_digest, read_json
from quee.paths import PathTree
from quee.precision import Precision
from quee.store import load_precisions
from tasks.scale import read_scale
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Run every held-out sample through the tree of considered paths, once per node.

    Where it is computed is set by QUEE_EXECUTOR, QUEE_WORKERS, QUEE_DASK, QUEE_SHARDS, QUEE_SHARD_SIZE or
    .quee/scale.yaml; the result does not depend on it. Finished shards survive an interruption.
    """
    scale = read_scale()
    lanes = scale.lanes()
    paths, prepared = stage.experiment.paths, stage.input("prepare")
    dataset, ids = read_json(prepared / "dataset.json"), split_ids(prepared / "splits.parquet")
    names = [*paths.precisions, *paths.references]
    backbone = load_precisions(stage.input("backbone"), stage.input("quantize"), map(Precision, names))
    tree = PathTree(paths.precisions, backbone.segments, paths.considered, paths.max_nodes)
    backbone_folder, quantized, exits = (stage.input(name).resolve() for name in ("backbone", "quantize", "exits"))
    recipe = Recipe(
        data=str(stage.data.resolve()),
        dataset=stage.experiment.prepare.dataset,
        digests=tuple(sorted(dataset["files"].items())),
        backbone=str(backbone_folder),
        quantized=str(quantized),
        heads=str(exits / "heads.safetensors"),
        precisions=paths.precisions,
        references=paths.references,
        paths=tuple(tree.name(node) for node in range(len(tree))),
        embedding=stage.experiment.features.embedding,
        networks=tuple(
            (str(file), file_digest(file))
            for folder in (backbone_folder, quantized, exits)
            for file in sorted(folder.glob("*.safetensors"))
        ),
    )
    held_out = [(split, ids[split]) for split in SPLITS if split != "train"]
    samples = np.concatenate([rows for _, rows in held_out])
    splits = np.concatenate([np.full(len(rows), split, dtype=object) for split, rows in held_out])
    order = np.argsort(samples)
    build_cache(recipe, samples[order], splits[order], scale.store(stage), stage.out, scale.shard_size, lanes)
    view = GateView(backbone, ExitHeads.load(stage.input("exits") / "heads.safetensors"), recipe.embedding)
    cost = BitFlops.from_json(read_json(stage.input("quantize") / "quantization.json")["cost"])
    description = describe_tree(stage.experiment.name, tree, paths.references, cost, view, dataset["classes"])
    write_description(stage.out, description)


if __name__ == "__main__":
    main("features", run)
