"""Executed speed: QuEE against every static deployment of the same backbone that reaches the same accuracy.

    python benchmarks/runtime.py [EXPERIMENT] [--threads 1] [--repeats 5] [--json FILE] [--only fixture,sizes,static]

`fixture` runs the bundle of an experiment (default fashion_mnist_cpu) on its test set. It measures the accuracy of every
deployment on all images, then throughput at several batch sizes and p50 and p95 at batch 1: in alternation, as medians,
on the same threads. QuEE's operating point is the cheapest one whose validation accuracy is within half a point of the
highest precision's with 95 % confidence (paired). The threshold of `exits only` is chosen in the same way; fixed budgets
are measured too. The first segments with their exit head count as a static deployment where the same rule holds for
them (`sure`). Ratios compare the fastest deployments that reach the target on test.

`sizes` runs networks of real sizes with random weights, from which given shares of the samples leave early. It shows
what the executor adds to the time of its parts.

`static` compares static deployments of an experiment's weights alone; it needs the stage `prepare` and no bundle. Peers need
the extra `bench`. Figures depend on the kind of CPU, so its name and instruction sets are printed first.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from quee.data.source import open_dataset
from quee.data.splits import split_ids
from quee.data.weights import load_weights
from quee.data.weights_facts import weights_facts, weights_path
from quee.exits.heads import ANY, Classifier, ExitHead, ExitHeads
from quee.export.graphs import export_graphs
from quee.features import GateView
from quee.intervals import half_width
from quee.network.architectures import create_backbone
from quee.network.execution import MultiPrecisionBackbone
from quee.paths import PathTree
from quee.policies.base import Costs, Limit, Policy, Table, simulate_behind
from quee.policies.confidence import Confidence
from quee.policies.thresholds import points_of
from quee.precision import Precision
from quee.runtime import load_bundle
from quee.runtime.classifier import AdaptiveClassifier
from quee.runtime.engines import Step, open_engine
from quee.runtime.executor import Executor, Flight
from quee.runtime.profile import measure, profile_of
from quee.settings.experiment import load_experiment
from quee.work.io import read_json, read_table
from quee.work.machine import cpu_model, resident_bytes

sys.path.insert(0, str(Path(__file__).parent))
from cpu import instructions
from static_engines import Run, static_deployments

CLOCK: Callable[[], float] = time.perf_counter
DROP = 0.005
BATCHES = (1, 8, 64, 256)
BUDGETS = (0.25, 0.275, 0.3, 0.35)
"""Budgets of QuEE besides the one chosen on validation, in units of static w8a8."""
CHOSEN = ("QuEE", "QuEE, by milliseconds")
"""Deployments whose operating points are chosen on validation."""
IMAGES = {1: 150, 8: 400, 64: 1024, 256: 1024}
"""Images per repeat, by batch."""


def by_threshold(tree: PathTree, threshold: float, feature_names: list[str]) -> Confidence:
    """Early exits alone, on a tree of one precision: leaves where the largest probability reaches a threshold."""
    points = points_of((0,) * tree.segments, np.full((1, tree.segments - 1), threshold), np.array([threshold]))
    free = Costs(*np.zeros((5, len(tree))))
    return Confidence(tree, free, feature_names, points)


@dataclass
class Forced(Policy):
    """A fixed share of the samples leaves, spread evenly over the gates before the last."""

    tree: PathTree
    share: float

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        return Table(gate, node, ())

    def values(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        gates = self.tree.segments - 1
        here = self.share / gates / (1 - self.share * (table.gate - 1) / gates)
        found = np.zeros((len(table), 2))
        found[: round(here * len(table)), 1] = 1.0
        found[round(here * len(table)) :, 0] = 1.0
        return found

    def exit_error(self, table: Table) -> np.ndarray:
        return np.zeros(len(table))

    def under(self, costs: Costs) -> "Forced":
        return self

    @classmethod
    def fit(cls, setting: Any) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, basis: Any, arrays: Any) -> "Forced":
        raise NotImplementedError


class Recording:
    """An engine that records what it ran."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.name, self.version, self.threads = engine, engine.name, engine.version, engine.threads
        self.calls: list[tuple[int, Precision, np.ndarray]] = []

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        self.calls.append((segment, precision, state))
        return self.engine.run(segment, precision, state)

    def executed(self, precision: Precision) -> str:
        return self.engine.executed(precision)


