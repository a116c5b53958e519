"""What `evaluate` fits again, in shards that any workers compute: other seeds, rotations of folds, and re-divisions.

A worker reads the stages' results itself, because a cache is larger than what is fitted on it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from quee.cache.answers import answered, fitted
from quee.cache.read import FeatureCache, read_cache
from quee.data.splits import held_out_rotations
from quee.ensembles import Ensembles, read_ensembles
from quee.evaluation.quality import Other, fit_other
from quee.evaluation.resplits import fit_policies, resplit
from quee.policies.base import Basis, Router
from quee.policies.files import policy_of
from quee.policies.networks import Predictors
from quee.policies.registry import learned
from quee.settings.experiment import Experiment
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Lanes

SECONDS = 2e-5
"""Time of one fit for each sample and node of the cache, on one core; measured on digits and on Street Characters."""
PREDICTORS = "predictors"


@dataclass(frozen=True)
class Held:
    """An experiment's held-out samples: the folders of the stages that they are read from."""

    experiment: Experiment
    features: str
    prepare: str
    targets: str
    ensembles: tuple[Ensembles | None, ...] = field(default=(), compare=False, repr=False)
    """Of every rotation, from `fit_ensembles`; without them a rotation is asked for together with its fit."""

    def own_heads(self) -> FeatureCache:
        """The cache as the nodes' own heads answer, read once in a process."""
        return _own_heads(self.features, self.experiment.targets.ensemble)

    def splits(self) -> list[np.ndarray]:
        """Splits (S,) of the samples in every rotation; a single one where there are no folds."""
        return _splits(self.prepare, self.own_heads())

    def rotation(self, number: int) -> FeatureCache:
        """The cache with the splits of one rotation, as ensembles answer that are fitted in it; those of the first rotation
        are those of stage `targets`. The last one asked for is kept in a process, so ask rotation by rotation."""
        key = self.features, self.prepare, self.targets, self.experiment.targets.ensemble, number
        if key not in _ROTATION:
            _ROTATION.clear()
            divided, ensembles = self.divided(number), self.ensembles
            _ROTATION[key] = answered(divided, ensembles[number] if ensembles else self.fitted(number))
        return _ROTATION[key]

    def divided(self, number: int) -> FeatureCache:
        """The cache of own heads with the splits of one rotation."""
        return self.own_heads() if number == 0 else replace(self.own_heads(), split=self.splits()[number])

    def fitted(self, number: int) -> Ensembles | None:
        """The ensembles of one rotation; those of the first are read."""
        if number == 0:
            return read_ensembles(Path(self.targets))
        return fitted(self.divided(number)) if self.experiment.targets.ensemble else None


@lru_cache(maxsize=1)
def _own_heads(features: str, heads: bool) -> FeatureCache:
    return read_cache(Path(features), log_probs=True, heads=heads)


_ROTATION: dict[tuple[str, str, str, bool, int], FeatureCache] = {}
"""The rotation that was last asked for."""


def _splits(prepare: str, cache: FeatureCache) -> list[np.ndarray]:
    return held_out_rotations(Path(prepare) / "splits.parquet", cache.sample_id)


def forget() -> None:
    """Let go of the caches that this process keeps, for their memory."""
    _own_heads.cache_clear()
    _ROTATION.clear()


def seconds(cache: FeatureCache, fits: int) -> float:
    """Time that so many fits on a cache take on one core."""
    return SECONDS * len(cache) * len(cache.tree) * fits


def fit_ensembles(held: Held, rotations: int, store: Store, lanes: Lanes) -> Held:
    """The same with the ensembles of all rotations, which take longer to fit than policies."""
    shards = [Shard(f"ensembles-{number}", compute_ensembles, (held, number)) for number in range(1, rotations)]
    run_shards(shards, store, lanes, "ensembles of folds")
    found = [held.fitted(0)]
    for number, data in enumerate(read_shards(shards, store), 1):
        arrays = unpacked_tensors(data, f"ensembles of rotation {number}")[0]
        found.append(Ensembles(**arrays) if arrays else None)
    return replace(held, ensembles=tuple(found))


