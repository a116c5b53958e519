"""What a GPU computes and how fast, against the CPU of the same machine: random weights and images, nothing to fetch.

    python benchmarks/gpu.py [--device cuda|cpu] [--parts equality,stages,speed,training] [--small] [--json FILE]

equality   every quantized layer of T2T-ViT-7 at 32 px on both: share with the same bits; then a tree of w4a4 and w8a8: largest
           difference of log probabilities, share of equal answers
stages     T2T-ViT-14 at 224 px: images/s of calibrating a tree (`quantize`), collecting states (`exits`), running a whole tree
           (`features`) and the float network (`backbone`)
speed      the same network at batches 1, 8, 64: w8a8 by engine `cuda`'s kernels, beside the float network as it is and compiled
           by torch.compile (max-autotune) in bf16 and fp16; images/s
training   T2T-ViT-7 at 32 px by the recipe of `street_characters_training` on IMAGES drawn here; accuracy on drawn images that it
           has not seen. Left out, and said, where data/sources/street_glyphs.npz is missing

`--device cpu --small` tries the same code on small networks where there is no GPU. Times are medians of alternating repeats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quee.cost import trace_cost
from quee.data.stream import open_stream
from quee.errors import IntegrityError
from quee.exits.fitting import fit_exits
from quee.exits.heads import ExitHeads
from quee.exits.states import collect
from quee.features import GateView
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.device import DEVICES, GPU, gpus, place, resolved
from quee.network.execution import MultiPrecisionBackbone, walk_tree
from quee.network.schedule import LONGEST, Stretch
from quee.network.training import predict_logits, train_backbone, uses_bf16
from quee.paths import PathTree
from quee.precision import Precision
from quee.quantization.calibration import quantize_paths
from quee.quantization.layers import QUANTIZED, use_integer_kernels
from quee.settings.exits import Exits
from quee.settings.experiment import load_experiment
from quee.settings.quantize import QuantizationConfig
from quee.work.threads import cores

Rows = list[dict[str, Any]]
TREE = [Precision("w4a4"), Precision("w8a8")]
RECIPE = "street_characters_training"
BATCHES, REPEATS = (1, 8, 64), 5


@dataclass(frozen=True)
class Bench:
    """The device and the sizes of what is tried."""

    device: str
    small: bool
    images: int

    @property
    def on(self) -> torch.device:
        return place(self.device)

    def backbone(self, name: str, gates: tuple[int, ...], **kwargs: Any) -> SegmentedBackbone:
        torch.manual_seed(0)
        if self.small:
            name, gates, kwargs = "vit_digits", (1, 2), {"embed_dim": 32, "depth": 2}
        return create_backbone(name, gates, **kwargs).requires_grad_(False).eval()

    @cached_property
    def wide(self) -> SegmentedBackbone:
        """The network at ImageNet's shapes."""
        return self.backbone("t2t_vit_14", (4, 8, 11, 14), img_size=224)

    def pictures(self, model: SegmentedBackbone, number: int) -> Tensor:
        return torch.randn(number, *model.input.shape, generator=torch.Generator().manual_seed(number))

    def wait(self) -> None:
        if self.device == GPU:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any]) -> float:
        self.wait()
        began = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - began

    def medians(self, runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """Median seconds of each, in alternation, after one run to warm up."""
        for run in runs.values():
            self.seconds(run)
        times = [{name: self.seconds(run) for name, run in runs.items()} for _ in range(REPEATS)]
        return {name: statistics.median(found[name] for found in times) for name in runs}


def quantized(model: SegmentedBackbone, images: Tensor) -> MultiPrecisionBackbone:
    """The network at the tree's precisions, calibrated on images where the network is."""
    found = quantize_paths(model, [QuantizationConfig(p) for p in TREE], [images], 0)
    return MultiPrecisionBackbone({Precision("fp32"): model, **found})  # type: ignore[dict-item]


def heads_for(backbone: MultiPrecisionBackbone, images: Tensor) -> ExitHeads:
    labels = torch.arange(len(images)) % backbone.classes
    settings = Exits(head="linear", pooling="mean", embedding=4)
    absent = set(range(backbone.classes)) - set(labels.tolist())
    return fit_exits(backbone, TREE, lambda _: [(images, labels)], settings, 1, len(images), absent)[0]


def equality(bench: Bench) -> Rows:
    model = bench.backbone("t2t_vit_7", (2, 4, 7), img_size=32)
    images = bench.pictures(model, 64)
    here = quantized(model, images)
    there = MultiPrecisionBackbone({p: deepcopy(m) for p, m in here.models.items()}).to(bench.on)
    same, layers = 0, 0
    for precision in TREE:
        seen = inputs_of(here.models[precision], images)
        for name, given in seen.items():
            expected = here.models[precision].get_submodule(name)(*given)
            found = there.models[precision].get_submodule(name)(*(x.to(bench.on) for x in given))
            layers, same = layers + 1, same + torch.equal(found.cpu(), expected)
    heads = heads_for(here, images)
    tree = PathTree(list(map(str, TREE)), here.segments)
    difference, answers = 0.0, []
    views = [GateView(network, own, True) for network, own in ((here, heads), (there, deepcopy(heads).to(bench.on)))]
    walked = [
        list(walk_tree(network, tree, images)) for network in (here, there)
    ]  # one after the other: each sets torch's mode
    for (node, ours), (_, theirs) in zip(*walked, strict=True):
        gate, last = int(tree.gate[node]), tree.paths[node][-1]
        a, b = (view(gate, last, state)[0] for view, state in zip(views, (ours, theirs), strict=True))
        difference = max(difference, float(np.abs(a - b).max()))
        answers.append(a.argmax(axis=1) == b.argmax(axis=1))
    return [
        {"what": "quantized layers with the same bits", "value": f"{same} of {layers}"},
        {"what": "largest difference of log probabilities", "value": f"{difference:.2g}"},
        {"what": "equal answers, over nodes and images", "value": f"{100 * float(np.mean(answers)):.2f} %"},
    ]


def inputs_of(model: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """What the quantized layers take on images, by name."""
    seen: dict[str, tuple[Tensor, ...]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, given) and None)
        for name, module in model.named_modules()
        if isinstance(module, QUANTIZED)
    ]
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


