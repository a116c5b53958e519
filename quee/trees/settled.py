"""`tree.json` of stage `tree`: what the tree of an experiment is. Later stages read it instead of the settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quee.errors import IntegrityError
from quee.paths import PathTree
from quee.precision import Precision
from quee.settings.quantize import QuantizationConfig, Quantize
from quee.work.io import read_json, write_json

FORMAT = 1
NAME = "tree.json"
UNIT_PRECISION = Precision("w8a8")
"""The static network at this precision is the unit of cost, and is always quantized."""


@dataclass(frozen=True)
class Settled:
    """A tree, and how its networks are quantized."""

    tree: PathTree
    references: tuple[Precision, ...]
    """Precisions of uniform paths that are evaluated beside the tree."""
    gates: tuple[int, ...]
    layers: Mapping[Precision, Mapping[str, str]] = field(default_factory=dict)
    """By precision, the layers that have bits of their own where bits by layer were allotted."""
    products: Mapping[str, Any] = field(default_factory=dict)
    """Number format of the products that calibration does not quantize, and what it was chosen from; empty without any."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen and why; empty where the settings name everything."""

    @property
    def quantized(self) -> list[Precision]:
        """Precisions of the tree and of the references, and w8a8, by rising cost; floats among them."""
        return sorted({*self.tree.precisions, *self.references, UNIT_PRECISION})

    def configs(self, settings: Quantize, others: Iterable[Precision] = ()) -> dict[Precision, QuantizationConfig]:
        """How each integer precision is quantized; `others` would be with uniform bits."""
        found = configs_of(sorted(p for p in {*self.quantized, *others} if not p.is_float), settings)
        if self.products:
            from quee.quantization.format_choice import with_format  # with PyTorch, which most trees do without

            found = {p: with_format(c, self.products["format"]) for p, c in found.items()}
        own = {p: {name: Precision(bits) for name, bits in layers.items()} for p, layers in self.layers.items()}
        return {p: c.model_copy(update={"layers": own[p]}) if p in own else c for p, c in found.items()}

    def write(self, folder: Path) -> None:
        description = {
            "choice": dict(self.record),
            "float_products": dict(self.products),
            "format": FORMAT,
            "gates": list(self.gates),
            "layers": {str(p): dict(layers) for p, layers in self.layers.items()},
            "paths": [self.tree.name(node) for node in range(len(self.tree))],
            "precisions": [str(p) for p in self.tree.precisions],
            "references": [str(p) for p in self.references],
        }
        write_json(folder / NAME, description)


def configs_of(precisions: Sequence[Precision], settings: Quantize) -> dict[Precision, QuantizationConfig]:
    """The configs of integer precisions as the settings describe them."""
    return {precision: QuantizationConfig.of_settings(precision, settings) for precision in precisions}


def read_settled(folder: Path) -> Settled:
    """Read what `Settled.write` wrote; raises IntegrityError for a missing file or one of another format."""
    file = folder / NAME
    found = read_json(file)
    if found.get("format") != FORMAT:
        raise IntegrityError(
            f"{file} has format {found.get('format')}; this version reads {FORMAT}: run stage tree again"
        )
    gates = tuple(found["gates"])
    return Settled(
        PathTree.from_names(found["precisions"], len(gates), found["paths"]),
        tuple(map(Precision, found["references"])),
        gates,
        {Precision(name): layers for name, layers in found["layers"].items()},
        found["float_products"],
        found["choice"],
    )
