"""Training of a backbone or of its head alone: seeded, resumable after every stretch, on all GPUs of the machine."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quee.errors import UsageError
from quee.network import HEAD
from quee.network.base import SegmentedBackbone
from quee.network.checkpoint import Checkpoint
from quee.network.device import CPU, place
from quee.network.mixing import mixed
from quee.network.schedule import Stretch, images_in, learning_rate_factor, steps_in_all, steps_per_epoch, stretches
from quee.network.sizes import sharing
from quee.settings.backbone import Backbone
from quee.work.keys import key_of, versions
from quee.work.progress import Bar, progress
from quee.work.threads import SMALL_MACS

Batches = Callable[[Stretch], Iterator[tuple[np.ndarray, Tensor, Tensor]]]
"""A stretch of the run to its batches of (sample ids, images, labels), augmented and in an order by seed and epoch."""
NOTED = 20
"""Steps after which the loss beside the progress bar is brought up to date; on a GPU, reading it waits for the step."""


@dataclass
class History:
    """One row per stretch of the run; without `images` and `sizes`, a stretch is an epoch."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def columns(self) -> dict[str, np.ndarray]:
        return {name: np.array([row[name] for row in self.rows], np.float64) for name in COLUMNS}


COLUMNS = ("epoch", "images", "side", "loss", "learning_rate", "validation_accuracy")
"""Epoch, number of images trained on so far, height and width of the images in pixels, mean loss, the head's learning rate
at the end, accuracy on validation images of that size."""


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


def native_bf16(place: torch.device) -> bool:
    """Whether the device multiplies bf16 numbers itself: a CPU by AMX or AVX512_BF16."""
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has none: then fp32
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def uses_bf16(mixed_precision: str, place: torch.device, macs: int) -> bool:
    """Whether products are computed in bf16, by the setting and, for `auto`, the device and the network's multiply-adds.

    A network that runs on one thread of a CPU stays in fp32, where bf16 saves no time.
    """
    if mixed_precision != "auto":
        return mixed_precision == "bf16"
    return native_bf16(place) and (place.type == "cuda" or macs >= SMALL_MACS)


def forward_function(model: nn.Module, bf16: bool = False) -> nn.Module:
    """`model` as a function of batches, on all GPUs of the machine, with products in bf16 if asked for."""
    several = next(model.parameters()).device.type == "cuda" and torch.cuda.device_count() > 1
    if not bf16 and not several:
        return model
    forward = _Forward(model, bf16)
    return nn.DataParallel(forward) if several else forward


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


def train_backbone(
    backbone: SegmentedBackbone | Head,
    settings: Backbone,
    batches: Batches,
    samples: int,
    validate: Callable[[Any], float],
    checkpoint: Path,
    bf16: bool = False,
    device: str = CPU,
) -> History:
    """Train in place on so many training samples; continue from `checkpoint` if it exists, and write it after every stretch.

    With a checkpoint of other settings or libraries, training begins anew and prints a message. Training runs on
    `device`, with products in bf16 if asked for; afterwards the network is on the CPU. With `sizes`, the
    network that is validated is the one for images of the stretch's size. Returns the history; validation_accuracy is of
    the averaged weights if EMA is on.
    """
    backbone.to(place(device))
    groups = parameter_groups(backbone, settings)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(groups, fused=True)
    average = {k: v.clone() for k, v in backbone.state_dict().items()} if settings.ema else None
    plan, key = (
        stretches(settings, samples),
        key_of(settings.model_dump(mode="json"), samples, bf16, device, versions()),
    )
    kept = Checkpoint(checkpoint, key)
    run = _Run(backbone, settings, optimizer, [group["lr"] for group in groups], samples, average, bf16)
    done, rows = kept.read(backbone, optimizer, average)
    history, work = History(rows), [stretch.steps * stretch.work for stretch in plan]
    with progress(f"training {backbone.name}", sum(work), sum(work[:done])) as bar:
        for number, stretch in enumerate(plan[done:], done + 1):
            loss = run.through(stretch, batches(stretch), bar)
            model = run.at(stretch.side)
            accuracy = validate(run.averaged(model))
            side = float(model.input.size[0]) if isinstance(model, SegmentedBackbone) else 0.0
            rate = optimizer.param_groups[-1]["lr"]
            images = images_in(settings, samples, stretch.before + stretch.steps)
            values = (float(stretch.epoch), float(images), side, loss, rate, accuracy)
            history.rows.append(dict(zip(COLUMNS, values, strict=True)))
            kept.write(backbone, optimizer, average, number, history.rows)
            run.said = f"accuracy {accuracy:.3f} "
    if average is not None:
        backbone.load_state_dict(average)
    backbone.cpu().requires_grad_(False)
    backbone.eval()
    return history


