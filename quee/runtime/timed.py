"""The bundle's policy with measured time as cost, and its operating points in milliseconds."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quee.policies.base import Costs, Router, Walk, Walks, simulate, wrong
from quee.policies.ceiling import taken
from quee.policies.walks import walks_of
from quee.runtime.operating import Point
from quee.runtime.profile import Profile
from quee.work.io import read_tensors, write_tensors

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache

FILE = "validation.safetensors"
LARGEST = 4 << 20
"""Most bytes of features that are kept."""


def write_validation(out: Path, cache: "FeatureCache", policy: Router) -> None:
    """Write features, errors and groups of validation samples, on which operating points under another cost model are found,
    and the policy's walks on them.

    If the features exceed `LARGEST` bytes, a fixed random sample is kept, because a cache may be sorted by class.
    """
    before = int((cache.tree.gate < cache.tree.segments).sum())
    features = cache.features[:, :before].astype(np.float16)
    samples = len(features)
    most = samples if not features.size else max(1, min(samples, LARGEST * samples // features.nbytes))
    kept = np.sort(np.random.default_rng(0).permutation(samples)[:most])
    groups = {} if cache.group is None else {"group": cache.group[kept]}
    walks: dict[str, np.ndarray] = {}
    for name, walk in walks_of(policy, cache.select(kept)).items():
        walks |= {f"{name}.carried": walk.carried, f"{name}.error": walk.error.astype(np.uint8)}
    write_tensors(
        out / FILE, {"error": cache.error[kept].astype(np.uint8), "features": features[kept], **groups, **walks}
    )


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
    walks = {
        name: Walk(arrays[f"{name}.carried"], arrays[f"{name}.error"].astype(float))
        for name, own in timed.policies().items()
        if own.carries
    }
    return timed, _points(timed, features, error, walks, arrays.get("group"), profile, batch)


def _points(
    policy: Router,
    features: np.ndarray,
    error: np.ndarray,
    walks: Walks,
    groups: np.ndarray | None,
    profile: Profile,
    batch: int,
) -> list[Point]:
    tree, knobs = policy.tree, policy.knobs(120)
    ends, firsts = simulate(tree, policy, features, knobs, walks), policy.first(knobs)
    errors = [wrong(policy, end, knobs, error, walks) for end in ends]
    found: list[tuple[Point, np.ndarray]] = []
    for column, knob in enumerate(knobs):
        scores = [
            float((e[:, column] + knob * policy.costs.routed[end]).mean()) if (end >= 0).all() else np.inf
            for e, end in zip(errors, ends[:, :, column], strict=True)
        ]
        first = int(np.argmin(scores)) if firsts is None else int(firsts[column])
        end = ends[first, :, column]
        shares = np.bincount(end, minlength=len(tree)) / len(end)
        spent = profile.expected(tree, shares, batch)
        own = errors[first][:, column]
        found.append((Point(float(knob), first, spent, float(1 - own.mean())), own))
    found.sort(key=lambda pair: (pair[0].cost, -pair[0].accuracy))
    kept = [pair for i, pair in enumerate(found) if i == 0 or pair[0].cost > found[i - 1][0].cost]
    kept_errors = np.stack([own for _, own in kept], axis=1)
    return [replace(point, taken=taken(kept_errors, number, groups)) for number, (point, _) in enumerate(kept)]
