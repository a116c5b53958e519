"""Training of a backbone: seeded, resumable after every epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quee.backbones.base import SegmentedBackbone
from quee.experiment import Backbone
from quee.io import atomic_path
from quee.progress import progress

Batches = Callable[[int], Iterator[tuple[np.ndarray, Tensor, Tensor]]]
"""Epoch number to that epoch's (sample ids, images, labels), augmented and shuffled by seed and epoch."""


@dataclass
class History:
    """One row per epoch."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def columns(self) -> dict[str, np.ndarray]:
        names = self.rows[0] if self.rows else {}
        return {name: np.array([row[name] for row in self.rows]) for name in names}


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + cos(pi * (step - warmup) / max(steps - warmup, 1)))


def parameter_groups(backbone: SegmentedBackbone, settings: Backbone) -> list[dict[str, Any]]:
    """Optimizer groups: weight matrices decay, biases and normalisations do not."""
    parameters = list(backbone.requires_grad_(True).parameters())
    return [
        {
            "params": [p for p in parameters if (p.dim() > 1) == decayed],
            "lr": settings.learning_rate,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for decayed in (True, False)
    ]


def mixed(
    images: Tensor, labels: Tensor, classes: int, alpha: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup: images and one-hot labels blended with a permutation of themselves."""
    target = functional.one_hot(labels, classes).float()
    if not alpha:
        return images, target
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(images)))
    return share * images + (1 - share) * images[other], share * target + (1 - share) * target[other]


def train_backbone(
    backbone: SegmentedBackbone,
    settings: Backbone,
    batches: Batches,
    steps_per_epoch: int,
    validate: Callable[[SegmentedBackbone], float],
    checkpoint: Path,
) -> History:
    """Train in place; continue from `checkpoint` when it exists, and write it after every epoch.

    Returns the history: epoch, loss, learning_rate, validation_accuracy (of the averaged weights when EMA is on).
    """
    groups = parameter_groups(backbone, settings)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(groups, fused=True)
    base_rates = [group["lr"] for group in groups]
    average = {k: v.clone() for k, v in backbone.state_dict().items()} if settings.ema else None
    history, start = History(), 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        backbone.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, start = saved["average"], saved["epoch"]
        history.rows = saved["history"]
    steps, warmup = settings.epochs * steps_per_epoch, round(settings.warmup_epochs * steps_per_epoch)
    with progress(f"training {backbone.name}", settings.epochs) as bar:
        bar.advance(start)
        for epoch in range(start, settings.epochs):
            losses = _epoch(
                backbone,
                settings,
                batches(epoch),
                optimizer,
                base_rates,
                (epoch, steps_per_epoch, steps, warmup),
                average,
            )
            row = {
                "epoch": float(epoch),
                "loss": float(np.mean(losses)),
                "learning_rate": optimizer.param_groups[0]["lr"],
            }
            row["validation_accuracy"] = validate(_averaged(backbone, average))
            history.rows.append(row)
            state = {
                "model": backbone.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "epoch": epoch + 1,
                "history": history.rows,
            }
            with atomic_path(checkpoint) as aside:
                torch.save(state, aside)
            bar.advance(note=f"loss {row['loss']:.3f} accuracy {row['validation_accuracy']:.3f}")
    if average is not None:
        backbone.load_state_dict(average)
    backbone.requires_grad_(False)
    backbone.eval()
    return history


def _epoch(
    backbone: SegmentedBackbone,
    settings: Backbone,
    batches: Iterator[tuple[np.ndarray, Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    base_rates: list[float],
    position: tuple[int, int, int, int],
    average: dict[str, Tensor] | None,
) -> list[float]:
    epoch, per_epoch, steps, warmup = position
    # Seeded by epoch, so that a resumed run goes on as the undisturbed one.
    random = np.random.default_rng([settings.seed, epoch])
    torch.manual_seed(settings.seed * 100_003 + epoch)
    backbone.train()
    losses = []
    for index, (_, images, labels) in enumerate(batches):
        factor = learning_rate_factor(epoch * per_epoch + index, steps, warmup)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        images, target = mixed(images, labels, backbone.num_classes, settings.augmentation.mixup, random)
        loss = functional.cross_entropy(backbone(images), target, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        losses.append(loss.item())
        if average is not None:
            with torch.no_grad():
                for name, value in backbone.state_dict().items():
                    average[name].lerp_(value, 1 - settings.ema) if value.is_floating_point() else average[name].copy_(
                        value
                    )
    backbone.eval()
    return losses


def _averaged(backbone: SegmentedBackbone, average: dict[str, Tensor] | None) -> SegmentedBackbone:
    if average is None:
        return backbone
    from copy import deepcopy

    copied = deepcopy(backbone)
    copied.load_state_dict(average)
    return copied.eval()


def predict_logits(
    backbone: SegmentedBackbone, batches: Iterator[tuple[np.ndarray, Tensor, Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and labels (n,) over batches."""
    logits, labels = [], []
    with torch.inference_mode():
        for _, x, y in batches:
            logits.append(backbone(x).numpy())
            labels.append(y.numpy())
    return np.concatenate(logits), np.concatenate(labels)


def seed_torch(seed: int) -> None:
    """Seed what initialises weights."""
    torch.manual_seed(seed)
