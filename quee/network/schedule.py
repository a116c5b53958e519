"""The course of a training run: stretches of steps between two checkpoints, each on images of one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import cos, gcd, pi

from quee.settings.backbone import Backbone

LONGEST = 65_536
"""Most images of a stretch; longer epochs are saved in between."""


@dataclass(frozen=True)
class Stretch:
    """Steps `first` up to `last` of an epoch, counted from 0; a step takes one batch."""

    epoch: int
    first: int
    last: int
    before: int
    """Steps of the run before the first one."""
    side: int | None = None
    """Height and width of the images in pixels; None where they have the backbone's size."""
    work: int = 1
    """Work of a step in proportion to the other stretches', by the number of pixels."""

    @property
    def steps(self) -> int:
        return self.last - self.first

    @property
    def seed(self) -> list[int]:
        """What with the run's seed decides this stretch's random numbers, so that a resumed run equals an undisturbed one."""
        return [self.epoch, self.first] if self.first else [self.epoch]


def steps_per_epoch(settings: Backbone, samples: int) -> int:
    """Number of batches in which all training samples, so many, are passed once; the last one may be smaller."""
    return -(-samples // settings.batch_size)


def steps_in_all(settings: Backbone, samples: int) -> int:
    """Number of steps of a training run on so many samples."""
    if settings.images is not None:
        return -(-settings.images // settings.batch_size)
    assert settings.epochs is not None
    return settings.epochs * steps_per_epoch(settings, samples)


def images_in(settings: Backbone, samples: int, steps: int) -> int:
    """Number of images in the first so many steps of a run on so many samples. Drawn images always fill a batch."""
    epochs, rest = divmod(steps, steps_per_epoch(settings, samples))
    if settings.drawn:
        return steps * settings.batch_size
    return epochs * samples + rest * settings.batch_size


def stretches(settings: Backbone, samples: int) -> list[Stretch]:
    """The whole run on so many training samples, in order; a stretch ends with its epoch, its size, or after `LONGEST` images."""
    epoch, total = steps_per_epoch(settings, samples), steps_in_all(settings, samples)
    most = max(1, LONGEST // settings.batch_size)
    cuts = {total, *range(0, total, epoch)}
    cuts |= {start + part for start in range(0, total, epoch) for part in range(0, epoch, most) if start + part < total}
    sizes = dict(_sizes(settings, total))
    cuts |= set(sizes)
    unit = gcd(*(settings.sizes or {1: 1.0}))
    found, side = [], None
    for begin, end in pairwise(sorted(cuts)):
        side = sizes.get(begin, side)
        number, first = divmod(begin, epoch)
        work = 1 if side is None else (side // unit) ** 2
        found.append(Stretch(number, first, first + end - begin, begin, side, work))
    return found


def _sizes(settings: Backbone, total: int) -> Iterator[tuple[int, int]]:
    """The first step of each size, where the size has any steps."""
    share = 0.0
    for side, part in (settings.sizes or {}).items():
        if round(share * total) < round((share + part) * total):
            yield round(share * total), side
        share += part


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + cos(pi * (step - warmup) / max(steps - warmup, 1)))
