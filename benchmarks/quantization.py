"""Post-training quantization, method against method: accuracy, agreement with the float network, time and memory.

    python benchmarks/quantization.py [EXPERIMENT] [--seeds 3] [--samples 2000] [--csv FILE] [--only PARTS]
                                      [--calibration 256] [--peers NAMES] [--presets NAMES] [--precisions NAMES]
                                      [--stem PRECISION] [--limit SECONDS]

PARTS are names out of methods, ablation, additions, extras, mixed, paths, speed, peers, separated by commas. The lists of
presets and precisions narrow `methods` and `mixed`. Needs the experiment's stages `prepare` and `backbone`.

Calibration samples are drawn from the training split by seed. Everything is measured on as many held-out samples as
--samples says, those of the predictor split first. Peers (the extra `bench`) are left out with a message where they cannot
be imported, fail, or print nothing for LIMIT seconds. Lines are mean ± half-width of the 95 % interval over the seeds. Every
measurement is appended to FILE when it is made. A measurement that FILE has is not repeated, so an interrupted run goes on.
"""

import argparse
import csv
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from peers.quantization import PEERS
from scipy.stats import t as student
from torch import Tensor

from quee.cost import BitFlops, trace_cost
from quee.data.source import open_dataset
from quee.data.splits import split_ids
from quee.evenly import evenly
from quee.intervals import half_width
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import load_backbone
from quee.precision import Precision
from quee.quantization.calibration import Calibrator, checked, install, quantize_, quantize_paths
from quee.quantization.format_choice import with_formats
from quee.quantization.formats import float_products
from quee.quantization.layers import own_layers
from quee.quantization.mixed import with_mixed_bits
from quee.quantization.units import run_unit
from quee.settings.experiment import load_experiment
from quee.settings.quantize import INGREDIENTS, PRESETS, QuantizationConfig
from quee.work.io import read_json

PRECISIONS = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a4")
ABLATED = ("w4a4", "w3a3")
PARTS = ("methods", "ablation", "additions", "extras", "mixed", "paths", "peers", "speed")
VALUES = ("accuracy", "agreement", "sqnr_db", "seconds", "peak_mb", "cost", "ratio")
KEYS = ("experiment", "samples", "calibration", "method", "precision", "seed")
Predict = Callable[[Tensor], Tensor]
Values = dict[str, float]
Row = tuple[str, str, int, Values]
"""A measurement: method, precision, seed, and values."""