@dataclass
class _Run:
    """State that the stretches of a training run share."""

    model: SegmentedBackbone | Head
    settings: Backbone
    optimizer: torch.optim.Optimizer
    rates: list[float]
    """Learning rate of each group, before the schedule."""
    samples: int
    average: dict[str, Tensor] | None
    bf16: bool
    said: str = ""

    def __post_init__(self) -> None:
        self.place = next(self.model.parameters()).device
        self.steps = steps_in_all(self.settings, self.samples)
        self.warmup = round(self.settings.warmup_epochs * steps_per_epoch(self.settings, self.samples))
        self._at: dict[int | None, SegmentedBackbone | Head] = {None: self.model}

    def at(self, side: int | None) -> SegmentedBackbone | Head:
        """The network for images of a side, on the same weights as the others."""
        if side not in self._at:
            assert isinstance(self.model, SegmentedBackbone) and side is not None
            whole = self.model.input.size == (side, side)
            self._at[side] = self.model if whole else sharing(self.model, side).to(self.place)
        return self._at[side]

    def through(self, stretch: Stretch, batches: Iterator[tuple[np.ndarray, Tensor, Tensor]], bar: Bar) -> float:
        """Train on a stretch; returns its mean loss."""
        settings, model = self.settings, self.at(stretch.side)
        random = np.random.default_rng([settings.seed, *stretch.seed])
        torch.manual_seed(settings.seed * 100_003 + stretch.epoch + (stretch.first << 40))
        forward = forward_function(model, self.bf16)
        model.train()
        for module in model.modules():  # frozen parts run without dropout
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()
        losses: list[Tensor] = []
        seen, began, at = 0, time.monotonic(), "" if stretch.side is None else f"at {stretch.side} px "
        for index, (_, images, labels) in enumerate(batches):
            self._schedule(stretch.before + index)
            images, labels = images.to(self.place, non_blocking=True), labels.to(self.place, non_blocking=True)
            images, target = mixed(images, labels, model.num_classes, settings.augmentation, random)
            loss = functional.cross_entropy(forward(images), target, label_smoothing=settings.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
            self.optimizer.step()
            losses.append(loss.detach())
            self._follow(model)
            seen += len(images)
            if index % NOTED == 0:
                noted = losses[-1].item()
            speed = seen / max(time.monotonic() - began, 1e-9)
            bar.advance(stretch.work, f"epoch {stretch.epoch} {at}loss {noted:.3f} {self.said}{speed:.0f} images/s")
        model.eval()
        return float(np.mean(torch.stack(losses).cpu().numpy().astype(np.float64)))

    def _schedule(self, step: int) -> None:
        factor = learning_rate_factor(step, self.steps, self.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            floor = min(self.settings.min_learning_rate, rate)
            group["lr"] = floor + (rate - floor) * factor

    def _follow(self, model: SegmentedBackbone | Head) -> None:
        """Update the moving average of the weights; what a network for another size has of its own is not in it."""
        if self.average is None:
            return
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.shape != self.average[name].shape:
                    continue
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - self.settings.ema)
                else:
                    self.average[name].copy_(value)

    def averaged(self, model: SegmentedBackbone | Head) -> SegmentedBackbone | Head:
        """The network with the averaged weights, if there are any."""
        if self.average is None:
            return model
        copied = deepcopy(model)
        own = copied.state_dict()
        copied.load_state_dict(
            {name: v if v.shape == own[name].shape else own[name] for name, v in self.average.items()}
        )
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
