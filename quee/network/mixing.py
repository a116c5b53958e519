"""Mixing of the images of a training batch: mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quee.settings.backbone import Augmentation


def mixed(
    images: Tensor, labels: Tensor, classes: int, settings: Augmentation, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) and one-hot labels (n, classes), with a permutation of themselves where a batch is mixed.

    Mixup blends images; CutMix puts a rectangle of the other image in. Labels are blended by the shares of the pixels.
    """
    target = functional.one_hot(labels, classes).float()
    if not (settings.mixup or settings.cutmix) or (settings.mixed < 1 and random.random() >= settings.mixed):
        return images, target
    cut = bool(settings.cutmix) and (not settings.mixup or random.random() < 0.5)
    alpha = settings.cutmix if cut else settings.mixup
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(images))).to(images.device)
    if cut:
        images, share = _with_rectangle(images, images[other], share, random)
    else:
        images = share * images + (1 - share) * images[other]
    return images, share * target + (1 - share) * target[other]


def _with_rectangle(images: Tensor, others: Tensor, share: float, random: np.random.Generator) -> tuple[Tensor, float]:
    """Images with a rectangle of the others' pixels, and the share of pixels that stays.

    The rectangle has about 1 - `share` of the area and the shape of the image; its centre is anywhere, so that it may be cut.
    """
    height, width = images.shape[2:]
    spans = []
    for length in (height, width):
        half, middle = length * (1 - share) ** 0.5 / 2, random.random() * length
        spans.append((round(max(middle - half, 0)), round(min(middle + half, length))))
    (top, bottom), (left, right) = spans
    images = images.clone()
    images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)