class Bench:
    """An experiment's float backbone, training images for calibration, and held-out images for measuring."""

    def __init__(self, name: str, samples: int, calibration: int = 256, file: Path | None = None) -> None:
        self.peers = tuple(PEERS)
        self.arguments, self.limit, self.stem = (name, samples, calibration), 300.0, ""
        self.calibration_samples, self.presets, self.shown = calibration, tuple(PRESETS), PRECISIONS
        self.file, self.known = file, dict[tuple[str, ...], Values]()
        if file and file.exists():
            with file.open(newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    found = {key: float(row[key]) for key in VALUES if row[key]}
                    self.known[tuple(row[key] for key in KEYS)] = found
        experiment, folder = load_experiment(name), Path("artifacts") / name
        self.backbone: SegmentedBackbone = load_backbone(folder / "backbone")
        facts = read_json(folder / "prepare" / "dataset.json")
        images = open_dataset(Path("data") / experiment.prepare.dataset, experiment.prepare.dataset, facts["files"])
        ids, transform = split_ids(folder / "prepare" / "splits.parquet"), self.backbone.input

        def read(split: str, most: int) -> tuple[Tensor, Tensor]:
            chosen = ids[split][evenly(len(ids[split]), most)]
            parts = [(x, torch.as_tensor(y)) for _, x, y in images.batches(chosen, transform, 64)]
            return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

        self.train, _ = read("train", 4096)
        held_out: list[tuple[Tensor, Tensor]] = []
        for split in ("predictor", "validation", "test", "certification"):
            if split in ids and (left := samples - sum(len(y) for _, y in held_out)) > 0:
                held_out.append(read(split, left))
        self.x, self.y = (torch.cat(part) for part in zip(*held_out, strict=True))
        self.precisions = [Precision(p) for p in experiment.paths.precisions if not Precision(p).is_float]
        self.reference = predict(self.backbone, self.x)

    def _key(self, method: str, precision: str, seed: int) -> tuple[str, ...]:
        return (*map(str, self.arguments), method, precision, str(seed))

    def measured(self, method: str, precision: str, seed: int) -> bool:
        return self._key(method, precision, seed) in self.known

    def row(self, method: str, precision: str, seed: int, measure: Callable[[], Values]) -> Row:
        """The row from the file, or else measured now and written at once."""
        key = self._key(method, precision, seed)
        if key not in self.known:
            self.known[key] = values = measure()
            if self.file:
                new = not self.file.exists()
                with self.file.open("a", newline="", encoding="utf-8") as lines:
                    writer = csv.DictWriter(lines, [*KEYS, *VALUES])
                    if new:
                        writer.writeheader()
                    writer.writerow({**dict(zip(KEYS, key, strict=True)), **values})
        return method, precision, seed, self.known[key]

    def calibration(self, seed: int) -> list[Tensor]:
        chosen = np.random.default_rng(seed).choice(
            len(self.train), min(self.calibration_samples, len(self.train)), replace=False
        )
        return list(self.train[torch.from_numpy(np.sort(chosen))].split(64))

    def measure(self, logits: Tensor) -> Values:
        noise = (logits - self.reference).double().square().sum()
        answers = logits.argmax(dim=1)
        return {
            "accuracy": 100 * float((answers == self.y).double().mean()),
            "agreement": 100 * float((answers == self.reference.argmax(dim=1)).double().mean()),
            "sqnr_db": float(10 * torch.log10(self.reference.double().square().sum() / noise.clamp_min(1e-30))),
        }


def predict(model: Predict, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(64)])


def resident(peak: bool) -> float:
    """Memory of this process in MB, now or at its peak since `timed` began."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return float(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
    except OSError:  # no Linux: the peak since the process began
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if peak else 0.0


def timed(make: Callable[[], Predict]) -> tuple[Predict, Values]:
    """The result of `make`, its CPU seconds, and its peak memory in MB above the memory before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    start, before = time.process_time(), resident(peak=False)
    model = make()
    return model, {"seconds": time.process_time() - start, "peak_mb": resident(peak=True) - before}


def ours(
    bench: Bench,
    variants: dict[str, Callable[[str], QuantizationConfig]],
    precisions: tuple[str, ...],
    seeds: int,
    costs: bool = False,
) -> Iterator[Row]:
    for name, precision, seed in product(variants, precisions, range(seeds)):
        config = variants[name](precision)

        def measure(config: QuantizationConfig = config, seed: int = seed) -> Values:
            batches = bench.calibration(seed)
            model, spent = timed(lambda: quantize_(deepcopy(bench.backbone), config, batches))
            return {**bench.measure(predict(model, bench.x)), **spent}

        method, _, _, values = bench.row(name, precision, seed, measure)
        if costs:
            cost = counted(bench, config)
            values = {**values, "cost": cost.static((config.precision,) * bench.backbone.segments) / cost.unit}
        yield method, precision, seed, values


def counted(bench: Bench, *configs: QuantizationConfig) -> BitFlops:
    """The cost model of configs, with the number formats that are measured on the calibration samples of seed 0."""
    found = configs
    if any(config.float_products == "auto" for config in configs) and float_products(bench.backbone):
        found = tuple(with_formats(bench.backbone, configs, torch.cat(bench.calibration(0))))
    return trace_cost(bench.backbone, layers=own_layers(bench.backbone, found))


