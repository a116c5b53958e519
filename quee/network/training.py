"""Training of a backbone or of its head alone: seeded, resumable after every epoch, on all GPUs of the machine."""

import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quee.errors import UsageError
from quee.network import HEAD
from quee.network.base import SegmentedBackbone
from quee.settings.backbone import Backbone
from quee.work.io import atomic_path
from quee.work.keys import key_of, versions
from quee.work.progress import Bar, progress

Batches = Callable[[int], Iterator[tuple[np.ndarray, Tensor, Tensor]]]
"""Epoch number to that epoch's (sample ids, images, labels), augmented and shuffled by seed and epoch."""


@dataclass
class History:
    """One row per epoch."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def columns(self) -> dict[str, np.ndarray]:
        return {name: np.array([row[name] for row in self.rows], np.float64) for name in COLUMNS}


COLUMNS = ("epoch", "loss", "learning_rate", "validation_accuracy")


class Head(nn.Module):
    """A linear classifier on features (n, width), trained like a backbone."""

    logits_layer = "linear"

    def __init__(self, name: str, linear: nn.Linear) -> None:
        super().__init__()
        self.name, self.num_classes = name, linear.out_features
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class _Forward(nn.Module):
    """The network with its products in bf16; autocast is inside, because threads of several GPUs do not inherit it."""

    def __init__(self, model: nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, x: Tensor) -> Tensor:
        if not self.bf16:
            return self.model(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.model(x).float()


def device() -> torch.device:
    """The device that trains and probes networks: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forward_function(model: nn.Module, mixed_precision: str = "auto") -> nn.Module:
    """`model` as a function of batches, on all GPUs of the machine; in bf16 if asked for, or if `auto` and possible."""
    place = next(model.parameters()).device
    on_gpu = place.type == "cuda"
    bf16 = mixed_precision == "bf16" or (mixed_precision == "auto" and on_gpu and torch.cuda.is_bf16_supported())
    if not bf16 and not (on_gpu and torch.cuda.device_count() > 1):
        return model
    forward = _Forward(model, bf16)
    return nn.DataParallel(forward) if on_gpu and torch.cuda.device_count() > 1 else forward


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + cos(pi * (step - warmup) / max(steps - warmup, 1)))


def freeze(backbone: SegmentedBackbone, trained_blocks: int | None) -> None:
    """Freeze all but the last `trained_blocks` blocks and the head.

    Raises UsageError where the backbone has fewer blocks.
    """
    depth = len(backbone.block_names)
    if trained_blocks is None:
        return
    if trained_blocks > depth:
        raise UsageError(f"backbone.trained_blocks: {trained_blocks}; {backbone.name} has {depth} blocks")
    for name, parameter in backbone.named_parameters():
        block = backbone.block_of(name)
        late = block is not None and block >= depth - trained_blocks
        if not late and backbone.segment_of(name) != HEAD:
            parameter.requires_grad_(False)