def stages(bench: Bench) -> Rows:
    model = bench.wide.to(bench.on)
    images = bench.pictures(model, 64)
    found: list[MultiPrecisionBackbone] = []
    took = bench.seconds(lambda: found.append(quantized(model, images.to(bench.on))))
    (backbone,) = found
    heads = heads_for(backbone, images[:32]).to(bench.on)
    view, tree = GateView(backbone, heads, True), PathTree(list(map(str, TREE)), backbone.segments)
    parts = {gate: list(model.pooling_parts("mean")) for gate in range(1, backbone.segments + 1)}
    labels = torch.arange(len(images)) % backbone.classes

    def tree_of_states() -> None:
        for node, state in walk_tree(backbone, tree, images):
            view(int(tree.gate[node]), tree.paths[node][-1], state)

    def plain() -> None:
        with torch.inference_mode():
            backbone.classify(
                Precision("fp32"), backbone.run_path([Precision("fp32")] * backbone.segments, images)
            ).cpu()

    median = bench.medians(
        {
            "exits: states of mixed prefixes": lambda: collect(
                backbone, TREE, lambda _: [(images, labels)], range(1), np.arange(len(images)), parts, 0, lambda: None
            ),
            f"features: a tree of {len(tree)} nodes": tree_of_states,
            "backbone: the float network": plain,
        }
    )
    rows = {f"quantize: {len(TREE)} precisions": took, **median}
    return [{"what": name, "images/s": f"{len(images) / seconds:,.1f}"} for name, seconds in rows.items()]


