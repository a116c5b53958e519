"""States for fitting exit heads: pooled and normalised, in half precision, with the class and the image that they are of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quee.errors import QueeError
from quee.exits.seen import seen_part
from quee.network.execution import MultiPrecisionBackbone, draw_prefixes
from quee.network.pooling import Part
from quee.precision import Precision

Passes = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Number of a pass, from 0, to batches of (images, labels): the same images in the same order in every pass."""


@dataclass
class States:
    """States (rows) at every gate, whose prefix precisions were drawn uniformly per sample."""

    parts: list[dict[Part, Tensor]]
    """By gate, from gate 1: each part of a pooling (rows, cells · width), normalised, in half precision."""
    labels: Tensor
    """(rows,)"""
    image: np.ndarray
    """(rows,) position of the image in a pass."""
    last: np.ndarray
    """(rows, gates) index of the precision of the segment before the gate."""
    final_loss: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(rows,) cross-entropy in nats of the backbone's own head; empty unless it was asked for."""

    def inputs(self, gate: int, parts: Sequence[Part]) -> Tensor:
        """The parts side by side (rows, D)."""
        return torch.cat([self.parts[gate - 1][part] for part in parts], dim=1)


def collect(
    backbone: MultiPrecisionBackbone,
    precisions: Sequence[Precision],
    passes: Passes,
    numbers: Iterable[int],
    chosen: np.ndarray,
    wanted: Mapping[int, Sequence[Part]],
    seed: int,
    said: Callable[[], None],
    final: bool = False,
) -> States:
    """States of the chosen images (indices in a pass, rising) in the passes of these numbers.

    `wanted` has the parts to keep by gate. `final` asks for the loss of the backbone's own head, too. `said` is called
    after every batch. Raises QueeError where passes give the images in different orders, because an image is known by its
    position.
    """
    random = np.random.default_rng(seed)
    kept: list[dict[Part, list[Tensor]]] = [
        {part: [] for part in wanted.get(gate, ())} for gate in range(1, backbone.segments + 1)
    ]
    labels, image, last, losses = [], [], [], []
    for number in numbers:
        start = 0
        for images, y in passes(number):
            rows = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, start + len(y))] - start
            if len(rows):
                y = y[rows]
                labels.append(y)
                image.append(rows + start)
                choices = []
                for gate, state, choice in draw_prefixes(backbone, precisions, images[rows], random):
                    choices.append(choice)
                    for part, found in kept[gate - 1].items():
                        found.append(seen_part(backbone.first, gate, state, part).half().cpu())
                last.append(np.stack(choices, axis=1))
                if final:
                    losses.append(_final_loss(backbone, precisions, state, choices[-1], y))
            start += len(images)
            said()
    joined, first = torch.cat(labels), len(chosen)
    if any(
        not torch.equal(joined[start : start + first], joined[:first]) for start in range(first, len(joined), first)
    ):
        raise QueeError("passes for the exit heads give the images in different orders")
    return States(
        [{part: _joined(found) for part, found in by.items()} for by in kept],
        joined,
        np.concatenate(image),
        np.concatenate(last),
        np.concatenate(losses) if final else np.zeros(0),
    )


def _joined(pieces: list[Tensor]) -> Tensor:
    """The pieces one below the other; they are freed as they are copied."""
    whole = torch.empty(sum(map(len, pieces)), *pieces[0].shape[1:], dtype=pieces[0].dtype)
    end = len(whole)
    while pieces:
        piece = pieces.pop()
        whole[end - len(piece) : end] = piece
        end -= len(piece)
    return whole


def _final_loss(
    backbone: MultiPrecisionBackbone, precisions: Sequence[Precision], state: Tensor, choice: np.ndarray, y: Tensor
) -> np.ndarray:
    found = np.empty(len(y))
    with torch.inference_mode():
        for index, precision in enumerate(precisions):
            if len(rows := np.flatnonzero(choice == index)):
                logits = backbone.classify(precision, state[rows]).cpu().double()
                found[rows] = functional.cross_entropy(logits, y[rows].long(), reduction="none").numpy()
    return found