def parameter_groups(backbone: SegmentedBackbone | Head, settings: Backbone) -> list[dict[str, Any]]:
    """Optimizer groups: weight matrices decay, biases and normalisations do not; pretrained layers learn more slowly.

    Parameters without gradient (a fixed position table, random features, frozen blocks) are in no group.
    """
    parameters = [(name, p) for name, p in backbone.named_parameters() if p.requires_grad]
    slow = settings.transfer_ratio if settings.mode == "finetune" else 1.0
    heads = (f"{backbone.logits_layer}.", "head_dist.")
    rates = {name: settings.learning_rate * (1.0 if name.startswith(heads) else slow) for name, _ in parameters}
    groups = [
        {
            "params": [p for name, p in parameters if (p.dim() > 1) == decayed and rates[name] == rate],
            "lr": rate,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for rate in sorted(set(rates.values()))
        for decayed in (True, False)
    ]
    return [group for group in groups if group["params"]]


def mixed(
    images: Tensor, labels: Tensor, classes: int, alpha: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup: images and one-hot labels blended with a permutation of themselves."""
    target = functional.one_hot(labels, classes).float()
    if not alpha:
        return images, target
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(images))).to(images.device)
    return share * images + (1 - share) * images[other], share * target + (1 - share) * target[other]


def train_backbone(
    backbone: SegmentedBackbone | Head,
    settings: Backbone,
    batches: Batches,
    steps_per_epoch: int,
    validate: Callable[[Any], float],
    checkpoint: Path,
) -> History:
    """Train in place; continue from `checkpoint` if it exists, and write it after every epoch.

    With a checkpoint of other settings or libraries, training begins anew and prints a message. Training runs on the
    GPUs of the machine; afterwards the network is on the CPU. Returns the history: epoch, loss, learning_rate (of the
    head), validation_accuracy (of the averaged weights if EMA is on).
    """
    place = device()
    backbone.to(place)
    groups = parameter_groups(backbone, settings)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(groups, fused=True)
    average = {k: v.clone() for k, v in backbone.state_dict().items()} if settings.ema else None
    run = _Run(backbone, settings, optimizer, [group["lr"] for group in groups], steps_per_epoch, average)
    history, start, own = History(), 0, key_of(settings.model_dump(mode="json"), steps_per_epoch, versions())
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint.is_file() else None
    if saved is not None and saved.get("key") != own:
        print(f"{checkpoint} was begun under other settings or libraries: training begins anew", file=sys.stderr)
    elif saved is not None:
        backbone.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if average is not None:
            run.average = {name: value.to(place) for name, value in saved["average"].items()}
        start, history.rows = saved["epoch"], saved["history"]
    steps = settings.epochs * steps_per_epoch
    with progress(f"training {backbone.name}", steps, start * steps_per_epoch) as bar:
        for epoch in range(start, settings.epochs):
            losses = run.epoch(epoch, batches(epoch), bar)
            accuracy = validate(_averaged(backbone, run.average))
            rate = optimizer.param_groups[-1]["lr"]
            values = (float(epoch), float(np.mean(losses)), rate, accuracy)
            history.rows.append(dict(zip(COLUMNS, values, strict=True)))
            state = {
                "key": own,
                "model": backbone.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": run.average,
                "epoch": epoch + 1,
                "history": history.rows,
            }
            with atomic_path(checkpoint) as aside:
                torch.save(state, aside)
            run.said = f"accuracy {accuracy:.3f} "
    if run.average is not None:
        backbone.load_state_dict(run.average)
    backbone.cpu().requires_grad_(False)
    backbone.eval()
    return history


@dataclass
class _Run:
    """State that the epochs of a training run share."""

    model: SegmentedBackbone | Head
    settings: Backbone
    optimizer: torch.optim.Optimizer
    rates: list[float]
    """Learning rate of each group, before the schedule."""
    steps_per_epoch: int
    average: dict[str, Tensor] | None
    said: str = ""

    def __post_init__(self) -> None:
        self.place = next(self.model.parameters()).device
        self.forward = forward_function(self.model, self.settings.mixed_precision)

    def epoch(self, epoch: int, batches: Iterator[tuple[np.ndarray, Tensor, Tensor]], bar: Bar) -> list[float]:
        """One pass; returns the loss of every step."""
        settings = self.settings
        # Seeded by epoch, so that a resumed run equals an undisturbed one.
        random = np.random.default_rng([settings.seed, epoch])
        torch.manual_seed(settings.seed * 100_003 + epoch)
        self.model.train()
        for module in self.model.modules():  # frozen parts run without dropout
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()
        losses, seen, began = [], 0, time.monotonic()
        for index, (_, images, labels) in enumerate(batches):
            self._schedule(epoch * self.steps_per_epoch + index)
            images, labels = images.to(self.place, non_blocking=True), labels.to(self.place, non_blocking=True)
            images, target = mixed(images, labels, self.model.num_classes, settings.augmentation.mixup, random)
            loss = functional.cross_entropy(self.forward(images), target, label_smoothing=settings.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
            self.optimizer.step()
            losses.append(loss.item())
            self._follow()
            seen += len(images)
            speed = seen / max(time.monotonic() - began, 1e-9)
            bar.advance(note=f"epoch {epoch} loss {losses[-1]:.3f} {self.said}{speed:.0f} images/s")
        self.model.eval()
        return losses

    def _schedule(self, step: int) -> None:
        steps = self.settings.epochs * self.steps_per_epoch
        factor = learning_rate_factor(step, steps, round(self.settings.warmup_epochs * self.steps_per_epoch))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            floor = min(self.settings.min_learning_rate, rate)
            group["lr"] = floor + (rate - floor) * factor

    def _follow(self) -> None:
        """Update the moving average of the weights."""
        if self.average is None:
            return
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - self.settings.ema)
                else:
                    self.average[name].copy_(value)


def _averaged(backbone: SegmentedBackbone | Head, average: dict[str, Tensor] | None) -> SegmentedBackbone | Head:
    if average is None:
        return backbone
    copied = deepcopy(backbone)
    copied.load_state_dict(average)
    return copied.eval()


def predict_logits(
    backbone: SegmentedBackbone, batches: Iterator[tuple[np.ndarray, Tensor, Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and labels (n,) over batches, computed on the network's device."""
    logits, labels = [], []
    place = next(backbone.parameters()).device
    with torch.inference_mode():
        for _, x, y in batches:
            logits.append(backbone(x.to(place, non_blocking=True)).cpu().numpy())
            labels.append(y.numpy())
    return np.concatenate(logits), np.concatenate(labels)
