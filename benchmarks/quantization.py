"""Post-training quantization, method against method: accuracy, agreement with the float network, time and memory.

    python benchmarks/quantization.py [EXPERIMENT] [--seeds 3] [--samples 2000] [--csv FILE] [--only PARTS]
                                      [--calibration 256] [--peers NAMES] [--presets NAMES] [--precisions NAMES] [--limit SECONDS]

PARTS are of methods, ablation, additions, extras, paths, speed, peers, with commas; PRESETS and PRECISIONS narrow `methods`.
Needs the experiment's stages `prepare` and `backbone`.
Calibration samples are drawn from the training split by seed; everything is measured on held-out splits. Peers (the
extra `bench`) are left out with a message where they cannot be imported, fail, or are silent for LIMIT seconds. Rows
are mean ± 95 % half-width over the seeds.
"""

import argparse
import csv
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from quee.backbones.base import SegmentedBackbone
from quee.cost import trace_cost
from quee.data import open_dataset
from quee.data.splits import split_ids
from quee.data.transforms import Preprocessing
from quee.execution import MultiPrecisionBackbone
from quee.experiment import load_experiment
from quee.io import read_json
from quee.precision import Precision
from quee.quantization import ADDITIONS, INGREDIENTS, PRESETS, QuantizationConfig, quantize_, quantize_paths
from quee.store import load_backbone

PRECISIONS = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a4")
ABLATED = ("w4a4", "w3a3")
PATHS = 12
PARTS = ("methods", "ablation", "additions", "extras", "paths", "peers", "speed")
Predict = Callable[[Tensor], Tensor]


class Bench:
    """An experiment's float backbone, its training images to calibrate on, its test images to measure on."""

    def __init__(self, name: str, samples: int, calibration: int = 256) -> None:
        self.peers = tuple(PEERS)
        self.arguments, self.limit = (name, samples, calibration), 300.0
        self.calibration_samples, self.presets, self.shown = calibration, tuple(PRESETS), PRECISIONS
        experiment, folder = load_experiment(name), Path("artifacts") / name
        self.backbone: SegmentedBackbone = load_backbone(folder / "backbone")
        facts = read_json(folder / "prepare" / "dataset.json")
        images = open_dataset(Path("data") / experiment.prepare.dataset, experiment.prepare.dataset, facts["files"])
        ids, transform = split_ids(folder / "prepare" / "splits.parquet"), Preprocessing.from_timm(self.backbone.input)

        def read(split: str, most: int) -> tuple[Tensor, Tensor]:
            chosen = ids[split][np.linspace(0, len(ids[split]) - 1, min(most, len(ids[split]))).astype(int)]
            parts = [(x, torch.as_tensor(y)) for _, x, y in images.batches(chosen, transform, 64)]
            return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

        self.train, _ = read("train", 4096)
        held_out = [read(split, samples) for split in ("predictor", "validation", "test")]
        self.x, self.y = (torch.cat(part)[:samples] for part in zip(*held_out, strict=True))
        self.precisions = [Precision(p) for p in experiment.paths.precisions if not Precision(p).is_float]
        self.reference = predict(self.backbone, self.x)

    def calibration(self, seed: int) -> list[Tensor]:
        chosen = np.random.default_rng(seed).choice(
            len(self.train), min(self.calibration_samples, len(self.train)), replace=False
        )
        return list(self.train[torch.from_numpy(np.sort(chosen))].split(64))

    def measure(self, logits: Tensor) -> dict[str, float]:
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


def timed(make: Callable[[], Predict]) -> tuple[Predict, dict[str, float]]:
    start = time.process_time()
    model = make()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return model, {"seconds": time.process_time() - start, "peak_mb": peak}


def ours(
    bench: Bench, variants: dict[str, Callable[[str], QuantizationConfig]], precisions: tuple[str, ...], seeds: int
):  # type: ignore[no-untyped-def]
    for name, precision, seed in product(variants, precisions, range(seeds)):
        config = variants[name](precision)
        model, spent = timed(lambda: quantize_(deepcopy(bench.backbone), config, bench.calibration(seed)))  # noqa: B023
        yield name, precision, seed, {**bench.measure(predict(model, bench.x)), **spent}


