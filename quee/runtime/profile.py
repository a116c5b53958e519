"""Measured milliseconds instead of BitFLOPs: the time of each segment and decision on this machine.

A profile is in `BUNDLE.profile.json` beside its bundle, and belongs to that bundle, one machine, engine and number of
threads. Exit heads are measured with their segments; answers, state features and decisions at the gates separately.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from quee import __version__
from quee.ensembles import Ensembles, as_cached
from quee.errors import IntegrityError, UsageError
from quee.paths import PathTree
from quee.policies.base import Costs, Part, Router
from quee.precision import Precision
from quee.runtime.engines.base import Engine, Step
from quee.work.io import FORMAT, read_json, write_json
from quee.work.machine import cpu_model

LOG = logging.getLogger(__name__)

BATCHES = (1, 8, 64)
REPEATS = 9


@dataclass(frozen=True)
class Timing:
    """The time of one batch: of a segment with its gate (with a precision), or of the decision at a gate."""

    segment: int
    """Number of the segment, or of the gate that decides, from 1."""
    precision: str
    """Empty for a decision."""
    executed: str
    batch: int
    milliseconds: float
    """Median time of the whole batch."""


@dataclass(frozen=True)
class Profile:
    """Measured milliseconds by segment, precision and batch size."""

    bundle: str
    """SHA-256 of the bundle's description."""
    engine: str
    version: str
    threads: int
    machine: str
    timings: tuple[Timing, ...]
    quee: str = ""
    """The version of quee that measured; older profiles have none."""

    def foreign(self, engine: Engine) -> str:
        """How the profiled circumstances differ from those of an engine here; empty where they do not."""
        own, here = self.circumstances, profile_of(self.bundle, engine, ()).circumstances
        return ", ".join(
            f"{name} {own[name] or 'unknown'} (here {here[name]})" for name in here if own[name] != here[name]
        )

    @property
    def circumstances(self) -> dict[str, str]:
        """Everything that times depend on, by name."""
        engine = f"{self.engine} {self.version}".strip()
        return {"engine": engine, "threads": str(self.threads), "CPU": self.machine, "quee": self.quee}

    @cached_property
    def _curves(self) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
        found: dict[tuple[int, str], dict[int, float]] = {}
        for t in self.timings:
            found.setdefault((t.segment, t.precision), {})[t.batch] = t.milliseconds
        return {k: (np.array(sorted(v)), np.array([v[b] for b in sorted(v)])) for k, v in found.items()}

    def milliseconds(self, segment: int, precision: Precision | str, samples: float) -> float:
        """Milliseconds of a batch of `samples`: interpolated between measured batch sizes, in proportion beyond the largest."""
        batches, times = self._curves[segment, str(precision)]
        if samples <= 0:
            return 0.0
        if len(batches) > 1 and samples > batches[-1]:
            return float(times[-1] * samples / batches[-1])
        return float(np.interp(samples, batches, times))

    def cost(self, segment: int, precision: Precision, batch: int = 1) -> float:
        """Milliseconds per sample; the backbone's own head (segment 0) is measured with the last segment."""
        return self.milliseconds(segment, precision, batch) / batch if segment else 0.0

    def decision(self, gate: int, batch: int) -> float:
        """Milliseconds per sample of a decision."""
        return self.milliseconds(gate, "", batch) / batch

    def costs(self, tree: PathTree, batch: int) -> Costs:
        """Costs by node, in milliseconds per sample at a batch size."""
        segment = np.array([self.cost(len(path), path[-1], batch) for path in tree.paths])
        decided = [self.decision(gate, batch) for gate in range(1, tree.segments)]
        decision = np.array([*decided, 0.0])[tree.gate - 1]
        static, routed = segment.copy(), segment + decision
        for node in range(len(tree)):
            if (parent := tree.parent[node]) >= 0:
                static[node] += static[parent]
                routed[node] += routed[parent]
        return Costs(segment, np.zeros(len(tree)), decision, static, routed)

    def unit(self, tree: PathTree, batch: int) -> float:
        """Milliseconds per sample of the static w8a8 network, or of the fastest static one where there is none."""
        full = np.flatnonzero(tree.gate == tree.segments)
        static = self.costs(tree, batch).static
        w8a8 = [node for node in full if set(tree.paths[node]) == {Precision("w8a8")}]
        return float(static[w8a8[0]] if w8a8 else static[full].min())

    def expected(self, tree: PathTree, shares: np.ndarray, batch: int) -> float:
        """Milliseconds per sample when shares (N,) of a batch leave at each node and samples regroup at every gate."""
        passing = shares.astype(float).copy()
        for node in range(len(tree) - 1, -1, -1):
            if (parent := tree.parent[node]) >= 0:
                passing[parent] += passing[node]
        total = 0.0
        for gate in range(1, tree.segments + 1):
            nodes = tree.nodes_at(gate)
            for index, precision in enumerate(tree.precisions):
                total += self.milliseconds(gate, precision, batch * passing[nodes[tree.choice[nodes] == index]].sum())
            if gate < tree.segments:
                total += self.milliseconds(gate, "", batch * passing[nodes].sum())
        return total / batch

    def write(self, path: Path) -> None:
        write_json(path, {**asdict(self), "format": FORMAT})


