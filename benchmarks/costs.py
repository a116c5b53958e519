"""What stays in floating point, and what it costs: the performer in every experiment with a T2T-ViT, and all families of timm.

    python benchmarks/costs.py experiments
    python benchmarks/costs.py families [MODULE …]

`experiments`: cost of static paths, and the share of the performer's products, by their number format. *Before* is the count
with these products at 32 × 32 in everything, the unit too, as it was until they had a format.
`families`: of the network that stands for each of timm's modules (docs/timm.md), what is counted at 32 × 32 in a w4a4 path by
default, what elementwise work would be counted with `--elementwise`, and its largest kinds. Random weights without values.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from families import CLASSES, smallest
from families import modules as every_module

from quee.cli.cost import _named
from quee.cost import BitFlops, bitflops, float_work, trace_cost
from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.network.base import equal_gates
from quee.precision import Precision
from quee.quantization.folding import folded
from quee.quantization.formats import FORMATS, float_products
from quee.settings.names import experiment_names

PRECISIONS = tuple(map(Precision, ("w3a3", "w4a4", "w8a8")))


def share(model: BitFlops, precision: Precision) -> float:
    """Share of the products of kind `float` in a uniform path."""
    own = sum(
        bitflops(product.macs, product.bits(model.executed(product, precision)))
        for product in model.products
        if product.kind == "float"
    )
    return own / model.static((precision,) * model.segments)


def in_format(model: BitFlops, bits: Precision | None) -> BitFlops:
    """The model with the products of kind `float` at the bits of a format; None leaves them at 32 × 32."""
    names = {product.name: str(bits) for product in model.products if product.kind == "float"}
    return model if bits is None else replace(model, layers={str(p): names for p in PRECISIONS})


def experiments() -> Iterator[str]:
    """Rows of the table of experiments."""
    yield "| experiment | backbone | products | unit | w3a3 | w4a4 | w8a8 | share of w3a3 | of w4a4 | of w8a8 |"
    for name in experiment_names():
        backbone, settings, _ = _named(name, {})
        if not float_products(backbone):
            continue
        model = trace_cost(backbone)
        path = {precision: (precision,) * model.segments for precision in PRECISIONS}
        before = model.static(path[PRECISIONS[-1]])
        kinds = {"before: fp32": (None, before), "fp32": (None, model.unit)}
        kinds |= {one: (FORMATS[one].precision, model.unit) for one in reversed(FORMATS)}
        for label, (bits, unit) in kinds.items():
            counted = in_format(model, bits)
            costs = (f"{counted.static(path[p]) / unit:.3f}" for p in PRECISIONS)
            shares = (f"{100 * share(counted, p):.0f} %" for p in PRECISIONS)
            yield f"| {name} | {settings.backbone.name} | {label} | {unit / 1e9:.2f} G | {' | '.join((*costs, *shares))} |"


def families(modules: list[str]) -> Iterator[str]:
    """Rows of the table of families."""
    precision = Precision("w4a4")
    yield "| module | network | products at 32 × 32 | elementwise with `--elementwise` | its largest kinds |"
    for module in modules or every_module():
        name = smallest(module)
        try:
            with torch.device("meta"):
                backbone = create_backbone(name, num_classes=CLASSES)
                backbone.set_gates(equal_gates([1.0] * len(backbone.block_names), min(4, len(backbone.block_names))))
                model = trace_cost(backbone)
                work = [each for each in float_work(folded(backbone), model) if each.elements][:3]
        except (QueeError, NotImplementedError, RuntimeError) as error:
            yield f"| `{module}` | `{name}` | not traced: {str(error).splitlines()[0][:80]} |"
            continue
        whole = model.static((precision,) * model.segments)
        elements = 32 * 32 * sum(part.elements for part in model.elementwise)
        largest = ", ".join(f"{each.kind} {100 * each.elements * 1024 / (whole + elements):.0f} %" for each in work)
        yield (
            f"| `{module}` | `{name}` | {100 * share(model, precision):.1f} % | "
            f"{100 * elements / (whole + elements):.0f} % | {largest} |"
        )


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="experiments", choices=("experiments", "families"))
    parser.add_argument("modules", nargs="*")
    options = parser.parse_args()
    for row in experiments() if options.table == "experiments" else families(options.modules):
        print(row, flush=True)


if __name__ == "__main__":
    main()
