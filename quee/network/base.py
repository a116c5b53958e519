"""The contract of a backbone: a classifier cut into a stem, blocks, gates between blocks, and a head.

Segment 1 begins with the stem and takes images; every later segment takes the state after the segment before it. A state
is a tensor whose first axis is the sample; its other axes and its width may differ from gate to gate.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing
from quee.errors import QueeError, UsageError
from quee.network import HEAD
from quee.network.pooling import Part, over_cells, parts_of


def equal_gates(macs: Sequence[int], gates: int = 4) -> tuple[int, ...]:
    """Numbers of blocks before each of so many gates, between which the multiply-adds are as equal as blocks allow.

    There are fewer gates where there are fewer blocks.
    """
    done = list(accumulate(macs))
    gates, cuts = min(gates, len(done)), [0]
    for gate in range(1, gates):
        possible = range(cuts[-1] + 1, len(done) - gates + gate + 1)  # each later segment needs a block
        cuts.append(min(possible, key=lambda blocks: abs(done[blocks - 1] * gates - done[-1] * gate)))
    return (*cuts[1:], len(done))


class SegmentedBackbone(nn.Module, ABC):
    """Base of all backbones. A subclass gives `embed`, `blocks`, `classify` and `width`, and sets `input` and `num_classes`.

    The base expects maps (n, channels, height, width) as states. A subclass with other states also gives `positions`.
    """

    name: str = ""
    """Name in the registry of architectures."""
    made_with: dict[str, Any] | None = None
    """Keywords of `create_backbone`, besides name and gates, that build this backbone again; None if it was built otherwise."""
    input: Preprocessing
    """Preprocessing of the backbone's images."""
    num_classes: int
    """Number of outputs."""
    blocks: nn.ModuleList
    """The blocks; each is called with the state before it, and gates can be between them."""
    head_modules: tuple[str, ...] = ("norm", "head")
    """Names of the submodules that `classify` runs; modules outside of these and of the blocks are the stem."""
    residuals: int = 0
    """Residual sums in every block. They are not modules, so cost accounting cannot see them."""
    has_class_token: bool = False
    """Whether states have a class token, which exit heads can read."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of patch tokens; (0, 0) where states are maps."""

    _gates: tuple[int, ...] = ()

    def adopt(self, model: nn.Module) -> None:
        """Take over the submodules, parameters and buffers of another network, under its names."""
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in model._non_persistent_buffers_set)

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The stem: images (n, c, h, w) to the state before the first block."""

    @abstractmethod
    def classify(self, state: Tensor) -> Tensor:
        """The backbone's own head: final state to logits (n, classes)."""

    @abstractmethod
    def width(self, gate: int) -> int:
        """Number of channels of the state at a gate, from 1."""

    def positions(self, state: Tensor, gate: int) -> Tensor:
        """The state at a gate as a map (n, width, rows, columns)."""
        return state

    def class_token(self, state: Tensor, gate: int) -> Tensor:
        """The class token (n, width) of the state at a gate, where the backbone has one."""
        raise UsageError(f"{self.name} has no class token")

    @property
    def poolings(self) -> tuple[str, ...]:
        """Poolings that are tried when the best one is asked for, the plainest first."""
        if self.has_class_token:
            return ("cls_mean", "cls", "cls_mean_max", "cls_mean2x2", "cls_mean4x4")
        return ("mean_max", "mean", "mean2x2", "mean2x2_max2x2", "mean4x4", "mean4x4_max4x4")

    @property
    def global_pooling(self) -> str:
        """The plain pooling over all positions: class token and mean, or without a class token mean and maximum."""
        return "cls_mean" if self.has_class_token else "mean_max"

    def pooling_parts(self, pooling: str) -> tuple[Part, ...]:
        """The parts of a pooling by its name. Raises UsageError for an unknown name and for a class token that is not there."""
        parts = parts_of(pooling)
        if not self.has_class_token and any(part.kind == "cls" for part in parts):
            raise UsageError(
                f"pooling {pooling!r} reads a class token, and {self.name} has none; valid: mean, max, grids"
            )
        return parts

    def pooled_width(self, gate: int, pooling: str) -> int:
        """Length of a pooled state at a gate; raises UsageError as `pooling_parts` does."""
        return self.width(gate) * sum(part.cells for part in self.pooling_parts(pooling))

    def pool_part(self, state: Tensor, gate: int, part: Part) -> Tensor:
        """One part of a pooling of the state at a gate: (n, cells, width)."""
        if part.kind == "cls":
            return self.class_token(state, gate)[:, None]
        return over_cells(self.positions(state, gate), part)

    def pool(self, state: Tensor, gate: int, pooling: str) -> Tensor:
        """The state at a gate as (n, vectors · width), part by part."""
        return torch.cat([self.pool_part(state, gate, part).flatten(1) for part in self.pooling_parts(pooling)], dim=1)

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
        if not gates or list(gates) != sorted(set(gates)) or gates[0] < 1:
            raise UsageError(f"gates {list(gates)} must rise strictly from at least 1 to {depth}, the number of blocks")
        if gates[-1] != depth:
            raise UsageError(
                f"gates {list(gates)}: the last gate must be {depth}, the number of blocks; got {gates[-1]}"
            )
        self._gates = tuple(gates)

    @property
    def segments(self) -> int:
        """Number of segments, and of gates."""
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

    def residuals_of(self, block: int) -> int:
        """Residual sums in a block, counted from 0."""
        return self.residuals

    def run_block(self, index: int, state: Tensor) -> Tensor:
        """Run one block, counted from 0, on the state before it."""
        return self.get_submodule(self.block_names[index])(state)

    def keywords(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords that only this architecture's names and shapes of weights tell; empty for weights of another."""
        return {}

    def classes_in(self, state: Mapping[str, Tensor]) -> int | None:
        """Number of outputs of the head in a state dict; None without a head."""
        head = state.get(f"{self.logits_layer}.weight")
        return len(head) if head is not None and head.dim() else None

    def asked_for(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords of `create_backbone` that these weights tell, where they differ from this backbone's.

        By shapes: the number of classes and channels, the size of square images, and an architecture's `keywords`.
        """
        own = self.state_dict()
        known = self.keywords(own)
        found = {key: value for key, value in self.keywords(state).items() if known.get(key) != value}
        if (classes := self.classes_in(state)) not in (None, self.num_classes):
            found["num_classes"] = classes
        stem = next((key for key, value in own.items() if value.dim() == 4), "")
        patch = self.input.size[0] / max(self.grid[0], 1)  # pixels
        if stem in state and state[stem].dim() == 4:
            if state[stem].shape[1] != own[stem].shape[1]:
                found["in_chans"] = state[stem].shape[1]
            patch *= state[stem].shape[2] / own[stem].shape[2]
        table, here = state.get("pos_embed"), own.get("pos_embed")
        if table is None or here is None or not table.dim() == here.dim() == 3 or not patch.is_integer():
            return found
        patches = table.shape[1] - (here.shape[1] - self.grid[0] * self.grid[1])
        side = isqrt(max(patches, 0))
        if self.grid[0] == self.grid[1] and side * side == patches and side * patch != self.input.size[0]:
            found["img_size"] = side * int(patch)
        return found

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
        """Images (n, c, h, w) to logits (n, classes)."""
        return self.forward_from(0, x)


class TokenBackbone(SegmentedBackbone):
    """A backbone whose states are tokens (n, tokens, dim) of one width; prefix tokens (class, registers) come first."""

    dim: int
    """Width of the tokens."""
    prefix_tokens: int = 1
    """Number of tokens before the patch tokens."""
    has_class_token: bool = True
    residuals = 2

    def width(self, gate: int) -> int:
        return self.dim

    def positions(self, state: Tensor, gate: int) -> Tensor:
        """The patch tokens as a map (n, dim, rows, columns)."""
        return state[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, self.grid)

    def class_token(self, state: Tensor, gate: int) -> Tensor:
        return state[:, 0] if self.has_class_token else super().class_token(state, gate)

    def refuse_positions(self, table: Tensor, prefix: int) -> None:
        """Raises QueeError unless a position table (1, prefix + patches, dim) is for this grid or a square grid."""
        patches = table.shape[1] - prefix if table.dim() == 3 else 0
        if patches != self.grid[0] * self.grid[1] and (patches < 1 or isqrt(patches) ** 2 != patches):
            raise QueeError(
                f"a position table of shape {tuple(table.shape)} is not {prefix} + a square grid of tokens: "
                "weights for images of another shape fit at their own img_size=[height,width] alone"
            )
