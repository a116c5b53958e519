"""What a backbone's images go through, as its configuration says and as an experiment may override."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quee.errors import UsageError
from quee.network.base import InputConfig
from quee.work.registry import unknown

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
KEYS = ("crop_pct", "interpolation", "mean", "std")


def spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or deviations per channel; for another number of channels, their average in each."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def override(input: InputConfig, changes: Mapping[str, Any]) -> InputConfig:
    """`input` with some of mean, std, interpolation, crop_pct replaced; raises UsageError for anything else."""
    for key, value in changes.items():
        if key not in KEYS:
            raise UsageError(f"preprocessing: {unknown('key', key, list(KEYS))}")
        if key in ("mean", "std") and not (_numbers(value) and len(value) == input.channels):
            raise UsageError(f"preprocessing.{key} must be {input.channels} numbers; got {value!r}")
        if key == "mean" and not all(0 <= v <= 1 for v in value):  # NaN is not
            raise UsageError(f"preprocessing.mean must be from 0 to 1{_scaled(value)}; got {value!r}")
        if key == "std" and not all(0 < v <= 1 for v in value):
            raise UsageError(f"preprocessing.std must be above 0 and at most 1{_scaled(value)}; got {value!r}")
        if key == "interpolation" and value not in INTERPOLATIONS:
            raise UsageError(f"preprocessing.{unknown('interpolation', str(value), list(INTERPOLATIONS))}")
        if key == "crop_pct" and not (_numbers([value]) and 0 < value <= 1):
            raise UsageError(f"preprocessing.crop_pct must be above 0 and at most 1; got {value!r}")
    values: dict[str, Any] = {key: tuple(map(float, v)) if key in ("mean", "std") else v for key, v in changes.items()}
    return replace(input, **values)


def _scaled(values: Sequence[float]) -> str:
    """What to do where values are of pixels from 0 to 255, as some frameworks have them."""
    return ", as pixels are here: divide by 255" if all(1 < abs(v) <= 255 for v in values) else ""


def _numbers(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
