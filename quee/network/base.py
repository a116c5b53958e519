"""The contract of a backbone: a classifier cut into a stem, blocks, gates between blocks, and a head.

Segment 1 begins with the stem and takes images; every later segment takes the state after the segment before it. A state
is a tensor whose first axis is the sample; its other axes and its width may differ from gate to gate.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing
from quee.errors import QueeError, UsageError
from quee.network import HEAD


def mean(positions: Tensor) -> Tensor:
    """The mean (n, width) over positions (n, positions, width).

    It is computed in double precision, so that it does not depend on how the batch is split.
    """
    return positions.double().mean(dim=1).to(positions.dtype)


class SegmentedBackbone(nn.Module, ABC):
    """Base of all backbones. A subclass gives `embed`, `blocks`, `classify` and `width`, and sets `input` and `num_classes`.

    The base expects maps (n, channels, height, width) as states. A subclass with other states also gives `pool`.
    """

    name: str = ""
    made_with: dict[str, Any] | None = None
    """Keywords of `create_backbone`, besides name and gates, that build this backbone again; None if it was built otherwise."""
    input: Preprocessing
    """Preprocessing of the backbone's images."""
    num_classes: int
    blocks: nn.ModuleList
    """The blocks; each is called with the state before it, and gates can be between them."""
    head_modules: tuple[str, ...] = ("norm", "head")
    """Names of the submodules that `classify` runs; modules outside of these and of the blocks are the stem."""
    residuals: int = 0
    """Residual sums in a block. They are not modules, so cost accounting cannot see them."""
    poolings: ClassVar[Mapping[str, int]] = {"cls": 1, "cls_mean": 2}
    """Names of the ways to pool a state, each with the number of vectors that it joins."""

    _gates: tuple[int, ...] = ()

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The stem: images (n, c, h, w) to the state before the first block."""

    @abstractmethod
    def classify(self, state: Tensor) -> Tensor:
        """The backbone's own head: final state to logits (n, classes)."""

    @abstractmethod
    def width(self, gate: int) -> int:
        """Number of channels of the state at a gate, from 1."""

    def pool(self, state: Tensor, gate: int, pooling: str = "cls_mean") -> Tensor:
        """The state at a gate as (n, parts · width): the mean over positions; `cls_mean` adds the largest values."""
        return pooled(state.flatten(2).transpose(1, 2), pooling)

    @property
    def block_names(self) -> list[str]:
        """Names of the blocks' modules in the order of execution."""
        return [f"blocks.{index}" for index in range(len(self.blocks))]

    @property
    def logits_layer(self) -> str:
        """Name of the layer that gives the logits."""
        return "head"

    @property
    def gates(self) -> tuple[int, ...]:
        """Number of blocks before each gate; four equal segments by default."""
        depth = len(self.block_names)
        return self._gates or tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))

    def set_gates(self, gates: tuple[int, ...]) -> None:
        """Raises UsageError unless the gates rise strictly and end at the depth."""
        depth = len(self.block_names)
        if not gates or list(gates) != sorted(set(gates)) or gates[0] < 1 or gates[-1] != depth:
            raise UsageError(f"gates {list(gates)} must rise strictly from at least 1 to {depth}, the number of blocks")
        self._gates = tuple(gates)

    @property
    def segments(self) -> int:
        return len(self.gates)

    def block_of(self, module_name: str) -> int | None:
        """The block, counted from 0, that a submodule or parameter belongs to; None for those of the stem and the head."""
        names = enumerate(self.block_names)
        return next((i for i, block in names if f"{module_name}.".startswith(f"{block}.")), None)

    def segment_of(self, module_name: str) -> int:
        """Segment, from 1, that a submodule or parameter belongs to; HEAD for the head."""
        block = self.block_of(module_name)
        if block is None:
            return HEAD if module_name.partition(".")[0] in self.head_modules else 1
        return next(segment for segment, end in enumerate(self.gates, 1) if block < end)

    def run_segment(self, segment: int, state: Tensor) -> Tensor:
        """Run one segment, from 1; segment 1 takes images (n, c, h, w), the others the state at the gate before them.

        Raises UsageError where there is no such segment.
        """
        if not 1 <= segment <= self.segments:
            raise UsageError(f"segment {segment} is not in 1–{self.segments}")
        if segment == 1:
            state = self.embed(state)
        for index in range(self.gates[segment - 2] if segment > 1 else 0, self.gates[segment - 1]):
            state = self.run_block(index, state)
        return state

    def run_block(self, index: int, state: Tensor) -> Tensor:
        """Run one block, counted from 0, on the state before it."""
        return self.get_submodule(self.block_names[index])(state)

    def asked_for(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords of `create_backbone` with which these weights would fit; empty where the weights do not tell."""
        return {}

    def forward_to(self, gate: int, x: Tensor) -> Tensor:
        """Images to the state at a gate (gate 0: the images)."""
        for segment in range(1, gate + 1):
            x = self.run_segment(segment, x)
        return x

    def forward_from(self, gate: int, state: Tensor) -> Tensor:
        """The state at a gate to logits (n, classes)."""
        for segment in range(gate + 1, self.segments + 1):
            state = self.run_segment(segment, state)
        return self.classify(state)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_from(0, x)


class TokenBackbone(SegmentedBackbone):
    """A backbone whose states are tokens (n, tokens, dim) of one width; prefix tokens (class, registers) come first."""

    dim: int
    prefix_tokens: int = 1
    has_class_token: bool = True
    grid: tuple[int, int]
    """Rows and columns of patch tokens."""
    residuals = 2

    def width(self, gate: int) -> int:
        return self.dim

    def pool(self, state: Tensor, gate: int, pooling: str = "cls_mean") -> Tensor:
        """The class token; `cls_mean` adds the mean patch token. Without a class token, pools like the base class."""
        if not self.has_class_token:
            return pooled(state[:, self.prefix_tokens :], pooling)
        if pooling == "cls":
            return state[:, 0]
        average = mean(state[:, self.prefix_tokens :])
        return torch.cat([state[:, 0], average], dim=1)

    def refuse_positions(self, table: Tensor, prefix: int) -> None:
        """Raises QueeError unless a position table (1, prefix + patches, dim) is for this grid or a square grid."""
        patches = table.shape[1] - prefix if table.dim() == 3 else 0
        if patches != self.grid[0] * self.grid[1] and (patches < 1 or isqrt(patches) ** 2 != patches):
            raise QueeError(
                f"a position table of shape {tuple(table.shape)} is not {prefix} + a square grid of tokens: "
                "weights for images of another shape fit at their own img_size=[height,width] alone"
            )


def pooled(positions: Tensor, pooling: str) -> Tensor:
    """Positions (n, positions, width) as (n, parts · width): their mean; `cls_mean` adds their largest values."""
    return mean(positions) if pooling == "cls" else torch.cat([mean(positions), positions.amax(dim=1)], dim=1)
