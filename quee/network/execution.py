"""Execution of a backbone whose segments exist at several precisions, and of the tree of paths over them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from quee.network.attention import MatMul
from quee.network.base import SegmentedBackbone
from quee.paths import PathTree
from quee.precision import Precision

MICRO_BATCH = 64
"""Floating-point products run in padded batches of this size, because their last bits may depend on a batch's shape.

They may also depend on a sample's place in its batch and on the batch's layout in memory, so both are fixed too.
"""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def padded(run: Callable[[Tensor], Tensor], x: Tensor, place: int = 0) -> Tensor:
    """Apply `run` to the samples of x (n, …) in micro-batches of MICRO_BATCH samples, each in memory of its own.

    `place` is the place of the first sample in its micro-batch; places without a sample repeat one. Tensors are copied,
    because other strides, even of an axis of length one, would select another kernel.
    """
    results, start = [], 0
    while start < len(x):
        part = x[start : start + MICRO_BATCH - place]
        batch = x.new_empty(MICRO_BATCH, *x.shape[1:])
        batch[:] = part[:1]
        batch[place : place + len(part)] = part
        results.append(run(batch)[place : place + len(part)])
        start, place = start + len(part), 0
    return torch.cat(results)


class MultiPrecisionBackbone:
    """One backbone at several precisions; `run` executes any segment at any of them.

    A sample's result does not depend on the rest of the batch: quantized segments are exact, and floating-point segments
    run in padded micro-batches.
    """

    place: int = 0
    """Place of the first sample in its micro-batch; samples of a shard keep their places in the data set."""

    def __init__(self, models: Mapping[Precision, SegmentedBackbone]) -> None:
        """`models` maps `fp32` and quantized precisions to their models; other floating-point precisions are cast from fp32."""
        self.models = dict(models)
        self.first = next(iter(self.models.values()))
        """Any one of the networks; segments, widths and pooling are the same in all."""
        self.segments, self.classes = self.first.segments, self.first.num_classes
        products = ((name, m) for name, m in self.first.named_modules() if isinstance(m, MatMul))
        self.device = next(chain(self.first.parameters(), self.first.buffers())).device
        """Where the networks are; states may be elsewhere before they run and are there afterwards."""
        self._float_parts = {self.first.segment_of(name) for name, m in products if m.kind == "float"}

    def to(self, device: torch.device) -> "MultiPrecisionBackbone":
        """Moves the networks in place."""
        for model in self.models.values():
            model.to(device)
        self.device = device
        return self

    def model(self, precision: Precision) -> SegmentedBackbone:
        if precision not in self.models and precision.is_float:
            self.models[precision] = deepcopy(self.models[Precision("fp32")]).to(_DTYPES[precision.name])
        return self.models[precision]

    def run(self, segment: int, precision: Precision, state: Tensor) -> Tensor:
        """Images (segment 1) or the state before the segment, float32, to the state after it, float32."""
        model, state = self.model(precision), state.to(self.device)
        if precision.is_float:
            dtype = _DTYPES[precision.name]
            return self.padded(lambda part: model.run_segment(segment, part.to(dtype)).float(), state)
        if segment in self._float_parts:
            return self.padded(lambda part: model.run_segment(segment, part), state)
        return model.run_segment(segment, state)

    def classify(self, precision: Precision, state: Tensor) -> Tensor:
        """The backbone's own head after a last segment of that precision: state to logits (n, classes), float32."""
        model, state = self.model(precision), state.to(self.device)
        if not precision.is_float:
            return model.classify(state)
        dtype = _DTYPES[precision.name]
        return self.padded(lambda part: model.classify(part.to(dtype)).float(), state)

    def padded(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a floating-point `run` to samples x (n, …) in micro-batches, the first sample at `place`."""
        return padded(run, x, self.place)

    def run_path(self, path: Sequence[Precision], x: Tensor) -> Tensor:
        """Images to the state at the end of a path."""
        for segment, precision in enumerate(path, 1):
            x = self.run(segment, precision, x)
        return x


def walk_tree(backbone: MultiPrecisionBackbone, tree: PathTree, images: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Every node's state on a batch of images, depth first; each node's segment runs once.

    At most one state per gate is held at a time.
    """

    def below(node: int, gate: int, state: Tensor) -> Iterator[tuple[int, Tensor]]:
        for choice, child in enumerate(tree.children[node]):
            if child >= 0:
                after = backbone.run(gate + 1, tree.precisions[choice], state)
                yield int(child), after
                yield from below(int(child), gate + 1, after)

    with torch.inference_mode():
        yield from below(-1, 0, images)


def draw_prefixes(
    backbone: MultiPrecisionBackbone, precisions: Sequence[Precision], images: Tensor, random: np.random.Generator
) -> Iterator[tuple[int, Tensor, np.ndarray]]:
    """States at each gate with prefix precisions drawn uniformly per sample: (gate, state, last choice (n,))."""
    state: Tensor | None = None
    with torch.inference_mode():
        for segment in range(1, backbone.segments + 1):
            choice = random.integers(len(precisions), size=len(images))
            before = images if state is None else state
            after: Tensor | None = None
            for index, precision in enumerate(precisions):
                rows = torch.from_numpy(np.flatnonzero(choice == index))
                if len(rows):
                    part = backbone.run(segment, precision, before[rows])
                    after = part.new_empty(len(images), *part.shape[1:]) if after is None else after
                    after[rows] = part
            assert after is not None
            state = after
            yield segment, state, choice