def routed_by(engine: Any, policy: Policy, features: int) -> Run:
    """Runs images as a policy decides, to log probabilities."""
    executor = Executor(engine, policy, features)

    def run(x: np.ndarray) -> np.ndarray:
        n, found = len(x), {}
        samples = executor.samples(n)
        samples.admit(slice(None), np.zeros(n))
        flight = Flight(np.arange(n), x)
        executor.run(samples, flight, np.zeros(n, int), lambda gate, *left: found.update({len(found): left}))
        result = np.empty((n, next(iter(found.values()))[1].shape[1]))
        for slots, log_probs in found.values():
            result[slots] = log_probs
        return result

    return run


def alternate(
    runs: dict[str, Callable[[np.ndarray], Any]], x: np.ndarray, batch: int, images: int, repeats: int
) -> Any:
    """Seconds per image and of each call, by name: (repeats,) and (calls,)."""
    starts = range(0, max(batch, min(images, len(x)) // batch * batch), batch)
    each: dict[str, list[float]] = {name: [] for name in runs}
    calls: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            own = []
            for start in starts if repeat else list(starts)[: max(3, 512 // batch)]:
                part = x[start : start + batch]
                before = CLOCK()
                run(part)
                own.append(CLOCK() - before)
            if repeat:
                each[name].append(sum(own) / len(own) / batch)
                calls[name] += own
    return each, calls


def over_parts(engine: Any, make: Callable[[Any], Run], batches: list[np.ndarray], repeats: int) -> list[float]:
    """Executed time relative to the sum of its segments' times run alone on the same batches: a ratio per repeat."""
    recording = Recording(engine)
    run = make(recording)
    for x in batches:
        run(x)
    parts, run, ratios = [(s, p, x.copy()) for s, p, x in recording.calls], make(engine), []
    for repeat in range(repeats + 2):
        before = CLOCK()
        for x in batches:
            run(x)
        whole, before = CLOCK() - before, CLOCK()
        for part in parts:
            engine.run(*part)
        if repeat > 1:
            ratios.append(whole / (CLOCK() - before))
    return ratios


def images_of(options: argparse.Namespace, transform: Any) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Prepared test images of an experiment with their labels, and those of its calibration split."""
    folder = Path(options.artifacts) / options.experiment / "prepare"
    dataset = load_experiment(options.experiment).prepare.dataset
    source = open_dataset(Path("data") / dataset, dataset, read_json(folder / "dataset.json")["files"])
    splits = read_table(folder / "splits.parquet", None)
    calibration = splits["sample_id"].to_numpy()[splits["calibration"].to_numpy(zero_copy_only=False)][:256]
    test = split_ids(folder / "splits.parquet")["test"][: options.samples]

    def read(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [(x.numpy(), np.asarray(y)) for _, x, y in source.batches(chosen, transform, 250)]
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])

    x, y = read(test)
    return np.ascontiguousarray(x), y, torch.from_numpy(read(np.sort(calibration))[0])


def compared(
    runs: dict[str, Run], model: Any, x: np.ndarray, y: np.ndarray, options: argparse.Namespace
) -> tuple[float, dict[str, dict[str, Any]]]:
    """Accuracy of the float network; accuracy, images per second by batch and times at batch 1 of every deployment."""
    rows: dict[str, dict[str, Any]] = {
        n: {"accuracy": float((predict(run, x, n) == y).mean())} for n, run in runs.items()
    }
    floating = float(np.mean(predict(lambda part: model(torch.from_numpy(part)).numpy(), x, "fp32") == y))
    print(f"\n{options.experiment}: {len(x)} test images, float accuracy {floating:.4f}, target {floating - DROP:.4f}")
    for row in rows.values():
        row["reaches"] = row["accuracy"] >= floating - DROP
    for batch in map(int, options.batches.split(",")):
        each, calls = alternate(runs, x, batch, IMAGES.get(batch, 1024), options.repeats)
        for n in runs:
            rows[n][f"images_per_second_{batch}"] = 1 / float(np.median(each[n]))
            if batch == 1:
                rows[n] |= {f"p{q}_ms": 1e3 * float(np.percentile(calls[n], q)) for q in (50, 95)}
    return floating, rows


def static(options: argparse.Namespace) -> dict[str, Any]:
    """Static deployments of the float network that an experiment's weights are, one beside the other."""
    name = load_experiment(options.experiment).backbone.weights
    if name is None:
        sys.exit(f"{options.experiment}: trains its network, so that there are no weights to deploy; take part fixture")
    facts = weights_facts(path := weights_path(name))
    model = create_backbone(facts.backbone, **dict(facts.kwargs or {})).requires_grad_(False).eval()
    prepared = read_json(Path(options.artifacts) / options.experiment / "prepare" / "dataset.json")
    load_weights(model, path, False, prepared["classes"])
    x, y, calibration = images_of(options, model.input)
    runs, sizes = static_deployments(model, None, calibration, options.threads, named(options), x[:64])
    floating, rows = compared(runs, model, x, y, options)
    for n, size in sizes.items():
        rows[n] |= size
    show(rows)
    return {"float_accuracy": floating, "target": floating - DROP, "rows": rows}


def named(options: argparse.Namespace) -> list[str]:
    return [n for n in options.static.split(";") if n]


def fixture(options: argparse.Namespace) -> dict[str, Any]:
    folder = Path(options.artifacts) / options.experiment
    classifier = load_bundle(folder / "bundle", options.engine, options.threads, profiled=False)
    x, y, calibration = images_of(options, classifier.backbone.models[Precision("fp32")].input)
    before = resident_bytes()
    classifier.warm()
    memory = resident_bytes() - before
    quee, unsure = quee_runs(classifier, x, options)
    models = classifier.backbone.models
    static, sizes = static_deployments(
        models[Precision("fp32")],
        models.get(Precision("w8a8")),
        calibration,
        options.threads,
        named(options),
        x[:64],
    )
    runs = {**quee, **static}
    floating, rows = compared(runs, models[Precision("fp32")], x, y, options)
    for n in runs:
        rows[n] |= {"sure": n not in unsure, **sizes.get(n, {})}
    batches = [x[start : start + 64] for start in range(0, min(len(x), 1024), 64)]
    ratios = over_parts(classifier.engine, lambda e: quee_run(classifier, e, options), batches, 8 * options.repeats)
    ratio = float(np.median(ratios))
    files = sum(path.stat().st_size for path in (folder / "bundle").iterdir())
    for n in quee:
        # Counts networks for every engine, heads, predictors, validation samples, and the compiled graphs of all sizes.
        rows[n] |= {"bytes": files, "resident": memory}
    show(rows)
    found: dict[str, Any] = {"float_accuracy": floating, "target": floating - DROP, "rows": rows, "over_parts": ratio}
    found["agreement"] = agreement(classifier, folder, x, y, options.budget)
    print("beside torch's:", ", ".join(f"{key} {value:.5f}" for key, value in found["agreement"].items()))
    for batch in map(int, options.batches.split(",")):
        key = f"images_per_second_{batch}"
        reach = [n for n in rows if rows[n]["reaches"]]
        ours = max((n for n in CHOSEN if n in reach), key=lambda n: rows[n][key], default="")
        parts = [n for n in reach if n.startswith("static")]
        fair = [n for n in reach if n in static] + [n for n in parts if rows[n]["sure"]]
        for what, rivals in (("ratio", fair), ("ratio_part", parts)):
            if ours and (fastest := max(rivals, key=lambda n: rows[n][key], default="")):
                found[f"{what}_{batch}"] = rows[ours][key] / rows[fastest][key]
                sure = "" if rows[fastest]["sure"] else ", which validation would not have chosen"
                print(f"batch {batch}: {ours} {found[f'{what}_{batch}']:.2f} × {fastest}{sure}")
    low, high = np.percentile(ratios, (5, 95))
    print(
        f"executed over the sum of its segments at batch 64: {ratio:.3f} ({low:.3f} to {high:.3f} in 90 % of repeats)"
    )
    return found


def agreement(
    classifier: AdaptiveClassifier, folder: Path, x: np.ndarray, y: np.ndarray, budget: float
) -> dict[str, float]:
    """Compares an engine's paths and labels with torch's (the simulation's), and batches of one with large batches."""
    exact = load_bundle(folder / "bundle", "torch", profiled=False)
    wanted, found = (one.route_prepared(x, budget=budget) for one in (exact, classifier))
    alone = [classifier.route_prepared(x[i : i + 1], budget=budget).node[0] for i in range(min(300, len(x)))]
    return {
        "paths": float((wanted.node == found.node).mean()),
        "labels": float((wanted.label == found.label).mean()),
        "accuracy_difference": float((found.label == y).mean() - (wanted.label == y).mean()),
        "paths_in_batches_of_one": float((np.array(alone) == found.node[: len(alone)]).mean()),
    }


def quee_run(classifier: AdaptiveClassifier, engine: Any, options: argparse.Namespace) -> Run:
    own = classifier.on(engine)
    return lambda x: own.route_prepared(x, budget=options.budget).probabilities


def quee_runs(
    classifier: AdaptiveClassifier, x: np.ndarray, options: argparse.Namespace
) -> tuple[dict[str, Run], set[str]]:
    """QuEE by BitFLOPs and by measured time, its static paths, exits by confidence alone; and those that are not `sure`."""
    engine, tree, names = classifier.engine, classifier.tree, len(classifier.view.names)
    error = classifier.validation["error"].astype(float)
    rows, full = np.arange(len(error)), tree.nodes_at(tree.segments)[-1]

    def sure(left: np.ndarray) -> bool:
        """Whether samples that leave at nodes (n,) lose at most half a point of accuracy, with 95 % confidence."""
        lost = error[rows, left] - error[rows, full]  # fp32 is not in this cache
        return bool(lost.mean() + half_width(lost, 1.645) <= DROP)

    features = np.zeros((len(error), len(tree), names), np.float32)
    features[:, : classifier.validation["features"].shape[1]] = classifier.validation["features"]

    def chosen(own: AdaptiveClassifier) -> float:
        lambdas, first = np.array([p.trade_off for p in own.points]), np.array([p.first for p in own.points])
        ends = simulate_behind(tree, own.policy, features, lambdas, first)
        return next((p.cost for i, p in enumerate(own.points) if sure(ends[:, i])), own.points[-1].cost)

    options.budget = chosen(classifier)
    timings = measure(
        engine, classifier.policy, names, x[:64], (1, 2, 4, 8, 16, 32, 64), 9, classifier.executor.ensembles
    )
    classifier.profile = profile_of("", engine, timings)
    milliseconds = {batch: chosen(classifier.timed(batch)) for batch in BATCHES}
    print(f"budget {options.budget:.3f} of static w8a8, or by batch {milliseconds} ms per image")
    for timing in timings:
        if timing.batch in (1, 8, 64):
            print(
                f"  {timing.segment} {timing.precision or 'decision':9} batch {timing.batch}: {timing.milliseconds:.3f} ms"
            )

    def by_milliseconds(x: np.ndarray) -> np.ndarray:
        batch = len(x) if len(x) in milliseconds else 64
        return classifier.timed(batch).route_prepared(x, latency_ms=milliseconds[batch]).probabilities

    runs: dict[str, Run] = {
        CHOSEN[0]: lambda x: classifier.route_prepared(x, budget=options.budget).probabilities,
        CHOSEN[1]: by_milliseconds,
    }
    for budget in BUDGETS:
        runs[f"QuEE, budget {budget}"] = lambda x, b=budget: classifier.route_prepared(x, budget=b).probabilities  # type: ignore[misc]
    unsure: set[str] = set()
    for gate in range(1, tree.segments + 1):
        path = tree.lineage(full)[gate - 1]
        name = f"static {tree.name(path)} ({gate} of {tree.segments})"
        runs[name] = chain(engine, tree.paths[path])
        if not sure(np.full(len(error), path)):
            unsure.add(name)
    least, threshold = np.inf, 1.0
    for value in np.linspace(0.3, 1.0, 141):
        left = np.full(len(error), full)
        for gate in range(tree.segments - 1, 0, -1):
            node = tree.lineage(full)[gate - 1]
            left = np.where(features[:, node, 0] >= value, node, left)
        if sure(left) and (cost := classifier.costs[left].mean()) < least:
            least, threshold = cost, value
    straight = PathTree([max(tree.precisions)], tree.segments)
    runs[f"exits only ({max(tree.precisions)})"] = routed_by(
        engine, by_threshold(straight, threshold, classifier.view.names), names
    )
    return runs, unsure


def chain(engine: Any, path: tuple[Precision, ...]) -> Run:
    def run(x: np.ndarray) -> np.ndarray:
        for segment, precision in enumerate(path, 1):
            step = engine.run(segment, precision, x)
            x = step.state
        return step.log_probs

    return run


def predict(run: Run, x: np.ndarray, name: str) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([run(x[start : start + 64]).argmax(axis=1) for start in range(0, len(x), 64)])


def show(rows: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"{'':38}" + "".join(f"{c.replace('images_per_second', 'img/s'):>12}" for c in columns))
    for name, row in rows.items():
        values = (row.get(c, float("nan")) for c in columns)
        print(f"{name:38}" + "".join(f"{v:>12.4f}" if 0 < float(v) < 10 else f"{v:>12.0f}" for v in values))


SIZES = {
    "DeiT-Small": ("vit_small_patch16_224", {"num_classes": 1000}),
    "DINOv2 ViT-S/14": ("vit_small_patch14_dinov2", {"num_classes": 1000, "img_size": 224}),
}


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Relative time at forced exit shares, beside the ideal, which is the share of segments that run."""
    found: dict[str, Any] = {}
    batch, fp32 = options.size_batch, Precision("fp32")
    for title, (name, kwargs) in SIZES.items():
        torch.manual_seed(0)
        backbone = create_backbone(name, None, **kwargs).requires_grad_(False).eval()
        segments = backbone.segments
        widths = [backbone.pooled_width(gate, "cls_mean") for gate in range(1, segments)]
        linear = [torch.nn.Linear(width, backbone.num_classes).requires_grad_(False) for width in widths]
        layers = [torch.nn.Sequential(layer) for layer in linear]
        early = [ExitHead("cls_mean", {ANY: Classifier(layer, layer)}, None) for layer in layers]
        heads = ExitHeads([*early, ExitHead("", {}, None)])
        view = GateView(MultiPrecisionBackbone({fp32: backbone}), heads, embedding=False)
        folder = Path(mkdtemp(prefix="quee-sizes-"))
        export_graphs(view, [fp32], folder)
        engine = open_engine(options.engine, view, folder, options.threads)
        x = np.random.default_rng(0).standard_normal((batch, *backbone.input.shape), dtype=np.float32)
        tree = PathTree(["fp32" if options.size_precision == "fp32" else "bf16"], segments)
        names = len(view.names)

        def forced(share: float, tree: PathTree = tree, names: int = names) -> Callable[[Any], Run]:
            return lambda own: routed_by(own, Forced(tree, share), names)

        makers = {share: forced(share) for share in (0.0, 0.25, 0.5, 0.75)}
        runs = {"static": chain(engine, tree.paths[-1]), **{str(s): make(engine) for s, make in makers.items()}}
        each, _ = alternate(runs, x, batch, batch, options.repeats)
        static = float(np.median(each["static"]))
        found[title] = {"static_ms": 1e3 * static}
        for share, make in makers.items():
            recording = Recording(engine)
            make(recording)(x)
            ideal = sum(len(state) for _, _, state in recording.calls) / (segments * batch)
            relative = float(np.median(np.array(each[str(share)]) / np.array(each["static"])))
            ratio = float(np.median(over_parts(engine, make, [x], options.repeats)))
            found[title][f"exits_{share}"] = {"time": relative, "segments": ideal, "over_parts": ratio}
            print(
                f"{title:16} {engine.executed(tree.precisions[0])} batch {batch}, {share:.0%} leave early: time "
                f"{relative:.3f} of static ({1e3 * static:.1f} ms/image), {ideal:.3f} of the segments, "
                f"{ratio:.3f} of its parts",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="fashion_mnist_cpu")
    parser.add_argument("--artifacts", default="artifacts")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: seconds of the process, where the machine is shared",
    )
    parser.add_argument("--samples", type=int, default=10000)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--static", default="", help="static deployments by name, with semicolons; all by default")
    parser.add_argument("--size-batch", type=int, default=16)
    parser.add_argument("--size-precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--only", default="fixture,sizes")
    parser.add_argument("--json", type=Path, help="benchmarks/results/EXPERIMENT.json is what the report shows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    global CLOCK
    CLOCK = time.process_time if options.clock == "cpu" else time.perf_counter
    found: dict[str, Any] = {
        "machine": cpu_model(),
        "instructions": instructions(),
        "threads": options.threads,
        "clock": options.clock,
        "experiment": options.experiment,
    }
    print(
        f"{found['machine']} with {found['instructions']}, {options.threads} thread(s), engine {options.engine}, "
        f"{options.clock} seconds, load {os.getloadavg()[0]:.1f}"
    )
    for part in options.only.split(","):
        if part not in ("fixture", "sizes", "static"):
            sys.exit(f"unknown part {part!r}; valid: fixture, sizes, static")
        found[part] = globals()[part](options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
