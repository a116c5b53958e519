"""SegmentedBackbone: a classifier cut into a stem, blocks, gates between them, and a head.

Segment 1 begins with the stem and takes images; every later segment takes the state behind the one before it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quee.errors import UsageError


@dataclass(frozen=True)
class InputConfig:
    """What a backbone expects of its images; preprocessing follows it."""

    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0


class SegmentedBackbone(nn.Module, ABC):
    """Base of all backbones. Subclasses give `embed`, `blocks` and `classify`.

    States are token tensors (n, tokens, dim); the first `prefix_tokens` of them are class (and register) tokens.
    """

    name: str = ""
    made_with: dict[str, Any] | None = None
    """What `create_backbone` was given beside name and gates, and builds it again with; None where others made it."""
    input: InputConfig
    num_classes: int
    dim: int
    prefix_tokens: int = 1
    blocks: nn.ModuleList
    head_modules: tuple[str, ...] = ("norm", "head")
    """Names of the submodules `classify` runs; whatever is neither these nor a block belongs to the stem."""

    _gates: tuple[int, ...] = ()

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The stem: images (n, c, h, w) to tokens (n, tokens, dim)."""

    @abstractmethod
    def classify(self, state: Tensor) -> Tensor:
        """The backbone's own head: final state (n, tokens, dim) to logits (n, classes)."""

    @property
    def gates(self) -> tuple[int, ...]:
        """Number of blocks done at each gate; four equal segments unless set."""
        depth = len(self.blocks)
        return self._gates or tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))

    def set_gates(self, gates: tuple[int, ...]) -> None:
        """Raises UsageError unless the gates rise strictly and end at the depth."""
        depth = len(self.blocks)
        if not gates or list(gates) != sorted(set(gates)) or gates[0] < 1 or gates[-1] != depth:
            raise UsageError(f"gates {list(gates)} must rise strictly from at least 1 to {depth}, the number of blocks")
        self._gates = tuple(gates)

    @property
    def segments(self) -> int:
        return len(self.gates)

    def segment_blocks(self, segment: int) -> range:
        """Indices of the blocks of a segment, counted from 1."""
        if not 1 <= segment <= self.segments:
            raise UsageError(f"segment {segment} is not in 1–{self.segments}")
        return range(self.gates[segment - 2] if segment > 1 else 0, self.gates[segment - 1])

    def segment_of(self, module_name: str) -> int:
        """Segment a submodule belongs to, from 1; 0 for the head."""
        first, _, rest = module_name.partition(".")
        if first == "blocks":
            block = int(rest.partition(".")[0])
            return next(j for j, end in enumerate(self.gates, 1) if block < end)
        return 0 if first in self.head_modules else 1

    def run_segment(self, segment: int, state: Tensor) -> Tensor:
        """Run one segment; segment 1 takes images (n, c, h, w), the others the state at the gate before them."""
        if segment == 1:
            state = self.embed(state)
        for index in self.segment_blocks(segment):
            state = self.run_block(index, state)
        return state

    def run_block(self, index: int, state: Tensor) -> Tensor:
        """Run one block, counted from 0, on the state before it."""
        return self.blocks[index](state)

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

    def pool(self, state: Tensor, pooling: str) -> Tensor:
        """The state as one vector: the class token (n, dim), or it and the mean patch token (n, 2 dim).

        The mean is taken in double precision, so that it does not depend on how the batch is split.
        """
        if pooling == "cls":
            return state[:, 0]
        patches = state[:, self.prefix_tokens :].double().mean(dim=1).to(state.dtype)
        return torch.cat([state[:, 0], patches], dim=1)
