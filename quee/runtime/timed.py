"""A policy that spends measured time: the bundle's plan under a profile, with operating points in milliseconds.

The fitted policy's values hold for the costs they were fitted with, so that time is spent by the plan.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from quee.cache.read import FeatureCache
from quee.paths import PathTree
from quee.policies.base import Costs, simulate
from quee.policies.plan import Plan
from quee.runtime.operating import Point
from quee.runtime.profile import Profile
from quee.work.io import read_tensors, write_tensors

FILE = "validation.safetensors"
LARGEST = 4 << 20
"""Bytes of features that are kept at most."""


def write_validation(out: Path, cache: FeatureCache) -> None:
    """Keep what operating points under another cost model are found on: features and errors of validation samples.

    Of more than fit into `LARGEST` bytes a draw is kept, the same each time: the order of a cache may be that of classes.
    """
    before = int((cache.tree.gate < cache.tree.segments).sum())
    features = cache.features[:, :before].astype(np.float16)
    samples = len(features)
    most = samples if not features.size else max(1, min(samples, LARGEST * samples // features.nbytes))
    kept = np.sort(np.random.default_rng(0).permutation(samples)[:most])
    write_tensors(out / FILE, {"error": cache.error[kept].astype(np.uint8), "features": features[kept]})


def read_validation(folder: Path) -> dict[str, np.ndarray]:
    """What `write_validation` kept; nothing in bundles that have none."""
    return read_tensors(folder / FILE) if (folder / FILE).is_file() else {}


def timed_points(
    arrays: Mapping[str, np.ndarray], plan: Plan, profile: Profile, batch: int
) -> tuple[Plan, Costs, list[Point]] | None:
    """The plan with its costs in units of the static network's time, those costs, and its points in milliseconds.

    `arrays` are those of `write_validation`; None where there are none.
    """
    if not arrays:
        return None
    tree = plan.tree
    unit = profile.unit(tree, batch)
    own = profile.costs(tree, batch)
    costs = Costs(*(getattr(own, name) / unit for name in ("segment", "head", "decision", "static", "routed")))
    timed = replace(plan, costs=costs)
    error = arrays["error"].astype(float)
    features = np.zeros((len(error), len(tree), arrays["features"].shape[2]), np.float32)
    features[:, : arrays["features"].shape[1]] = arrays["features"]
    return timed, costs, _points(tree, timed, costs, features, error, profile, batch)


def _points(
    tree: PathTree, plan: Plan, costs: Costs, features: np.ndarray, error: np.ndarray, profile: Profile, batch: int
) -> list[Point]:
    from quee.policies.sweeps import trade_offs  # only needed where time is budgeted

    values = trade_offs(120)
    ends, rows = simulate(tree, plan, features, values), np.arange(len(error))
    points = []
    for column, value in enumerate(values):
        scores = [
            float((error[rows, end] + value * costs.routed[end]).mean()) if (end >= 0).all() else np.inf
            for end in ends[:, :, column]
        ]
        first = int(np.argmin(scores))
        end = ends[first, :, column]
        shares = np.bincount(end, minlength=len(tree)) / len(end)
        spent = profile.expected(tree, shares, batch)
        points.append(Point(float(value), first, spent, float(1 - error[rows, end].mean())))
    points.sort(key=lambda p: (p.cost, -p.accuracy))
    return [p for i, p in enumerate(points) if i == 0 or p.cost > points[i - 1].cost]
