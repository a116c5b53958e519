"""A bundle's canary: a few images with the reference's results, with which every engine is compared.

The reference is PyTorch, which computes what the simulation computes. The canary holds prepared images of the validation
split, the states before each segment along the tree's highest precision, the results of every segment at every
precision on these states, and the paths and answers of the whole classifier at a few operating points. An engine that
differs by more than `quee.runtime.margin` allows is refused.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quee.errors import DisagreementError, IntegrityError
from quee.evenly import evenly
from quee.paths import PathTree
from quee.policies.base import Router
from quee.precision import Precision
from quee.runtime.engines.base import Engine, Step
from quee.runtime.executor import Executor
from quee.runtime.manifest import CANARY
from quee.runtime.margin import QUANTILE, allowed_flips, margin_of, margin_of_paths
from quee.runtime.routes import Routes, gap, routes
from quee.work.io import read_tensors
from quee.work.machine import cpu_model

NUMBERS = 256
"""Number of values of a state that are kept, evenly spread over it."""
_PATHS = ("trade_off", "first", "node", "label", "lead", "features")
"""Names of the arrays about paths."""
CARRIED = "path.carried"
"""Name of the array of what policies carry along paths; absent where they carry nothing."""


@dataclass(frozen=True)
class Difference:
    """An upper bound on the difference of an engine's step from the reference's, for three quarters of the images."""

    what: str
    """`states`, `log-probabilities` or `features`."""
    found: float
    allowed: float

    @property
    def excess(self) -> float:
        return self.found / self.allowed if np.isfinite(self.found) else float("inf")


@dataclass(frozen=True)
class Agreement:
    """How close an engine's results are to the reference's."""

    paths: int
    """Number of paths compared."""
    differing: int
    step: str
    """The step with the largest difference relative to its margin."""
    what: str
    found: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"{self.differing} of {self.paths} paths differ; at most {self.what} of {self.step} {self.found:.1e} apart "
            f"({self.allowed:g} allowed)"
        )


def steps_of(tree: PathTree) -> list[tuple[int, Precision]]:
    """Every segment, from 1, with each of its precisions on considered paths."""
    return sorted({(len(path), path[-1]) for path in tree.paths}, key=lambda step: (step[0], str(step[1])))


class Canary:
    """The arrays of `write_canary`, read once and never changed."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.images: np.ndarray = arrays["before.1"].astype(np.float32)
        self.trade_offs, self.first, node, *others = (arrays[f"path.{name}"] for name in _PATHS)
        label, lead, features = others
        self.routes = Routes(node, label, lead, features, arrays.get(CARRIED, np.zeros((*node.shape, 1, 0))))

    @classmethod
    def read(cls, folder: Path) -> "Canary | None":
        """The canary of a bundle; None for a bundle without one (formats 1 and 2). Raises IntegrityError for a damaged canary."""
        path = folder / CANARY
        if not path.is_file():
            return None
        arrays = read_tensors(path)
        if absent := sorted({"before.1", *(f"path.{name}" for name in _PATHS)} - set(arrays)):
            raise IntegrityError(f"{path}: {absent[0]} is missing")
        return cls(arrays)

    def __len__(self) -> int:
        return len(self.images)

    def before(self, segment: int) -> np.ndarray:
        """The states (n, …) before a segment, float32; images before segment 1."""
        return self.arrays[f"before.{segment}"].astype(np.float32)

    def fault(self, tree: PathTree, image: tuple[int, ...], classes: int, features: int, carried: int = 0) -> str:
        """The fault of a canary that does not fit a bundle's tree and networks, and the numbers that its policies carry; an
        empty string if there is none."""
        n, k, last = len(self), len(self.trade_offs), tree.segments
        befores = {f"before.{segment}" for segment in range(1, last + 1)}
        if absent := sorted(befores - set(self.arrays)):
            return f"{absent[0]} is missing"
        by_path: dict[str, tuple[int, ...]] = dict.fromkeys(("node", "label", "lead"), (k, n))
        by_path |= {"first": (k,), "trade_off": (k,), "features": (k, n, last * features)}
        wanted = {"before.1": (n, *image), **{f"path.{name}": by_path[name] for name in _PATHS}}
        if carried:
            wanted[CARRIED] = (k, n, last, carried)
        for segment, precision in steps_of(tree):
            name = step_name(segment, precision)
            wanted |= {f"{name}.log_probs": (n, classes), f"{name}.features": (n, features)}
            if segment < last:
                wanted[f"{name}.state"] = (n, min(NUMBERS, self.arrays[f"before.{segment + 1}"][0].size))
        odd = [name for name, shape in wanted.items() if name not in self.arrays or self.arrays[name].shape != shape]
        odd += sorted(set(self.arrays) - set(wanted) - befores)
        odd += sorted(name for name in befores if len(self.arrays[name]) != n)
        if odd or not n or not k:
            return f"{odd[0] if odd else 'images'} missing, left over or of another shape"
        if unreal := sorted(name for name, array in self.arrays.items() if not np.isfinite(array).all()):
            return f"{unreal[0]} has values that are not finite"
        inside = ((self.routes.node >= 0) & (self.routes.node < len(tree))).all()
        begins = {b for b, node in enumerate(tree.children[-1]) if node >= 0}
        return "" if inside and set(self.first.tolist()) <= begins else "its paths are not in the tree"

    def difference(self, engine: Engine, segment: int, precision: Precision, batch: int | None = None) -> Difference:
        """The largest difference of an engine in a step, relative to the allowed one, on `batch` images at a time, or on all."""
        name, margin = step_name(segment, precision), margin_of(precision)
        found = in_batches(engine, segment, precision, self.before(segment), batch or len(self))
        log_probs, features = found.seen()
        kept = {key: self.arrays[f"{name}.{key}"].astype(float) for key in ("log_probs", "features")}
        by_kind = {
            "log-probabilities": (np.abs(log_probs - kept["log_probs"]).max(axis=1), margin.seen),
            "features": (
                np.abs(features - kept["features"]).max(axis=1) / np.maximum(1.0, np.abs(kept["features"]).max(axis=1)),
                margin.seen,
            ),
        }
        if found.state is not None:
            state = self.arrays[f"{name}.state"].astype(float)
            norm = np.maximum(np.linalg.norm(state, axis=1), np.finfo(np.float32).tiny)
            by_kind["states"] = (np.linalg.norm(spread(found.state) - state, axis=1) / norm, margin.state)
        differences = [Difference(kind, _typical(values), allowed) for kind, (values, allowed) in by_kind.items()]
        return max(differences, key=lambda difference: difference.excess)

    def check(self, executor: Executor, policy: Router) -> Agreement:
        """Compare an executor's engine with the whole canary; raises DisagreementError."""
        found = {step: self.check_step(executor.engine, *step) for step in steps_of(policy.tree)}
        segment, precision = max(found, key=lambda step: found[step].excess)
        worst, differing = found[segment, precision], self.check_paths(executor, policy)
        step = f"segment {segment} at {precision}"
        return Agreement(self.routes.node.size, differing, step, worst.what, worst.found, worst.allowed)

    def check_step(self, engine: Engine, segment: int, precision: Precision, batch: int | None = None) -> Difference:
        """The difference of a step; raises DisagreementError where it exceeds the allowed one."""
        difference = self.difference(engine, segment, precision, batch)
        if difference.excess > 1:
            raise refusal(
                engine,
                f"segment {segment} at {precision}, {difference.what} {difference.found:.2g} apart for a quarter of "
                f"{len(self)} images (allowed: {difference.allowed:g})",
            )
        return difference

    def check_paths(self, executor: Executor, policy: Router) -> int:
        """The number of images whose paths differ; all but a few differences are near ties.

        Raises DisagreementError where more paths differ, or more differences are no near ties, than chance explains.
        """
        whole = executor.on(_Whole(executor.engine, len(self)))
        parted = self.parting(whole, policy, np.ones(self.routes.node.shape, bool))
        return self.judge(executor.engine, policy, parted)

    def parting(self, executor: Executor, policy: Router, compared: np.ndarray) -> "Parting":
        """Where paths (K, N) that are to be compared differ on an executor."""
        tree, kept, found = policy.tree, self.routes, Parting()
        for k in np.flatnonzero(compared.any(axis=1)).tolist():
            rows, at = compared[k].nonzero()[0], slice(k, k + 1)
            ran = routes(executor, self.images[rows], self.trade_offs[at], self.first[at])
            node, label = ran.node[0], ran.label[0]
            other = node != kept.node[k, rows]
            for i, ended in zip(rows[other].tolist(), node[other].tolist(), strict=True):
                expected = int(kept.node[k, i])
                features = np.zeros((len(tree), executor.features), np.float32)
                lineage = tree.lineage(expected)
                features[lineage] = kept.features[k, i].reshape(tree.segments, -1)[: len(lineage)]
                where = expected, ended, features, float(self.trade_offs[k]), kept.carried[k, i]
                found.gaps.append(gap(policy, *where))
            renamed = ~other & (label != kept.label[k, rows])
            found.gaps += kept.lead[k, rows[renamed]].tolist()
            found.differing += int(other.sum())
            found.paths += len(rows)
        return found

    def judge(self, engine: Engine, policy: Router, found: "Parting") -> int:
        """The number of paths that differ; raises DisagreementError where that is more than chance explains in all paths."""
        margin = margin_of_paths(policy.tree.precisions)
        limit, most = (allowed_flips(self.routes.node.size, share) for share in (margin.paths, 1 - margin.wide))
        wide = sum(own > margin.tie for own in found.gaps)
        if found.differing > limit or wide > most:
            raise refusal(
                engine,
                f"{found.differing} of {found.paths} paths differ (allowed: {limit}), {wide} steps or labels by more than "
                f"{margin.tie:g} in value (allowed: {most}), at most by {max(found.gaps):.2g}",
            )
        return found.differing