def methods(bench: Bench, seeds: int) -> Iterator[Row]:
    stem = f", stem {bench.stem}" if bench.stem else ""
    variants = {
        n + stem: lambda p, preset=n: QuantizationConfig(p, preset, stem=bench.stem or None) for n in bench.presets
    }
    yield from ours(bench, variants, bench.shown, seeds)


def ablation(bench: Bench, seeds: int) -> Iterator[Row]:
    """The default without one ingredient."""
    off = {f"fast − {i}": lambda p, i=i: QuantizationConfig(p).without(i) for i in INGREDIENTS}
    chosen = tuple(p for p in ABLATED if p in bench.shown)
    yield from ours(bench, {"fast": QuantizationConfig, **off}, chosen, seeds)


def additions(bench: Bench, seeds: int) -> Iterator[Row]:
    """Plain min-max with one ingredient."""
    on = {
        f"minmax + {i}": lambda p, i=i: QuantizationConfig(
            p, "minmax", **{k: getattr(QuantizationConfig(p), k) for k in INGREDIENTS[i]}
        )
        for i in INGREDIENTS
    }
    yield from ours(bench, on, tuple(p for p in ABLATED if p in bench.shown), seeds)


def extras(bench: Bench, seeds: int) -> Iterator[Row]:
    """Uniform precisions and precisions with costs in between, with their costs."""
    between = {"w3a3": ("w3a4", "w4a3"), "w4a4": ("w4a5", "w5a4")}
    chosen = tuple(p for p in ABLATED if p in bench.shown)
    both = tuple(p for q in chosen for p in (q, *between[q]))
    yield from ours(bench, {"fast": QuantizationConfig}, both, seeds, costs=True)


def mixed(bench: Bench, seeds: int) -> Iterator[Row]:
    """Bits by layer against uniform bits, within the same BitFLOPs."""
    for preset, precision, seed in product(bench.presets, bench.shown, range(seeds)):
        config = QuantizationConfig(precision, preset)
        if config.precision.plain:
            continue
        yield next(
            row for row in ours(bench, {preset: lambda _, c=config: c}, (precision,), seed + 1) if row[2] == seed
        )

        def measure(config: QuantizationConfig = config, seed: int = seed) -> Values:
            batches = bench.calibration(seed)
            chosen: list[QuantizationConfig] = []

            def make() -> Predict:
                chosen.extend(with_mixed_bits(bench.backbone, [config], batches))
                return quantize_(deepcopy(bench.backbone), chosen[0], batches)

            model, spent = timed(make)
            cost, plain = counted(bench, *chosen), counted(bench, chosen[0].model_copy(update={"layers": {}}))
            path = (config.precision,) * cost.segments
            return {**bench.measure(predict(model, bench.x)), **spent, "ratio": cost.static(path) / plain.static(path)}

        yield bench.row(f"{preset}, mixed", precision, seed, measure)


def paths(bench: Bench, seeds: int) -> Iterator[Row]:
    """Mean over all full-length mixed paths, for each kind of states that segments are calibrated on."""
    mixed = [p for p in product(bench.precisions, repeat=bench.backbone.segments) if len(set(p)) > 1]
    cost = counted(bench, *(QuantizationConfig(p) for p in bench.precisions))
    shown = f"{len(mixed)} paths, cost {np.mean([cost.static(p) / cost.unit for p in mixed]):.3f}"
    for name, seed in product(ENTRIES, range(seeds)):

        def measure(name: str = name, seed: int = seed) -> Values:
            batches = bench.calibration(seed)
            found: list[dict[Precision, SegmentedBackbone]] = []
            _, spent = timed(lambda: found.append(ENTRIES[name](bench, batches, seed)))  # type: ignore[arg-type, func-returns-value]
            logits = mixed_logits(MultiPrecisionBackbone(found[0]), bench.precisions, bench.x)
            rows = [bench.measure(answer) for answer in logits]
            return {**{key: float(np.mean([row[key] for row in rows])) for key in rows[0]}, **spent}

        yield bench.row(name, shown, seed, measure)