def speed(bench: Bench) -> Rows:
    model = bench.wide.to(bench.on)
    integers = quantized(model, bench.pictures(model, 64).to(bench.on)).models[Precision("w8a8")]
    use_integer_kernels(integers)
    runs: dict[str, nn.Module] = {"w8a8, integer kernels": integers, "fp32": model}
    if bench.device == GPU:
        for kind in (torch.bfloat16, torch.float16):
            name = str(kind).removeprefix("torch.")
            runs[f"{name}, torch.compile"] = torch.compile(deepcopy(model).to(kind), mode="max-autotune")  # type: ignore[assignment]
    rows = []
    for batch in BATCHES:
        images = bench.pictures(model, batch).to(bench.on)

        def run(network: nn.Module, x: Tensor) -> None:
            kind = next((p.dtype for p in network.parameters() if p.is_floating_point()), x.dtype)
            with torch.inference_mode():
                network(x.to(kind))

        median = bench.medians({name: partial(run, network, images) for name, network in runs.items()})
        rows += [{"what": name, "batch": batch, "images/s": f"{batch / took:,.1f}"} for name, took in median.items()]
    return rows


def training(bench: Bench) -> Rows:
    settings = load_experiment(RECIPE).backbone.model_copy(update={"images": bench.images, "warmup_epochs": 1.0})
    if bench.small:
        settings = settings.model_copy(update={"batch_size": 64})
    try:
        stream = open_stream("street_characters", 0)
    except IntegrityError as error:
        return [{"what": "left out", "value": str(error)}]
    torch.manual_seed(0)
    backbone = create_backbone(settings.name, settings.fixed_gates, num_classes=47, **settings.kwargs)
    steps, size = -(-bench.images // settings.batch_size), settings.batch_size
    bf16 = uses_bf16(settings.mixed_precision, bench.on, trace_cost(backbone).macs)
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool, TemporaryDirectory() as folder:

        def drawn(first: int, last: int) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
            return stream.batches(pool, first, last, size, backbone.input, settings.augmentation)

        def batches(stretch: Stretch) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
            return drawn(stretch.before, stretch.before + stretch.steps)

        def accuracy(model: Any) -> float:
            logits, labels = predict_logits(model, drawn(steps, steps + max(1, 4096 // size)))
            return float((logits.argmax(axis=1) == labels).mean())

        began = time.perf_counter()
        history = train_backbone(
            backbone, settings, batches, LONGEST, accuracy, Path(folder) / "checkpoint", bf16, bench.device
        )
        seconds = time.perf_counter() - began
    return [
        {"what": "images/s, drawing and validation included", "value": f"{bench.images / seconds:,.0f}"},
        {"what": f"accuracy after {bench.images:,} images", "value": f"{history.rows[-1]['validation_accuracy']:.3f}"},
    ]


PARTS: dict[str, Callable[[Bench], Rows]] = {part.__name__: part for part in (equality, stages, speed, training)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, help="without it, nothing is measured where there is no GPU")
    parser.add_argument("--parts", default=",".join(PARTS), help="names, separated by commas")
    parser.add_argument("--small", action="store_true", help="small networks and few images, to try the script")
    parser.add_argument("--images", type=int, help="images to train on (1,000,000; with --small 256)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        parser.error(f"--parts: unknown {', '.join(unknown)}; valid: {', '.join(PARTS)}")
    if options.device is None and not gpus():
        print("No GPU here, so there is nothing to measure; `--device cpu --small` tries the code.")
        return
    images = options.images or (256 if options.small else 10**6)
    bench = Bench(resolved(options.device or GPU, "--device"), options.small, images)
    named = torch.cuda.get_device_name() if bench.device == GPU else f"{cores()} cores"
    print(f"Device: {bench.device}, {named}; PyTorch {torch.__version__}\n")
    found = {}
    for name in names:
        began = time.perf_counter()
        found[name] = PARTS[name](bench)
        print(f"### {name} ({time.perf_counter() - began:.0f} s)\n", flush=True)
        columns = list(found[name][0])
        print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for row in found[name]:
            print(f"| {' | '.join(str(row[column]) for column in columns)} |")
        print(flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": bench.device, "name": named, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
