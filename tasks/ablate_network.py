"""Run the network again for ablations: to fit other heads, and for nodes that the feature cache does not have.

Results are kept with the ablations' points, under a digest of all that they depend on. Shards are kept until the result
is whole.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quee.cache.build import Recipe, sample_shards
from quee.cache.read import FeatureCache
from quee.errors import IntegrityError
from quee.evaluation.ablation.fit import Study
from quee.evaluation.ablation.rerun import (
    Variant,
    computed,
    evaluated,
    joined,
    known_nodes,
    to_run,
    variant_tree,
)
from quee.evaluation.ablation.run import Points
from quee.paths import PathTree
from quee.settings.exits import Exits
from quee.work.io import file_digest
from quee.work.keys import contents_below, key_of, versions
from quee.work.shards import read_shards, run_shards
from tasks import exits, features
from tasks.dvc.dependencies import digest as digest_of
from tasks.dvc.dependencies import used_by
from tasks.scale import read_scale
from tasks.stage import Stage
from tasks.stages import read_by

STAGES = ("exits", "features")
"""Stages whose code runs."""
FACTS = ("dataset.json", "splits.parquet", "backbone.json", "quantization.json")
"""Files of INPUTS that decide what is computed, besides all weights."""


def study_of(stage: Stage, base: Study, variant: Variant, root: Path) -> tuple[Study, str]:
    """The study of a variant, and the digest of its cache; until that is computed it holds the experiment's cache."""
    digest = _digest(stage, base, variant, root)
    source = key_of(base.source, digest)
    return Study(base.cache, base.experiment, source), digest


def _digest(stage: Stage, base: Study, variant: Variant, root: Path) -> str:
    """Digest of what decides a variant's cache: networks, images, settings and the code that runs."""
    experiment = base.experiment
    names = {file for name in STAGES for file in used_by(name, experiment.backbone.name, root)}
    code = sorted({*names, "quee/evaluation/ablation/rerun.py"})
    inputs = dict.fromkeys(name for stage_name in STAGES for name in read_by(stage_name))
    folders = [name for name in inputs if name not in STAGES or variant.heads is None]
    files = [
        [folder, name, digest]
        for folder in folders
        for name, digest in contents(stage.input(folder))
        if name.endswith(".safetensors") or name in FACTS
    ]
    return key_of(
        variant.facts(),
        _exits(stage, variant).model_dump(mode="json"),
        experiment.backbone.augmentation.model_dump(mode="json"),
        experiment.features.model_dump(mode="json"),
        [base.cache.tree.name(node) for node in range(len(base.cache.tree))],
        experiment.paths.considered.model_dump(mode="json"),
        files,
        [[file, digest_of(root, file)] for file in code],
        read_scale().device,
        versions(),
    )


def contents(path: Path) -> list[list[str]]:
    """Name and SHA-256 of every file of an input of ablations; raises IntegrityError for a missing input."""
    if not (found := contents_below(path)):
        raise IntegrityError(f"missing: {path}, on which ablations depend")
    return found


def _exits(stage: Stage, variant: Variant) -> Exits:
    settings = stage.experiment.exits
    return settings if variant.heads is None else settings.model_copy(update={"prefixes": variant.heads})


def variant_cache(stage: Stage, cache: FeatureCache, variant: Variant, store: Points, digest: str) -> FeatureCache:
    """The cache of a variant: read where it is kept, else computed by the network, from where an interrupted run stopped."""
    tree = variant_tree(stage.experiment, cache.tree, variant)
    known = known_nodes(cache.tree, tree, same_heads=variant.heads is None)
    samples, kept = evaluated(cache), store.read(digest)
    own = kept[0] if kept else _run(stage, samples, variant, tree, known, store, digest)
    description = {**cache.description, "reference_precisions": [], "references": []}
    if variant.added is not None:
        description = features.described(stage, _recipe(_everything(stage), tree, range(len(tree))))
    return joined(samples, tree, description, known, own)


def _run(
    stage: Stage, samples: FeatureCache, variant: Variant, tree: PathTree, known: np.ndarray, store: Points, digest: str
) -> dict[str, np.ndarray]:
    """The nodes of a variant that the cache does not have, computed as stage `features` does; kept in the store."""
    scale, folder, run = read_scale(), store.work(digest), to_run(tree, known)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(_everything(stage), tree, run)
    if variant.heads is not None:
        recipe = _with_heads(recipe, _fitted(stage, variant, folder / "heads.safetensors"))
    whole = scale.place(folder / "shards", "ablate", digest)
    shards = sample_shards(recipe, samples.sample_id, samples.split, scale.shard_size)
    place = whole / f"shards-{scale.shard_size}"
    lanes = scale.lanes(features.multiply_adds(stage, recipe, len(samples)))
    run_shards(shards, place, lanes, f"network for {stage.name}: {_title(variant)}")
    own = computed(read_shards(shards, place), run, known)
    store.write(digest, own, {})
    whole.discard()
    shutil.rmtree(folder, ignore_errors=True)
    return own


def _title(variant: Variant) -> str:
    return ", ".join(f"{name} {value}" for name, value in variant.facts().items())


def _everything(stage: Stage) -> Recipe:
    """The recipe of stage `features` on this machine's device."""
    return features.recipe_of(stage, read_scale().device)


def _recipe(recipe: Recipe, tree: PathTree, nodes: Sequence[int]) -> Recipe:
    """The recipe of a variant's nodes, without references."""
    names = tuple(map(str, tree.precisions))
    return replace(recipe, precisions=names, references=(), paths=tuple(tree.name(node) for node in nodes))


def _with_heads(recipe: Recipe, heads: Path) -> Recipe:
    others = tuple((file, digest) for file, digest in recipe.networks if file != recipe.heads)
    return replace(recipe, heads=str(heads), networks=(*others, (str(heads), file_digest(heads))))


def _fitted(stage: Stage, variant: Variant, file: Path) -> Path:
    """The file of a variant's heads, fitted here unless an interrupted run has fitted them."""
    if not file.is_file():
        heads, _ = exits.fit(stage, exits.Inputs.of(stage, read_scale().device), _exits(stage, variant))
        heads.save(file)
    return file.resolve()
