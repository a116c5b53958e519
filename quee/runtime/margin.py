"""The allowed differences between an engine and the reference, by number format. They are defined only here.

Engines round sums in another order than PyTorch. A value halfway between two integers may then round to the other one,
which moves later values by about one step of their grid. This is rare, and the step is larger at fewer bits. So the
margins on values hold for three quarters of the samples, and the margins on paths for all samples.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from quee.precision import Precision

QUANTILE = 0.75
"""The share of samples whose differences must keep a margin."""


@dataclass(frozen=True)
class Margin:
    """The differences that are allowed between an engine and the reference."""

    state: float
    """Norm of the difference of a sample's state after a segment, relative to the state's norm."""
    seen: float
    """Largest difference in a sample's log-probabilities, and in its state features relative to the largest one."""
    paths: float
    """Share of samples that take the same path, at least."""
    tie: float
    """Where a path differs, the largest difference between the values (predicted error + λ · cost) of the two steps.
    Where labels differ at the same exit, the largest difference between the two probabilities."""
    wide: float = 0.0
    """Share of samples that may exceed `tie`, at most. Where a grid is coarse, a single integer can move a value further."""


MARGINS = {
    "fp32": Margin(state=1e-4, seen=2e-3, paths=0.999, tie=0.01),
    "fp16": Margin(state=0.01, seen=0.02, paths=0.995, tie=0.01),
    "bf16": Margin(state=0.05, seen=0.1, paths=0.995, tie=0.03, wide=0.002),
    "w8a8": Margin(state=0.01, seen=0.04, paths=0.999, tie=0.01),
    "fewer bits": Margin(state=0.06, seen=0.1, paths=0.995, tie=0.03, wide=0.002),
}
"""By number format; weights or activations of fewer than 8 bits are `fewer bits`."""


def margin_of(precision: Precision) -> Margin:
    return MARGINS.get(precision.name, MARGINS["fewer bits"])


def margin_of_paths(precisions: Iterable[Precision]) -> Margin:
    """The widest margins of a path's precisions, each number by itself."""
    found = [margin_of(precision) for precision in precisions]
    return Margin(
        max(m.state for m in found),
        max(m.seen for m in found),
        min(m.paths for m in found),
        max(m.tie for m in found),
        max(m.wide for m in found),
    )


def allowed_flips(paths: int, share: float, doubt: float = 1e-4) -> int:
    """Number of paths out of `paths` that may differ.

    An engine that keeps the allowed share in the long run exceeds this number with a probability of at most `doubt`.
    """
    other = 1 - share
    chance = total = share**paths
    flips = 0
    while 1 - total > doubt and flips < paths:
        chance *= (paths - flips) / (flips + 1) * other / share
        flips += 1
        total += chance
    return flips