def methods(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    variants = {name: lambda p, preset=name: QuantizationConfig.of(p, preset) for name in bench.presets}
    yield from ours(bench, variants, bench.shown, seeds)


def ablation(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """The default less one ingredient."""
    off = {f"fast − {i}": lambda p, i=i: QuantizationConfig.of(p).without(i) for i in INGREDIENTS}
    yield from ours(bench, {"fast": QuantizationConfig.of, **off}, ABLATED, seeds)


def additions(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """Plain min-max and one ingredient."""
    on = {
        f"minmax + {i}": lambda p, i=i: QuantizationConfig.of(
            p, "minmax", **{k: getattr(QuantizationConfig.of(p), k) for k in INGREDIENTS[i]}
        )
        for i in INGREDIENTS
    }
    yield from ours(bench, on, ABLATED, seeds)


def extras(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """What the default leaves out, with its cost; and uniform precisions of a cost between."""
    variants: dict[str, Callable[[str], QuantizationConfig]] = {"fast": QuantizationConfig.of}
    variants |= {f"fast + {i}": lambda p, i=i: QuantizationConfig.of(p).with_addition(i) for i in ADDITIONS}
    variants["fast + compensation, own bits"] = lambda p: QuantizationConfig.of(p, compensation=Precision(p))
    between = {"w3a3": ("w3a4", "w4a3"), "w4a4": ("w4a5", "w5a4")}
    rounds = [(variants, tuple(p for p in ABLATED if p in bench.shown))]
    rounds += [({"fast": QuantizationConfig.of}, tuple(p for q in rounds[0][1] for p in between[q]))]
    for chosen, precisions in rounds:
        for name, precision, seed, values in ours(bench, chosen, precisions, seeds):
            own = chosen[name](precision).compensation
            cost = trace_cost(bench.backbone, compensation=str(own or ""))
            path = (Precision(precision),) * bench.backbone.segments
            yield name, precision, seed, {**values, "cost": cost.static(path) / cost.unit}


def paths(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """Mean over all full-length paths that mix precisions, calibrated on mixed prefixes and each on its own."""
    mixed = [p for p in product(bench.precisions, repeat=bench.backbone.segments) if len(set(p)) > 1]
    random = np.random.default_rng(0)
    mixed = [mixed[i] for i in sorted(random.choice(len(mixed), min(PATHS, len(mixed)), replace=False))]
    cost = trace_cost(bench.backbone)
    for name, seed in product(("mixed prefixes", "own prefix", "float prefix"), range(seeds)):
        configs = [QuantizationConfig.of(p, propagate=name != "float prefix") for p in bench.precisions]
        start = time.process_time()
        if name == "mixed prefixes":
            models = quantize_paths(bench.backbone, configs, bench.calibration(seed), seed)
        else:
            models = {
                c.precision: quantize_(deepcopy(bench.backbone), c, bench.calibration(seed))  # type: ignore[misc]
                for c in configs
            }
        spent = {"seconds": time.process_time() - start, "peak_mb": 0.0}
        multi = MultiPrecisionBackbone({Precision("fp32"): bench.backbone, **models})
        found = [
            bench.measure(predict(lambda x: multi.classify(path[-1], multi.run_path(path, x)), bench.x))  # noqa: B023
            for path in mixed
        ]
        mean = {key: float(np.mean([row[key] for row in found])) for key in found[0]}
        shown = f"{len(mixed)} paths, cost {np.mean([cost.static(p) / cost.unit for p in mixed]):.3f}"
        yield name, shown, seed, {**mean, **spent}


def peers(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """Each peer in a process of its own, left out with a reason where it fails or takes longer than the limit."""
    context = multiprocessing.get_context("spawn")
    for name in bench.peers:
        precision, _ = PEERS[name]
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run_peer, args=(bench.arguments, name, seeds, sender))
        process.start()
        sender.close()
        found: dict[str, float] | str = f"no result within {bench.limit} s"
        for seed in range(seeds):
            try:
                found = receiver.recv() if receiver.poll(bench.limit) else f"no result within {bench.limit} s"
            except EOFError:
                found = "its process died"
            if isinstance(found, str):
                print(f"{name}: left out, {found}", file=sys.stderr)
                break
            yield name, precision, seed, found
        process.kill()
        process.join()


def run_peer(arguments: tuple[str, int, int], name: str, seeds: int, sender: Connection) -> None:
    """Send a peer's rows, or the reason why there are none."""
    try:
        bench, make = Bench(*arguments), PEERS[name][1]
        for seed in range(seeds):
            model, spent = timed(lambda: make(deepcopy(bench.backbone), bench.calibration(seed)))  # noqa: B023
            sender.send({**bench.measure(predict(model, bench.x)), **spent})
    except Exception as error:  # a peer's own fault, whatever it is
        sender.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def nncf_ptq(fast: bool) -> Callable[[SegmentedBackbone, list[Tensor]], Predict]:
    def make(model: SegmentedBackbone, batches: list[Tensor]) -> Predict:
        import nncf
        import openvino as ov

        sample = batches[0][:1]
        network = ov.convert_model(model, example_input=sample, input=list(sample.shape))
        samples = nncf.Dataset([x.numpy() for batch in batches for x in batch.split(1)])
        quantized = nncf.quantize(
            network,
            samples,
            subset_size=sum(map(len, batches)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            fast_bias_correction=fast,
        )
        compiled = ov.compile_model(quantized, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
        return lambda x: torch.from_numpy(np.concatenate([compiled(part.numpy())[0] for part in x.split(1)]))

    return make


def onnxruntime_static(model: SegmentedBackbone, batches: list[Tensor]) -> Predict:
    from tempfile import TemporaryDirectory

    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = iter([{"x": x.numpy()} for batch in batches for x in batch.split(1)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.samples, None)

    with TemporaryDirectory() as folder:
        source, target = str(Path(folder) / "float.onnx"), str(Path(folder) / "int8.onnx")
        torch.onnx.export(model, (batches[0][:1],), source, input_names=["x"], dynamo=False)
        quantize_static(
            source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(np.concatenate([session.run(None, {"x": p.numpy()})[0] for p in x.split(1)]))


def torchao_dynamic(model: SegmentedBackbone, batches: list[Tensor]) -> Predict:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from torchao.quantization import quantize_ as ao_quantize_

    ao_quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


PEERS: dict[str, tuple[str, Callable[[SegmentedBackbone, list[Tensor]], Predict]]] = {
    "NNCF PTQ, fast bias correction": ("w8a8", nncf_ptq(True)),
    "NNCF PTQ, bias correction": ("w8a8", nncf_ptq(False)),
    "ONNX Runtime static": ("w8a8", onnxruntime_static),
    "torchao int8 (dynamic activations)": ("w8a8", torchao_dynamic),
}


def speed(bench: Bench, seeds: int) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """Time of segment 2 over 64 states, fake-quantized over float, in CPU seconds of one thread."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        state = bench.backbone.run_segment(1, bench.x[:64])
    own = least(lambda: bench.backbone.run_segment(2, state))
    for precision in PRECISIONS:
        model = quantize_(deepcopy(bench.backbone), QuantizationConfig.of(precision), bench.calibration(0))
        seconds = least(lambda: model.run_segment(2, state))  # type: ignore[operator]  # noqa: B023
        yield "segment 2 over float", precision, 0, {"ratio": seconds / own, "seconds": seconds}


def least(run: Callable[[], Tensor], repeats: int = 20) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    return min(times[1:])


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


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
    options = parser.parse_args()
    bench = Bench(options.experiment, options.samples, options.calibration)
    bench.limit, bench.peers = options.limit, tuple(options.peers.split(";"))
    bench.presets, bench.shown = tuple(options.presets.split(",")), tuple(options.precisions.split(","))
    own = bench.measure(bench.reference)
    print(f"{options.experiment}: float accuracy {own['accuracy']:.2f} on {len(bench.y)} samples")
    rows: list[dict[str, Any]] = []
    for part in options.only.split(","):
        if part not in PARTS:
            sys.exit(f"unknown part {part!r}; valid: {', '.join(PARTS)}")
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for method, precision, _, values in globals()[part](bench, options.seeds):
            found.setdefault((method, precision), []).append(values)
            if len(found[method, precision]) < (1 if part == "speed" else options.seeds):
                continue
            row: dict[str, Any] = {"part": part, "method": method, "precision": precision}
            for key in values:
                row[key], row[f"{key}_half_width"] = interval([v[key] for v in found[method, precision]])
            rows.append(row)
            text = "  ".join(f"{key} {row[key]:.2f} ± {row[f'{key}_half_width']:.2f}" for key in values)
            print(f"{part:9} {method:36} {precision:6} {text}", flush=True)
    if options.csv:
        names = list(dict.fromkeys(key for row in rows for key in row))
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