def mixed_logits(multi: MultiPrecisionBackbone, precisions: list[Precision], x: Tensor) -> list[Tensor]:
    """Logits (n, classes) of every full-length path that mixes precisions; every prefix runs once."""
    found: dict[tuple[Precision, ...], list[Tensor]] = {}

    def below(path: tuple[Precision, ...], state: Tensor) -> None:
        if len(path) < multi.segments:
            for precision in precisions:
                below((*path, precision), multi.run(len(path) + 1, precision, state))
        elif len(set(path)) > 1:
            found.setdefault(path, []).append(multi.classify(path[-1], state))

    with torch.inference_mode():
        for part in x.split(256):
            below((), part)
    return [torch.cat(parts) for parts in found.values()]


def own_prefix(bench: Bench, batches: list[Tensor], seed: int) -> dict[Precision, SegmentedBackbone]:
    configs = map(QuantizationConfig, bench.precisions)
    return {c.precision: quantize_(deepcopy(bench.backbone), c, batches) for c in configs}  # type: ignore[misc]


def float_prefix(bench: Bench, batches: list[Tensor], seed: int) -> dict[Precision, SegmentedBackbone]:
    """Calibrates each segment on states of the float segments before it, with propagation inside the segment."""
    found = {}
    for config in map(QuantizationConfig, bench.precisions):
        calibrator = Calibrator(bench.backbone, config)
        reference = checked(batches, config.samples)
        for segment in [*range(1, bench.backbone.segments + 1), 0]:
            calibrator.segment(segment, reference, reference)
            for unit in calibrator.units:
                if unit.segment == segment:
                    reference = run_unit(calibrator.float, unit, reference)
        found[config.precision] = install(deepcopy(bench.backbone), calibrator)
    return found  # type: ignore[return-value]


def mixed_prefixes(bench: Bench, batches: list[Tensor], seed: int) -> dict[Precision, SegmentedBackbone]:
    return quantize_paths(bench.backbone, [QuantizationConfig(p) for p in bench.precisions], batches, seed)


ENTRIES = {"mixed prefixes": mixed_prefixes, "own prefix": own_prefix, "float prefix": float_prefix}
"""The states that enter the segments to calibrate."""


def peers(bench: Bench, seeds: int) -> Iterator[Row]:
    """Ours at the peers' precisions, then each peer in a process of its own; one that fails or exceeds the limit is left out."""
    context = multiprocessing.get_context("spawn")
    beside = tuple(dict.fromkeys(PEERS[name][0] for name in bench.peers))
    yield from ours(bench, {"fast": QuantizationConfig}, beside, seeds)
    for name in bench.peers:
        precision, _ = PEERS[name]
        missing = [seed for seed in range(seeds) if not bench.measured(name, precision, seed)]
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run_peer, args=(bench.arguments, name, missing, sender))
        if missing:
            process.start()
        sender.close()
        try:
            for seed in range(seeds):
                yield bench.row(name, precision, seed, lambda: received(receiver, bench.limit))  # noqa: B023
        except RuntimeError as reason:
            print(f"{name}: left out, {reason}", file=sys.stderr)
        if missing:
            process.kill()
            process.join()


def received(receiver: Connection, limit: float) -> Values:
    """A peer's next row; RuntimeError with the reason when there is none."""
    try:
        found: Values | str = receiver.recv() if receiver.poll(limit) else f"no result within {limit:.0f} s"
    except EOFError:
        found = "its process died"
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def run_peer(arguments: tuple[str, int, int], name: str, seeds: list[int], sender: Connection) -> None:
    """Send a peer's rows, or the reason why there are none."""
    try:
        bench, make = Bench(*arguments), PEERS[name][1]
        for seed in seeds:
            batches = bench.calibration(seed)
            model, spent = timed(lambda: make(deepcopy(bench.backbone), batches))  # noqa: B023
            sender.send({**bench.measure(predict(model, bench.x)), **spent})
    except Exception as error:  # a peer may fail in any way
        sender.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])


