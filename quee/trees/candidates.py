"""Candidates for the tree: each runs uniformly through the network, with a probe at every gate.

A probe is a multinomial logistic regression on the pooled state, as where gates are chosen (`quee.exits.gates`). It is
fitted on training images and judged on others, after the candidate's own segments.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quee.cost import trace_cost
from quee.evenly import evenly
from quee.exits.gates import head_bitflops, pooled, probe
from quee.network.base import SegmentedBackbone
from quee.network.device import place
from quee.network.execution import MICRO_BATCH, MultiPrecisionBackbone
from quee.network.files import load_backbone
from quee.network.predictions import Networks
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import own_layers
from quee.settings.quantize import QuantizationConfig, Quantize
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Lanes

CALIBRATION = 128
"""Most calibration images of a candidate, which compares and is not deployed."""
FITTED, JUDGED = 2000, 2000
"""Most images that probes are fitted on, and that candidates are judged by."""
CALIBRATION_PASSES = 30
"""Time to calibrate a candidate, in passes per image."""


@dataclass(frozen=True)
class Rows:
    """Ids of the images of a search, apart from each other."""

    calibration: np.ndarray
    fitted: np.ndarray
    judged: np.ndarray

    def described(self) -> dict[str, Any]:
        """Numbers of images, and the split of those that candidates are judged by."""
        return {**{name: len(own) for name, own in vars(self).items()}, "judged_split": "validation"}

    def passes(self, candidates: int) -> int:
        """Passes of the network that so many candidates take, calibration counted as `CALIBRATION_PASSES` per image."""
        return candidates * (CALIBRATION_PASSES * len(self.calibration) + len(self.fitted) + len(self.judged))


def spread(ids: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the sample ids (n,), evenly spread."""
    found: np.ndarray = ids[evenly(len(ids), most)]
    return found


def rows_of(ids: Mapping[str, np.ndarray], seed: int) -> Rows:
    """The images of a search, by the ids of the splits: probes are fitted on training images.

    Candidates are judged by the validation split. Training images would not do: weights may know them by heart, and then
    show a quarter of what coarse quantization costs.
    """
    train = np.random.default_rng([seed, 5]).permutation(ids["train"])
    return Rows(spread(ids["calibration"], CALIBRATION), np.sort(train[:FITTED]), spread(ids["validation"], JUDGED))


Images = Callable[[np.ndarray], Iterator[tuple[Tensor, np.ndarray]]]
"""Batches of images (n, c, h, w) and labels (n,) of ids."""


@dataclass(frozen=True)
class Found:
    """What a candidate says of the judged images; S images, L gates."""

    confidence: np.ndarray
    """(S, L) largest probability."""
    answer: np.ndarray
    """(S, L) class."""


def name_of(precision: Precision, by_layer: bool) -> str:
    return f"{precision} by layer" if by_layer else str(precision)


def measure(
    networks: Networks, configs: Mapping[str, QuantizationConfig], rows: Rows, store: Store, lanes: Lanes
) -> dict[str, Found]:
    """What the candidates say, by name. A candidate is a shard; finished ones are not computed again."""
    kept = store / f"candidates-{networks.digest}"
    shards = [
        Shard(name.replace(" ", "-"), compute_candidate, (networks, config, rows)) for name, config in configs.items()
    ]
    run_shards(shards, kept, lanes, "candidates for the tree")
    found = {}
    for name, shard, data in zip(configs, shards, read_shards(shards, kept), strict=True):
        tensors, _ = unpacked_tensors(data, f"{kept.url}/{shard.name}")
        found[name] = Found(**tensors)
    return found


def compute_candidate(networks: Networks, config: QuantizationConfig, rows: Rows) -> bytes:
    """One candidate's shard as bytes of a safetensors file. Runs in any process."""
    with alone():
        networks.check()
        backbone = load_backbone(Path(networks.backbone)).to(place(networks.device))
        source = networks.images()

        def images(ids: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
            for _, x, y in source.batches(ids, backbone.input, MICRO_BATCH):
                yield x, y.numpy()

        return packed_tensors(vars(candidate(backbone, config, images, rows)))


def candidate(backbone: SegmentedBackbone, config: QuantizationConfig, images: Images, rows: Rows) -> Found:
    """What the float backbone, which is not changed, says when quantized as `config` says."""
    quantized = quantize_(deepcopy(backbone), config, (x for x, _ in images(rows.calibration)))
    assert isinstance(quantized, SegmentedBackbone)
    network = MultiPrecisionBackbone({config.precision: quantized})
    states, labels, _ = _states(network, config.precision, images, rows.fitted)
    others, _, own = _states(network, config.precision, images, rows.judged)
    found = [probe(x, labels, seen, backbone.num_classes, threads=1) for x, seen in zip(states, others, strict=True)]
    confidence, answer = (np.column_stack(each) for each in zip(*found, own, strict=True))
    return Found(confidence.astype(np.float32), answer.astype(np.int32))


def _states(
    network: MultiPrecisionBackbone, precision: Precision, images: Images, ids: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Pooled states (n, D) at every gate but the last, labels (n,), and the own head's largest probability and class."""
    gates = range(1, network.segments)
    found: list[list[np.ndarray]] = [[] for _ in gates]
    labels, top, answer = [], [], []
    with torch.inference_mode():
        for x, y in images(ids):
            state = x
            for gate in gates:
                state = network.run(gate, precision, state)
                found[gate - 1].append(pooled(network.first, gate, state).cpu().numpy())
            logits = network.classify(precision, network.run(network.segments, precision, state))
            best = logits.cpu().double().softmax(dim=1).max(dim=1)
            labels.append(y)
            top.append(best.values.numpy())
            answer.append(best.indices.numpy())
    joined = [np.concatenate(parts) for parts in found]
    return joined, np.concatenate(labels), (np.concatenate(top), np.concatenate(answer))


def costs_of(backbone: SegmentedBackbone, config: QuantizationConfig, settings: Quantize) -> np.ndarray:
    """(L,) cost of a path that ends at each gate, with the heads visited; 1 is the static w8a8 backbone."""
    own = {name: str(getattr(settings, name) or "") for name in ("stem", "head")}
    cost = trace_cost(backbone, **own, layers=own_layers(backbone, [config]))
    segments = [cost.bitflops(gate, config.precision) for gate in range(1, backbone.segments + 1)]
    return np.cumsum(segments + head_bitflops(backbone, cost, config.precision)) / cost.unit