def compute_ensembles(held: Held, number: int) -> bytes:
    """The ensembles of one rotation as safetensors, empty where there are none. Runs in any process."""
    with alone():
        found = held.fitted(number)
    return packed_tensors({} if found is None else found.arrays())


def fit_again(
    held: Held, wanted: Sequence[tuple[int, int]], store: Store, lanes: Lanes, caches: Sequence[FeatureCache]
) -> dict[tuple[int, int], dict[str, Router]]:
    """Learned policies by seed and rotation, for those wanted; `caches` are those of the rotations."""
    shards = [
        Shard(f"policies-{seed}-{rotation}", compute_policies, (held, seed, rotation)) for seed, rotation in wanted
    ]
    run_shards(shards, store, lanes, "seeds and folds" if len(caches) > 1 else "seeds")
    found = {}
    for (seed, rotation), data in zip(wanted, read_shards(shards, store), strict=True):
        arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in (PREDICTORS, *(m.name for m in learned()))}
        source = f"policies of seed {seed}, rotation {rotation}"
        for key, value in unpacked_tensors(data, source)[0].items():
            name, _, own = key.partition("/")
            arrays[name][own] = value
        cache = caches[rotation]
        basis = Basis(cache.tree, cache.description, Predictors.from_arrays(arrays.pop(PREDICTORS)))
        found[seed, rotation] = {name: policy_of(name, basis, own, source) for name, own in arrays.items()}
    return found


def compute_policies(held: Held, seed: int, rotation: int) -> bytes:
    """Predictors and learned policies as safetensors. Runs in any process."""
    with alone():
        basis, policies = fit_policies(held.rotation(rotation), held.experiment, seed)
    assert basis.predictors is not None
    parts = {PREDICTORS: basis.predictors.arrays(), **{name: policy.arrays() for name, policy in policies.items()}}
    return packed_tensors({f"{name}/{key}": value for name, own in parts.items() for key, value in own.items()})


def fit_others(
    held: Held, wanted: Sequence[Other], rotations: int, store: Store, lanes: Lanes
) -> list[dict[Other, Predictors]]:
    """Predictors of other quality, by rotation."""
    every = [(rotation, other) for rotation in range(rotations) for other in wanted]
    shards = [Shard(f"other-{rotation}-{kind}-{value:g}", compute_other, (held, rotation, (kind, value)))
              for rotation, (kind, value) in every]  # fmt: skip
    run_shards(shards, store, lanes, "predictors of other quality")
    found: list[dict[Other, Predictors]] = [{} for _ in range(rotations)]
    for (rotation, other), data in zip(every, read_shards(shards, store), strict=True):
        found[rotation][other] = Predictors.from_arrays(unpacked_tensors(data, f"predictors of {other}")[0])
    return found


def compute_other(held: Held, rotation: int, other: Other) -> bytes:
    """Predictors as safetensors. Runs in any process."""
    with alone():
        return packed_tensors(fit_other(held.rotation(rotation), held.experiment, other).arrays())


def divide_again(held: Held, times: int, store: Store, lanes: Lanes) -> list[dict[str, Any]]:
    """Rows of `resplit` for re-divisions 0 to `times` - 1."""
    shards = [Shard(f"resplit-{seed}", compute_resplit, (held, seed)) for seed in range(times)]
    run_shards(shards, store, lanes, "resplits")
    return [row for data in read_shards(shards, store) for row in json.loads(data)]


def compute_resplit(held: Held, seed: int) -> bytes:
    """Rows of one re-division as JSON. Runs in any process."""
    with alone():
        return json.dumps(resplit(held.own_heads(), held.experiment, seed)).encode()
