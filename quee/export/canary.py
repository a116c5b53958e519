"""Making a bundle's canary with the reference engine."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from quee.evenly import evenly
from quee.paths import PathTree
from quee.precision import Precision
from quee.runtime.canary import spread, step_name, steps_of
from quee.runtime.engines.base import Engine, Step
from quee.runtime.executor import Executor
from quee.runtime.manifest import CANARY
from quee.runtime.operating import Point
from quee.runtime.routes import routes
from quee.work.io import write_tensors

IMAGES = 32
"""Most images in a canary."""
BYTES = 4 << 20
"""Most bytes of a canary, unless a single image takes more."""
POINTS = 4
"""Operating points whose paths are kept."""
SEED = 0


def write_canary(
    out: Path, executor: Executor, points: Sequence[Point], ids: np.ndarray, load: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Write a canary to the folder `out`: samples drawn from `ids`, with the results of the executor's engine.

    That engine is the reference. `load(ids)` gives prepared images (n, c, h, w).
    """
    tree, engine = executor.tree, executor.engine
    drawn = np.random.default_rng(SEED).permutation(ids)[:IMAGES]
    first = _kept(engine, tree, load(drawn[:1]))
    own = sum(array.nbytes for array in first.values())
    own += POINTS * (4 * 3 + 4 * tree.segments * executor.features)
    count = max(1, min(len(drawn), BYTES // own))
    arrays = _kept(engine, tree, load(np.sort(drawn[:count])))
    chosen = [points[i] for i in evenly(len(points), POINTS, nearest=True)]
    trade_offs, steps = np.array([p.trade_off for p in chosen]), np.array([p.first for p in chosen], np.int32)
    found = routes(executor, arrays["before.1"].astype(np.float32), trade_offs, steps)
    paths = {"trade_off": trade_offs, "first": steps, **vars(found)}
    if not found.carried.size:
        del paths["carried"]
    write_tensors(out / CANARY, {**arrays, **{f"path.{name}": value for name, value in paths.items()}})


def _kept(engine: Engine, tree: PathTree, images: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs and outputs of every step, for prepared images."""
    arrays: dict[str, np.ndarray] = {}
    given, onward = images, tree.precisions[-1]
    for segment in range(1, tree.segments + 1):
        arrays[f"before.{segment}"] = kept = _narrow(given)
        ran: dict[Precision, Step] = {}
        for own, precision in steps_of(tree):
            if own == segment:
                ran[precision] = step = engine.run(segment, precision, kept.astype(np.float32))
                name = step_name(segment, precision)
                arrays[f"{name}.log_probs"] = step.log_probs.astype(np.float32)
                arrays[f"{name}.features"] = step.features
                if step.state is not None:
                    arrays[f"{name}.state"] = spread(step.state)
        if segment < tree.segments:
            behind = ran.get(onward, next(iter(ran.values()))).state
            assert behind is not None
            given = behind
    return arrays


def _narrow(x: np.ndarray) -> np.ndarray:
    """Half precision where the values are in its range; the reference computes on the stored values."""
    return x.astype(np.float16 if np.abs(x).max() < 6e4 else np.float32)
