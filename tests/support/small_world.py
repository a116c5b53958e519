"""A small synthetic cache with known structure and matching settings, for tests of code that reads caches."""

from dataclasses import replace
from typing import Any

import numpy as np

from quee.cache.read import FeatureCache, uniform_nodes
from quee.ensembles import as_cached
from quee.paths import PathTree
from quee.settings.experiment import Experiment

SPLITS = ("predictor", "validation", "test")


def small_experiment(epochs: int = 20, **blocks: Any) -> Experiment:
    """Settings with few clusters and short training of predictors; `blocks` as in an experiment's YAML."""
    return Experiment(
        name="small",
        prepare={"dataset": "digits"},
        backbone={"name": "vit_digits"},
        targets={"clusters": 10},
        predictors={"epochs": epochs},
        **blocks,
    )


def small_cache(samples: int = 240, segments: int = 3, classes: int = 4, seed: int = 0) -> FeatureCache:
    """Two precisions; a sample's difficulty shows in its features and decides which nodes err."""
    random = np.random.default_rng(seed)
    tree = PathTree(["w4a4", "w8a8"], segments)
    difficulty = random.uniform(size=samples)
    strength = np.array([sum(0.2 + 0.12 * (p.weight_bits == 8) for p in path) for path in tree.paths])
    error = difficulty[:, None] > strength + random.normal(0, 0.08, (samples, len(tree)))
    label = random.integers(classes, size=samples).astype(np.int32)
    prediction = np.where(error, (label[:, None] + 1) % classes, label[:, None]).astype(np.int32)
    seen = difficulty[:, None] + random.normal(0, 0.1, (samples, len(tree)))
    features = np.stack([1 - seen, seen, 1 - seen, seen, random.normal(size=seen.shape)], axis=2).astype(np.float32)
    unit = {"w4a4": 0.25 / segments, "w8a8": 1.0 / segments}
    nodes = []
    for node, path in enumerate(tree.paths):
        segment, gate = unit[str(path[-1])], len(path)
        nodes.append(
            {
                "cost": sum(unit[str(p)] for p in path) + 0.001,
                "gate": gate,
                "head_cost": 0.001,
                "node": node,
                "parent": int(tree.parent[node]),
                "path": tree.name(node),
                "predictor_cost": 0.0 if gate == segments else 0.0005,
                "segment_cost": segment,
            }
        )
    description = {
        "classes": [str(c) for c in range(classes)],
        "feature_names": ["max_probability", "entropy", "margin", "sharpened_entropy", "embedding_0"],
        "nodes": nodes,
        "precisions": ["w4a4", "w8a8"],
        "reference_precisions": [],
        "references": [],
        "segments": segments,
        "unit_bitflops": 1e9,
    }
    none = np.zeros((samples, 0))
    logits = random.normal(size=(samples, len(tree), classes))
    np.put_along_axis(
        logits, prediction[:, :, None], logits.max(axis=2, keepdims=True) + 2 * seen[:, :, None].clip(0), 2
    )
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    return FeatureCache(
        tree,
        description,
        np.arange(samples),
        np.array([SPLITS[i % 3] for i in range(samples)], dtype=object),
        label,
        prediction,
        error,
        np.where(error, 0.1, 0.9).astype(np.float32),
        features,
        none.astype(bool),
        np.zeros((samples, 0, 5), np.float32),
        none.astype(np.int32),
        log_probs[:, uniform_nodes(tree)].astype(np.float16),
        head_log_probs=as_cached(log_probs),
    )


def with_float(cache: FeatureCache, better: float = 0.5) -> FeatureCache:
    """The cache with the float network as a reference: it corrects a share of w8a8's errors and costs 16."""
    tree = cache.tree
    nodes = tree.lineage(tree.node((tree.precisions[-1],) * tree.segments))
    corrected = np.random.default_rng(1).random(len(cache)) < better
    records = [
        {**cache.description["nodes"][node], "cost": 16.0, "segment_cost": 16.0 / tree.segments} for node in nodes
    ]
    return replace(
        cache,
        description={**cache.description, "reference_precisions": ["fp32"], "references": records},
        reference_error=cache.error[:, nodes] & ~corrected[:, None],
        reference_features=cache.features[:, nodes],
        reference_prediction=cache.prediction[:, nodes],
    )
