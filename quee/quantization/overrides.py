"""Layers with a precision of their own, named one by one or by a pattern such as `blocks.*.mlp.fc2`."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from quee.errors import QueeError
from quee.precision import Precision
from quee.quantization.config import QuantizationConfig
from quee.quantization.layers import quantizable


def resolved(layers: Iterable[str], overrides: Iterable[tuple[str, Precision]]) -> dict[str, Precision]:
    """Layer name to its own precision. A layer's own name has priority over patterns; of several patterns the first counts.

    Raises QueeError naming a pattern that no layer has.
    """
    names, found = list(layers), dict[str, Precision]()
    for pattern, precision in sorted(overrides, key=lambda item: item[0] not in names):
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise QueeError(f"no layer is called {pattern!r}; there are {', '.join(_kinds(names))}")
        for name in matching:
            found.setdefault(name, precision)
    return found


def own_layers(model: nn.Module, configs: Iterable[QuantizationConfig]) -> dict[str, dict[str, str]]:
    """By a config's precision, the layers it executes at another: `layers` of the cost model."""
    names = quantizable(model)
    found = {str(c.precision): resolved(names, c.layers) for c in configs if c.layers}
    return {precision: {name: str(own) for name, own in sorted(each.items())} for precision, each in found.items()}


def _kinds(names: list[str]) -> list[str]:
    """Names with the number of the block left open."""
    opened = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return list(dict.fromkeys(opened))
