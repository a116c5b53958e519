"""Linear probes: a frozen backbone's own head, fitted on features that are computed once.

Features are the head's inputs: for DINOv2 the class token and the mean patch token of the last block, for other
backbones the pooled state. They are kept in a `Store`, so that a killed run goes on.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import UsageError
from quee.network import checkpoint
from quee.network.base import SegmentedBackbone
from quee.network.device import CPU, place
from quee.network.schedule import Stretch
from quee.network.training import Head, History, forward_function, train_backbone
from quee.settings.backbone import Backbone
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.progress import progress
from quee.work.store import Store

SHARD = 4096
"""Samples per stored piece of features."""
Batches = Callable[[np.ndarray], Iterator[tuple[np.ndarray, Tensor, Tensor]]]
"""Sample ids to batches of (ids, images, labels) in that order."""


class _Features(nn.Module):
    """Images (n, c, h, w) to the inputs of the backbone's head (n, width)."""

    def __init__(self, backbone: SegmentedBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        head = self.backbone.get_submodule(self.backbone.logits_layer)
        hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.backbone(x)
        finally:
            hook.remove()
        return seen[0].float()


def linear_head(backbone: SegmentedBackbone) -> nn.Linear:
    """The head to be fitted; raises UsageError unless the head is exactly one linear layer."""
    head = dict(backbone.named_modules()).get(backbone.logits_layer)
    if not isinstance(head, nn.Linear) or "head_dist" in backbone.head_modules:
        raise UsageError(f"backbone.mode linear_probe needs one linear head; {backbone.name} has another: finetune it")
    return head


def features(
    backbone: SegmentedBackbone, ids: np.ndarray, batches: Batches, folder: Path, bf16: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, width) float32 and labels (n,) of samples, in the order of `ids`; finished pieces are read back."""
    store = Store(str(folder.resolve()))
    there = store.files()
    place = next(backbone.parameters()).device
    forward = forward_function(_Features(backbone), bf16)

    def computed(wanted: np.ndarray) -> bytes:
        found = [(forward(x.to(place)).cpu().numpy(), y.numpy()) for _, x, y in batches(wanted)]
        x, y = (np.concatenate(column) for column in zip(*found, strict=True))
        return packed_tensors({"features": x, "labels": y})

    parts = []
    with progress("features for the linear probe", len(ids)) as bar, torch.inference_mode():
        for start in range(0, len(ids), SHARD):
            name, wanted = f"{start:09d}", ids[start : start + SHARD]
            data = store.kept(name, partial(computed, wanted), there.get(name, ()))
            piece, _ = unpacked_tensors(data, f"{folder}/{name}")
            parts.append((piece["features"], piece["labels"]))
            bar.advance(len(wanted))
    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x, y


def fit_probe(
    backbone: SegmentedBackbone,
    settings: Backbone,
    ids: dict[str, np.ndarray],
    batches: Batches,
    work: Path,
    bf16: bool = False,
    device: str = CPU,
) -> History:
    """Fit the head on the training split in place, with the rest frozen; returns the history of the fit.

    The head starts at zero. Samples are shuffled by seed and epoch. Features are computed in bf16 if asked for, the head
    is fitted in fp32. Raises UsageError unless the head is one linear layer.
    """
    head = linear_head(backbone)
    backbone.requires_grad_(False).eval().to(place(device))
    train, validation = (
        features(backbone, ids[split], batches, work / split, bf16) for split in ("train", "validation")
    )
    backbone.cpu()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    x, y = map(torch.from_numpy, train)

    def shuffled(stretch: Stretch) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        order = np.random.default_rng([settings.seed, stretch.epoch]).permutation(len(x))
        for step in range(stretch.first, stretch.last):
            rows = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            yield rows, x[rows], y[rows]

    def accuracy(model: nn.Module) -> float:
        place = next(model.parameters()).device
        with torch.inference_mode():
            found = [model(part.to(place)).argmax(dim=1).cpu() for part in torch.from_numpy(validation[0]).split(4096)]
        return float((torch.cat(found).numpy() == validation[1]).mean())

    probe = Head(f"the head of {backbone.name}", head.requires_grad_(True))
    history = train_backbone(probe, settings, shuffled, len(x), accuracy, work / checkpoint.NAME, device=device)
    backbone.requires_grad_(False).eval()
    return history
