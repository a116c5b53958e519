"""The bundle's policy with measured time as cost, and its operating points in milliseconds."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quee.policies.base import Costs, Router, simulate
from quee.policies.ceiling import taken
from quee.runtime.operating import Point
from quee.runtime.profile import Profile
from quee.work.io import read_tensors, write_tensors

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache

FILE = "validation.safetensors"
LARGEST = 4 << 20
"""Most bytes of features that are kept."""


def write_validation(out: Path, cache: "FeatureCache") -> None:
    """Write features, errors and groups of validation samples, on which operating points under another cost model are found.

    If they exceed `LARGEST` bytes, a fixed random sample is kept, because a cache may be sorted by class.
    """
    before = int((cache.tree.gate < cache.tree.segments).sum())
    features = cache.features[:, :before].astype(np.float16)
    samples = len(features)
    most = samples if not features.size else max(1, min(samples, LARGEST * samples // features.nbytes))
    kept = np.sort(np.random.default_rng(0).permutation(samples)[:most])
    groups = {} if cache.group is None else {"group": cache.group[kept]}
    write_tensors(out / FILE, {"error": cache.error[kept].astype(np.uint8), "features": features[kept], **groups})


def read_validation(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays of `write_validation`; empty for bundles without them."""
    return read_tensors(folder / FILE) if (folder / FILE).is_file() else {}


def timed_points(
    arrays: Mapping[str, np.ndarray], policy: Router, profile: Profile, batch: int
) -> tuple[Router, list[Point]] | None:
    """The policy with its costs in units of the static network's time, and its points in milliseconds.

    `arrays` are those of `write_validation`; None where there are none.
    """
    if not arrays:
        return None
    tree = policy.tree
    unit = profile.unit(tree, batch)
    own = profile.costs(tree, batch)
    timed = policy.under(Costs(*(getattr(own, name) / unit for name in (field.name for field in fields(Costs)))))
    error = arrays["error"].astype(float)
    features = np.zeros((len(error), len(tree), arrays["features"].shape[2]), np.float32)
    features[:, : arrays["features"].shape[1]] = arrays["features"]
    return timed, _points(timed, features, error, arrays.get("group"), profile, batch)


def _points(
    policy: Router, features: np.ndarray, error: np.ndarray, groups: np.ndarray | None, profile: Profile, batch: int
) -> list[Point]:
    tree, knobs = policy.tree, policy.knobs(120)
    ends, rows, firsts = simulate(tree, policy, features, knobs), np.arange(len(error)), policy.first(knobs)
    found: list[tuple[Point, np.ndarray]] = []
    for column, knob in enumerate(knobs):
        scores = [
            float((error[rows, end] + knob * policy.costs.routed[end]).mean()) if (end >= 0).all() else np.inf
            for end in ends[:, :, column]
        ]
        first = int(np.argmin(scores)) if firsts is None else int(firsts[column])
        end = ends[first, :, column]
        shares = np.bincount(end, minlength=len(tree)) / len(end)
        spent = profile.expected(tree, shares, batch)
        own = error[rows, end]
        found.append((Point(float(knob), first, spent, float(1 - own.mean())), own))
    found.sort(key=lambda pair: (pair[0].cost, -pair[0].accuracy))
    kept = [pair for i, pair in enumerate(found) if i == 0 or pair[0].cost > found[i - 1][0].cost]
    errors = np.stack([own for _, own in kept], axis=1)
    return [replace(point, taken=taken(errors, number, groups)) for number, (point, _) in enumerate(kept)]