def profile_of(bundle: str, engine: Engine, timings: tuple[Timing, ...]) -> Profile:
    """The profile of an engine in this process; `bundle` is the digest of the bundle's description."""
    return Profile(bundle, engine.name, engine.version, engine.threads, cpu_model(), timings, __version__)


def profile_path(bundle: Path) -> Path:
    """Path of a bundle's profile, beside the bundle."""
    resolved = bundle.resolve()
    return resolved.with_name(f"{resolved.name}.profile.json")


def read_profile(bundle: Path, digest: str) -> Profile | None:
    """The profile beside a bundle, or None where there is none, or the one of an earlier bundle; that is logged.

    Raises IntegrityError where it is damaged.
    """
    path = profile_path(bundle)
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        if value.pop("format") != FORMAT:
            raise ValueError("of another format")
        timings = tuple(Timing(**row) for row in value.pop("timings"))
        found = Profile(**value, timings=timings)
        if not all(np.isfinite(t.milliseconds) and t.milliseconds > 0 and t.batch > 0 for t in timings):
            raise ValueError("a time is not above 0")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path} is no profile: {error}; make it anew with `quee profile {bundle}`") from None
    if found.bundle != digest:
        LOG.warning("%s is of an earlier bundle and not used; `quee profile %s` makes it anew", path, bundle)
        return None
    return found


def measure(
    engine: Engine,
    policy: Router,
    features: int,
    images: np.ndarray,
    batches: Sequence[int] = BATCHES,
    repeats: int = REPEATS,
    ensembles: Ensembles | None = None,
) -> tuple[Timing, ...]:
    """Time every (segment, precision, batch) and every decision, in alternation; the results are medians.

    Where several policies decide, the decision is that of the slowest at each gate and batch.

    `images` (n, c, h, w) are prepared, and repeated for larger batches; `features` is the number of features of a gate.
    State features and the answers of `ensembles` are measured with the decisions; the answer at the last gate, behind which
    none is taken, is left out.
    """
    if not batches or min(batches) < 1:
        raise UsageError(f"batches {list(batches)}; valid: from 1")
    tree, largest = policy.tree, max(batches)
    states, steps = {1: np.resize(images, (largest, *images.shape[1:]))}, dict[int, Step]()
    for segment in range(1, tree.segments):
        steps[segment] = engine.run(segment, tree.precisions[-1], states[segment])
        state = steps[segment].state
        assert state is not None
        states[segment + 1] = state
    seen = np.zeros((largest, tree.segments * features), np.float32)
    runs: dict[tuple[int, str, str, int, int], Callable[[], Any]] = {}
    parts = list(policy.parts(policy.knobs(len(batches))))
    considered = {(len(path), path[-1]) for path in tree.paths}
    for batch in batches:
        for segment, precision in sorted(considered, key=lambda key: (key[0], str(key[1]))):
            state = states[segment][:batch]
            engine.run(segment, precision, state)
            key = (segment, str(precision), engine.executed(precision), batch, 0)
            runs[key] = lambda s=segment, p=precision, x=state: engine.run(s, p, x)  # type: ignore[misc]
        for gate in range(1, tree.segments):
            node = np.full(batch, tree.nodes_at(gate)[0])
            embedding = steps[gate].embedding
            step = Step(None, steps[gate].logits[:batch], None if embedding is None else embedding[:batch])
            given = (gate, node, seen[:batch, : gate * features], step)
            for number, part in enumerate(parts):
                runs[gate, "", "fp32", batch, number] = partial(_decided, part, ensembles, *given)
    times: dict[tuple[int, str, str, int, int], list[float]] = {key: [] for key in runs}
    for _ in range(repeats + 1):
        for key, run in runs.items():
            run()  # warm-up: in use, a segment's weights are in the CPU's cache
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    slowest: dict[tuple[int, str, str, int], float] = {}
    for (segment, name, executed, batch, _), taken in times.items():
        what = (segment, name, executed, batch)
        slowest[what] = max(1e3 * float(np.median(taken[1:])), slowest.get(what, 0.0))
    return tuple(Timing(*what, milliseconds=found) for what, found in slowest.items())


def _decided(
    part: Part, ensembles: Ensembles | None, gate: int, node: np.ndarray, seen: np.ndarray, step: Step
) -> np.ndarray:
    """What is computed at a gate behind its head's step, for features (n, gate · F): the answer, its features, the decision."""
    policy, n = part.policy, len(node)
    if ensembles is not None and not policy.classes:
        heads = np.zeros((n, gate, ensembles.classes), np.float16)
        heads[:, -1] = as_cached(step.log_probs)
        step = Step(None, ensembles.logits(node, heads), step.embedding)
    step.seen()
    carried = np.zeros((n, policy.carries))
    if policy.carries:
        said = np.zeros((n, gate, policy.classes), np.float16) if policy.classes else np.zeros(n, np.int64)
        carried, _ = policy.carry(node, carried, said)
    return policy.decide(policy.read(gate, node, policy.seen(seen, carried)), np.resize(part.knob, n))