@dataclass
class Parting:
    """How paths of an engine differ from the reference's."""

    paths: int = 0
    """Number of paths compared."""
    differing: int = 0
    gaps: list[float] = field(default_factory=list)
    """Where a path differs, how far apart the values of the two steps are; where only the label does, the two probabilities."""

    def add(self, other: "Parting") -> None:
        self.paths, self.differing = self.paths + other.paths, self.differing + other.differing
        self.gaps += other.gaps


class _Whole:
    """Gives an engine always the same number of samples, so that no smaller size is compiled."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.name, self.version, self.threads = engine.name, engine.version, engine.threads
        self.engine, self.size = engine, size

    def executed(self, precision: Precision) -> str:
        return self.engine.executed(precision)

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        return in_batches(self.engine, segment, precision, state, self.size)


def in_batches(engine: Engine, segment: int, precision: Precision, states: np.ndarray, batch: int) -> Step:
    """A step on states (n, …), always `batch` at a time: what is left over is filled up with its first one, so that no smaller
    size is compiled."""
    ran, n = [], len(states)
    for part in (states[at : at + batch] for at in range(0, n, batch)):
        filled = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)]) if len(part) < batch else part
        ran.append(engine.run(segment, precision, filled))
    state, logits, embedding = (
        None if parts[0] is None else np.concatenate(parts)[:n]
        for parts in ([getattr(step, name) for step in ran] for name in ("state", "logits", "embedding"))
    )
    assert logits is not None
    return Step(state, logits, embedding)


def refusal(engine: Engine, reason: str) -> DisagreementError:
    """Message with the reason why an engine is refused, and an alternative."""
    advice = "make the bundle anew on this machine" if engine.name == "torch" else "take engine auto, or torch"
    return DisagreementError(
        f"engine {engine.name} {engine.version} disagrees with the bundle's reference: {reason}; {advice}. CPU: {cpu_model()}"
    )


def step_name(segment: int, precision: Precision) -> str:
    return f"{precision}.segment{segment}"


def spread(state: np.ndarray) -> np.ndarray:
    """States (n, …) to (n, at most NUMBERS) of their numbers, evenly spread."""
    flat = state.reshape(len(state), -1)
    return flat[:, evenly(flat.shape[1], NUMBERS, nearest=True)]


def _typical(values: np.ndarray) -> float:
    """The bound that three quarters of the differences (n,) keep; infinite if any difference is not finite."""
    return float(np.quantile(values, QUANTILE)) if np.isfinite(values).all() else float("inf")