KINDS = {
    "products": {"mm", "bmm", "addmm", "baddbmm", "addbmm"},
    "rounding": {"div", "round_", "clamp_", "sub_", "div_", "round", "clamp"},
    "table": {"index_select", "_to_copy"},
    "rescaling": {"mul_", "add_"},
}
"""Kinds of operators of a quantized segment, by torch's names."""


def speed(bench: Bench, seeds: int) -> Iterator[Row]:
    """CPU time of each emulated quantized segment relative to float, on one thread and 64 states (a shard of `features`).

    Also prints the percentage of the time by kinds of operators.
    """
    torch.set_num_threads(1)
    states = [bench.x[:64]]
    with torch.inference_mode():
        for segment in range(1, bench.backbone.segments + 1):
            states.append(bench.backbone.run_segment(segment, states[-1]))
    models = {p: quantize_(deepcopy(bench.backbone), QuantizationConfig(p), bench.calibration(0)) for p in PRECISIONS}
    for segment, state in enumerate(states[:-1], 1):
        runs = [partial(m.run_segment, segment, state) for m in (bench.backbone, *models.values())]  # type: ignore[operator]
        times = least(runs)
        for precision, run, seconds in zip(PRECISIONS, runs[1:], times[1:], strict=True):
            yield (
                f"segment {segment} over float",
                precision,
                0,
                {"ratio": seconds / times[0], "seconds": seconds, **shares(run)},
            )


def shares(run: Callable[[], Tensor]) -> Values:
    """Percentage of the time by KINDS; the rest is norms, softmax, GELU, sums, copies."""
    spent: dict[str, float] = {}
    for _ in range(10):  # the minimum of each operator was disturbed least
        with (
            torch.inference_mode(),
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        ):
            run()
        found = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profile.key_averages()}
        spent = {name: min(value, spent.get(name, value)) for name, value in found.items()}
    total = sum(spent.values())
    parts = {kind: 100 * sum(spent.get(name, 0.0) for name in names) / total for kind, names in KINDS.items()}
    return {**parts, "rest": 100 - sum(parts.values())}


def least(runs: list[Callable[[], Tensor]], repeats: int = 20) -> list[float]:
    """CPU seconds of each, the minimum over alternating repetitions."""
    times: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        for _ in range(repeats):
            for run, found in zip(runs, times, strict=True):
                start = time.process_time()
                run()
                found.append(time.process_time() - start)
    return [min(found[1:]) for found in times]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    return mean, half_width(np.array(values), float(student.ppf(0.975, len(values) - 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--only", default="methods,ablation,paths,speed,peers")
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--peers", default=";".join(PEERS), help="peers by name, with semicolons")
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--stem", default="", help="the stem's own precision in `methods`, as w8a8 in published tables")
    options = parser.parse_args()
    bench = Bench(options.experiment, options.samples, options.calibration, options.csv)
    bench.limit, bench.peers = options.limit, tuple(options.peers.split(";"))
    bench.presets, bench.shown = tuple(options.presets.split(",")), tuple(options.precisions.split(","))
    bench.stem = options.stem
    own = bench.measure(bench.reference)
    print(f"{options.experiment}: float accuracy {own['accuracy']:.2f} on {len(bench.y)} samples")
    for part in options.only.split(","):
        if part not in PARTS:
            sys.exit(f"unknown part {part!r}; valid: {', '.join(PARTS)}")
        found: dict[tuple[str, str], list[Values]] = {}
        for method, precision, _, values in globals()[part](bench, options.seeds):
            rows = found.setdefault((method, precision), [])
            rows.append(values)
            if len(rows) < (1 if part == "speed" else options.seeds):
                continue
            intervals = {key: interval([row[key] for row in rows]) for key in values}
            text = "  ".join(f"{key} {mean:.2f} ± {half:.2f}" for key, (mean, half) in intervals.items())
            print(f"{part:9} {method:36} {precision:6} {text}", flush=True)


if __name__ == "__main__":
    main()
