"""Simulated = executed: the same path and answer for every test image from the cache, the executor and the loaded bundle.

    python benchmarks/agreement.py [EXPERIMENT] [--artifacts artifacts] [--data data] [--budgets 0.05 0.1 0.2 0.4]
                                   [--engines openvino onnxruntime] [--limit N] [--json FILE]

The simulation reads the feature cache and runs no network. Its answers are right or wrong; labels are compared among the
ways of execution. The executor runs the stages' networks, the bundle its own files. For batch invariance the same images
run in another order, in batches of random sizes, and through the scheduler from eight threads; probabilities are compared
bit by bit.

Installed engines execute graphs exported here. Printed are their share of equal paths, their difference in accuracy, and
the tie margin: where a path differs, the difference in value (predicted error + λ · cost) of the two steps at that gate.

Exit status 1 when results that must be equal differ, or an engine exceeds the margins of `quee.runtime.margin`.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from quee.cache.answers import read_answers
from quee.cache.read import FeatureCache
from quee.data.source import open_dataset
from quee.exits.heads import ExitHeads
from quee.export.graphs import export_graphs
from quee.features import GateView
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import load_precisions
from quee.policies.base import Basis, Policy, Walks, simulate, wrong
from quee.policies.files import read_policy, read_predictors
from quee.policies.walks import walks_of
from quee.runtime import AdaptiveClassifier, Options, Routed, load_bundle
from quee.runtime.engines import open_engine
from quee.runtime.executor import draws
from quee.runtime.margin import margin_of_paths
from quee.runtime.routes import gap
from quee.runtime.scheduler import Scheduler
from quee.work.io import read_json

EXACT = "must be 0"


def stage_policy(artifacts: Path, cache: FeatureCache, name: str) -> Policy:
    """The policy from the stages' results."""
    basis = Basis(cache.tree, cache.description, read_predictors(artifacts / "predictors"))
    return read_policy(artifacts / "policies", name, basis)


