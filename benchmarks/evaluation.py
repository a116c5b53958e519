"""Seconds and peak memory of a λ sweep from the cache: 200 points × 10,000 test samples × a tree of 120 nodes.

    python benchmarks/evaluation.py [--samples 10000] [--points 200] [--repeats 3]

The cache is synthetic (3 precisions over 4 segments, 12 state features). The predictors have the default size and random
weights. Each policy is timed from predictor inputs to errors and costs of every sample at every λ. Rollout chooses the
first precisions on a third as many validation samples. Limits: 10 s and 2 GB, on 2 cores.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from quee.cache.read import FeatureCache
from quee.paths import PathTree
from quee.policies.base import Basis
from quee.policies.fitted_q import fit_fitted_q
from quee.policies.networks import Predictors, gate_inputs, rows_of
from quee.policies.plan import Plan
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.predictors import quantized
from quee.settings.policies import FittedQ as FittedQSettings

PRECISIONS, SEGMENTS, FEATURES, HIDDEN = ("w3a3", "w4a4", "w8a8"), 4, 12, 32
SECONDS, MEGABYTES = 10.0, 2000.0


def made_up_cache(samples: int, seed: int = 0) -> FeatureCache:
    """A sample's difficulty decides at which nodes it errs; features are difficulty plus noise."""
    random, tree = np.random.default_rng(seed), PathTree(PRECISIONS, SEGMENTS)
    bits = np.array([np.mean([p.weight_bits for p in path]) for path in tree.paths])
    strength = 0.45 + 0.08 * tree.gate + 0.02 * bits
    difficulty = random.uniform(size=(samples, 1))
    error = difficulty > strength + random.normal(0, 0.1, (samples, len(tree)))
    features = random.normal(size=(samples, len(tree), FEATURES)).astype(np.float32)
    features[..., :4] += difficulty[:, :, None]
    share = {name: bits**2 / 64 / SEGMENTS for name, bits in zip(PRECISIONS, (3, 4, 8), strict=True)}
    records = [
        {
            "cost": sum(share[str(p)] for p in path) + 2e-4,
            "head_cost": 2e-4,
            "predictor_cost": 2e-4 if len(path) < SEGMENTS else 0.0,
            "segment_cost": share[str(path[-1])],
        }
        for path in tree.paths
    ]
    description = {"nodes": records, "unit_bitflops": 1e9, "feature_names": [f"f{i}" for i in range(FEATURES)]}
    none = np.zeros((samples, 0))
    return FeatureCache(
        tree, description, np.arange(samples), np.full(samples, "test", object), np.zeros(samples, np.int32),
        error.astype(np.int32), error, np.where(error, 0.1, 0.9).astype(np.float32), features, none.astype(bool),
        np.zeros((samples, 0, FEATURES), np.float32), none.astype(np.int32),
    )  # fmt: skip


def predictors_for(cache: FeatureCache) -> Predictors:
    torch.manual_seed(0)
    networks = []
    for gate in range(1, cache.tree.segments):
        x = rows_of(gate_inputs(cache.tree, gate, cache.features[:200]))
        first, last = nn.Linear(x.shape[1], HIDDEN), nn.Linear(HIDDEN, len(cache.tree.suffixes(gate)))
        for layer in (first, last):
            layer.requires_grad_(False)
        networks.append(quantized(x.mean(axis=0), x.std(axis=0) + 1e-6, first, last, x))
    return Predictors(networks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    test, validation = made_up_cache(options.samples), made_up_cache(options.samples // 3, seed=1)
    predictors = predictors_for(validation)
    plan = Plan.of(Basis(test.tree, test.description, predictors))
    fitted = fit_fitted_q(plan, validation.select(np.arange(500)), FittedQSettings())
    setting = Setting({"validation": validation, "test": test}, plan.costs, options.points)
    sweeps: dict[str, Callable[[], Sweep]] = {
        "plan": lambda: routed_sweep("plan", setting, plan),
        "fitted_q": lambda: routed_sweep("fitted_q", setting, fitted),
    }
    slow = False
    for name, sweep in sweeps.items():
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            sweep()
            times.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        best = min(times)
        slow |= best > SECONDS or memory > MEGABYTES
        print(
            f"{name:<9} {options.points} λ × {options.samples} samples × {len(test.tree)} nodes: "
            f"{best:.2f} s at best, {max(times):.2f} s at worst of {options.repeats}; peak {memory:.0f} MB"
        )
    if slow:
        print(f"above {SECONDS:g} s or {MEGABYTES:g} MB", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