def simulated(
    cache: FeatureCache, policy: Policy, walks: Walks, classifier: AdaptiveClassifier, x: np.ndarray, budget: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and errors (n,) from the cache alone, and each sample's knob."""
    at, rows = classifier.operating(Options(budget=budget)), np.arange(len(cache))
    knobs = np.array([at.low.trade_off, at.high.trade_off])
    ends = simulate(cache.tree, policy, cache.features, knobs, walks)
    errors = np.stack([wrong(policy, end, knobs, cache.error, walks) for end in ends])
    second = (draws(x) < at.share).astype(int)
    own = np.where(second, at.high.first, at.low.first), rows, second
    return ends[own], errors[own].astype(bool), knobs[second]


def in_pieces(classifier: AdaptiveClassifier, x: np.ndarray, budget: float) -> Routed:
    """The same images shuffled, in batches of 1 to 200."""
    random = np.random.default_rng(0)
    order = random.permutation(len(x))
    cuts = np.cumsum(random.integers(1, 201, size=len(x)))
    parts = [p for p in np.split(order, cuts[cuts < len(x)]) if len(p)]
    return restored([classifier.route_prepared(x[p], budget=budget) for p in parts], order)


def through_scheduler(classifier: AdaptiveClassifier, x: np.ndarray, budget: float) -> Routed:
    """The same images from eight threads, mixed with requests at other budgets."""
    parts = np.array_split(np.arange(len(x)), max(1, len(x) // 50))
    with Scheduler(classifier, batch=64, capacity=10 * len(x)) as scheduler, ThreadPoolExecutor(8) as pool:

        def ask(rows: np.ndarray) -> Routed:
            other = scheduler.submit_prepared(x[rows[:5]], Options(budget=budget * 1.5))
            found = scheduler.submit_prepared(x[rows], Options(budget=budget)).result()
            other.result()
            return found

        return restored(list(pool.map(ask, parts)), np.concatenate(parts))


def restored(found: list[Routed], order: np.ndarray) -> Routed:
    def joined(name: str) -> np.ndarray:
        values = np.concatenate([getattr(f, name) for f in found])
        back = np.empty_like(values)
        back[order] = values
        return back

    arrays = {n: joined(n) for n in ("label", "probabilities", "node", "cost", "predicted_error", "knob")}
    return Routed(path=[], budget_met=True, policy=[], **arrays)


def widest(
    cache: FeatureCache, policy: Policy, walks: Walks, expected: np.ndarray, found: np.ndarray, at: np.ndarray
) -> float:
    """The largest difference in value between the two steps at the gate where a path differs."""
    parted = [0.0]
    for row in np.flatnonzero(expected != found):
        node, carried = int(expected[row]), None
        part = next(policy.parts(at[row : row + 1]))
        if part.policy.carries:
            lineage = cache.tree.lineage(node)
            carried = np.zeros((cache.tree.segments, part.policy.carries))
            carried[: len(lineage)] = walks[part.name].carried[row, lineage]
        parted.append(gap(policy, node, int(found[row]), cache.features[row], float(at[row]), carried))
    return max(parted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="digits")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--engines", nargs="*", default=["openvino", "onnxruntime"])
    parser.add_argument("--limit", type=int, help="only so many images")
    parser.add_argument("--json", type=Path, help="write what is printed to this file too")
    options = parser.parse_args()
    artifacts = options.artifacts / options.experiment
    if not (artifacts / "bundle").is_dir():
        print(f"{artifacts / 'bundle'} is not there: quee run {options.experiment}")
        return 0

    bundle = load_bundle(artifacts / "bundle")
    cache = read_answers(artifacts / "features", artifacts / "targets", splits=("test",))
    cache = cache.select(np.arange(len(cache))[: options.limit])
    dataset = read_json(artifacts / "prepare" / "dataset.json")
    images = open_dataset(options.data / dataset["dataset"], dataset["dataset"], dataset["files"])
    x = images.batch(cache.sample_id, bundle.transform).numpy()
    policy = stage_policy(artifacts, cache, bundle.description["policy"])
    walks = walks_of(policy, cache)
    networks: MultiPrecisionBackbone = load_precisions(
        artifacts / "backbone", artifacts / "quantize", cache.tree.precisions
    )
    heads = ExitHeads.load(artifacts / "exits" / "heads.safetensors", networks.first)
    view = GateView(networks, heads, bundle.view.embedding)
    b = bundle
    executor = AdaptiveClassifier(view, policy, b.costs, b.points, b.classes, b.budget, ensembles=cache.ensembles)
    print(f"{options.experiment}: {len(x)} test images, policy {b.description['policy']}, {len(cache.tree)} nodes")

    faults, rows = 0, list[dict[str, Any]]()
    truth: dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for budget in options.budgets:
        truth[budget] = node, error, _ = simulated(cache, policy, walks, bundle, x, budget)
        print(f"budget {budget:g}: accuracy {1 - error.mean():.4f}, cost {b.costs[node].mean():.4f}")
        whole: Routed | None = None
        ways = {
            "executor": lambda budget: executor.route_prepared(x, budget=budget),
            "loaded bundle": lambda budget: bundle.route_prepared(x, budget=budget),
            "bundle, shuffled, batches of 1 to 200": lambda budget: in_pieces(bundle, x, budget),
            "bundle, scheduler, 8 threads": lambda budget: through_scheduler(bundle, x, budget),
        }
        for name, run in ways.items():
            start = time.perf_counter()
            found = run(budget)
            seconds = time.perf_counter() - start
            whole = found if whole is None else whole
            paths = int((found.node != node).sum())
            labels = int((((found.label != cache.label) != error) | (found.label != whole.label)).sum())
            bits = int((found.probabilities != whole.probabilities).any(axis=1).sum())
            faults += paths + labels + bits
            rows.append({"way": name, "budget": budget, "paths": paths, "labels": labels, "probabilities": bits})
            print(
                f"  {name:40} other paths {paths}, labels {labels}, probabilities {bits} ({EXACT}); "
                f"{len(x) / seconds:.0f} images/s",
                flush=True,
            )
    present = [name for name in options.engines if find_spec(name)] if find_spec("onnx") else []
    allowed = margin_of_paths(cache.tree.precisions)
    with tempfile.TemporaryDirectory() as folder:
        if present:
            export_graphs(bundle.view, cache.tree.precisions, Path(folder))
        for name in present:
            other, same = bundle.on(open_engine(name, bundle.view, Path(folder))), 0
            for budget, (node, error, at) in truth.items():
                found = other.route_prepared(x, budget=budget)
                equal, change = (
                    (found.node == node).mean(),
                    error.mean() - (found.label != cache.label).mean(),
                )
                tie = widest(cache, policy, walks, node, found.node, at)
                same += int((found.node == node).sum())
                faults += int(tie > allowed.tie)
                labels = ((found.label != cache.label) == error).mean()
                rows.append(
                    {
                        "way": name,
                        "budget": budget,
                        "equal_paths": equal,
                        "equal_answers": labels,
                        "change": change,
                        "tie": tie,
                    }
                )
                print(
                    f"{name}, budget {budget:g}: equal paths {equal:.4%}, answers {labels:.4%}, "
                    f"accuracy {100 * change:+.3f} points, largest margin of a flip {tie:.4f}",
                    flush=True,
                )
            share = same / (len(truth) * len(x))
            faults += int(share < allowed.paths)
            print(
                f"{name}: equal paths at all budgets together {share:.4%} (least: {allowed.paths:.1%}; tie margin: "
                f"{allowed.tie:g})",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps({"faults": faults, "images": len(x), "rows": rows}, indent=1) + "\n")
    print("equal" if not faults else f"{faults} DIFFERENCES")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
