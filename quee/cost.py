"""Cost accounting: BitFLOPs of every matrix product, by segment and precision.

BitFLOPs of a product = MACs × bits of one operand × bits of the other: weights × activations for layers with weights,
activations × activations within attention; products that calibration does not quantize have the bits of their number
format. The unit of `cost` is the static w8a8 backbone. docs/cost.md has a table worked out by hand.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import log2, prod
from typing import TYPE_CHECKING, Any

from quee.errors import IntegrityError
from quee.network import HEAD
from quee.precision import Precision

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quee.network.base import SegmentedBackbone

FLOAT_BITS = 32


@dataclass(frozen=True)
class Product:
    """One matrix product of the network, per sample."""

    name: str
    """Name of the layer."""
    segment: int
    """Segment from 1; 0 is the head."""
    kind: str
    """`weight`, `attention` (two activations) or `float` (two activations in a number format, fp32 unless one is named)."""
    macs: int
    """Multiply-adds of one sample."""
    reduction: int
    """Terms summed per output, for the Baskin formula."""
    part: str = "block"
    """`stem`, `block` or `head`: the stem and the head can have a precision of their own."""

    def bits(self, precision: Precision) -> tuple[int, int]:
        """Bits of the two operands."""
        if self.kind != "weight":
            return precision.activation_bits, precision.activation_bits
        return precision.weight_bits, precision.activation_bits


@dataclass(frozen=True)
class Elementwise:
    """Elementwise or normalising work, in floating point: elements touched per sample."""

    name: str
    """Name of the layer."""
    segment: int
    """Segment from 1; 0 is the head."""
    elements: int
    """Elements touched per sample."""


def bitflops(macs: int, bits: tuple[int, int], reduction: int = 1, formula: str = "product") -> float:
    """`product`: MACs·b_a·b_b. `baskin` (Baskin et al., UNIQ) adds b_a + b_b + log2(reduction) per MAC for accumulation."""
    a, b = bits
    per_mac = a * b if formula == "product" else a * b + a + b + log2(max(reduction, 1))
    return macs * per_mac


@dataclass(frozen=True)
class BitFlops:
    """The BitFLOPs cost model of a backbone.

    `include_elementwise` adds elementwise work at 32 × 32 per element; `formula` is `product` or `baskin`. `stem` and
    `head` are the precisions of these parts in quantized networks, if they have their own. `layers` maps a segment's
    precision to the layers that are executed at another precision; those of kind `float` are in fp32 unless it names them.
    """

    products: tuple[Product, ...]
    """Matrix products of one sample."""
    elementwise: tuple[Elementwise, ...] = ()
    """Elementwise work of one sample."""
    formula: str = "product"
    """`product` or `baskin`."""
    include_elementwise: bool = False
    """Whether elementwise work is counted."""
    stem: str = ""
    """Precision of the stem in quantized networks; empty: that of segment 1."""
    head: str = ""
    """Precision of the backbone's own head in quantized networks; empty: w8a8."""
    layers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By a segment's precision, the layers that are executed at another one."""

    def executed(self, product: Product, precision: Precision) -> Precision:
        """Precision at which a product is executed and counted when its segment runs at `precision`."""
        if own := self.layers.get(str(precision), {}).get(product.name):
            return Precision(own)
        if product.kind == "float":
            return Precision("fp32")
        if not precision.is_float and (own := {"stem": self.stem, "head": self.head}.get(product.part)):
            return Precision(own)
        return precision.head if product.part == "head" else precision

    def bitflops(self, segment: int, precision: Precision) -> float:
        """BitFLOPs per sample of a segment; segment 0 is the head after a last segment of that precision."""
        total = sum(
            bitflops(p.macs, p.bits(self.executed(p, precision)), p.reduction, self.formula)
            for p in self.products
            if p.segment == segment
        )
        if self.include_elementwise:
            total += sum(e.elements * FLOAT_BITS**2 for e in self.elementwise if e.segment == segment)
        return total

    @property
    def segments(self) -> int:
        """Number of segments."""
        return max(p.segment for p in self.products)

    @property
    def plain(self) -> "BitFlops":
        """The model of a network that has every product of w8a8 at w8a8, whatever the settings."""
        products = {product.name: "w8a8" for product in self.products}
        return replace(self, stem="", head="", layers={"w8a8": products})

    @property
    def unit(self) -> float:
        """BitFLOPs of the static w8a8 backbone, every product at w8a8: cost 1."""
        return self.plain.static((Precision("w8a8"),) * self.segments)

    def static(self, path: Sequence[Precision]) -> float:
        """BitFLOPs of a full-length path with the backbone's own head."""
        return sum(self.bitflops(j, p) for j, p in enumerate(path, 1)) + self.bitflops(HEAD, path[-1])

    def cost(self, segment: int, precision: Precision) -> float:
        """Cost of a segment at a precision, in units of the static w8a8 backbone; segment 0 is the head."""
        return self.bitflops(segment, precision) / self.unit

    @property
    def macs(self) -> int:
        """MACs of the whole float network per sample."""
        return sum(p.macs for p in self.products)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        own = {precision: dict(layers) for precision, layers in self.layers.items()}
        return ({"layers": own} if own else {}) | {
            "elementwise": [asdict(e) for e in self.elementwise],
            "formula": self.formula,
            "head": self.head,
            "include_elementwise": self.include_elementwise,
            "products": [asdict(p) for p in self.products],
            "stem": self.stem,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "BitFlops":
        """Read the output of `to_json`; raises IntegrityError for costs with layers that quantization no longer adds."""
        if value.get("compensation"):
            raise IntegrityError("these costs count layers of `quantize.compensation`, which is no longer there")
        products = tuple(Product(**p) for p in value["products"])
        elementwise = tuple(Elementwise(**e) for e in value["elementwise"])
        switches = {
            name: value[name] for name in ("formula", "include_elementwise", "stem", "head", "layers") if name in value
        }
        return cls(products, elementwise, **switches)


def trace_cost(backbone: "SegmentedBackbone", **switches: Any) -> BitFlops:
    """Cost model of a float backbone, from the shapes that its layers see on one image."""
    import torch
    from torch import nn

    from quee.network.attention import MatMul

    # BatchNorm is folded into the convolution before it; softmax is counted with the product before it.
    uncounted = (nn.Identity, nn.Dropout, nn.BatchNorm2d, nn.Softmax)
    products: list[Product] = []
    elementwise: list[Elementwise] = []

    def see(name: str, module: "nn.Module", inputs: "tuple[Tensor, ...]", output: "Tensor") -> None:
        segment = backbone.segment_of(name)
        part = "head" if segment == HEAD else "stem" if backbone.block_of(name) is None else "block"
        if isinstance(module, MatMul):
            reduction = inputs[0].shape[-1]
            products.append(Product(name, segment, module.kind, output.numel() * reduction, reduction, part))
            if module.kind == "attention" and name.endswith("query_key"):
                elementwise.append(Elementwise(f"{name}.softmax", segment, output.numel()))
        elif isinstance(module, nn.Linear | nn.Conv2d):
            reduction = prod(module.weight.shape[1:])
            products.append(Product(name, segment, "weight", output.numel() * reduction, reduction, part))
        elif not list(module.children()) and not isinstance(module, uncounted):
            elementwise.append(Elementwise(name, segment, output.numel()))

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, inputs, output: see(name, module, inputs, output)

    leaves = [(name, module) for name, module in backbone.named_modules() if not list(module.children())]
    # What a fixed layer computes is the same for all images.
    handles = [
        module.register_forward_hook(hook(name)) for name, module in leaves if not getattr(module, "fixed", False)
    ]
    residuals: list[Elementwise] = []
    try:
        with torch.inference_mode():
            state = backbone.embed(torch.zeros(1, *backbone.input.shape).to(next(backbone.parameters()).device))
            for index, name in enumerate(backbone.block_names):
                state = backbone.run_block(index, state)
                sums = backbone.residuals_of(index) * state.numel()
                residuals += [Elementwise(f"{name}.residual", backbone.segment_of(name), sums)] if sums else []
            backbone.classify(state)
    finally:
        for handle in handles:
            handle.remove()
    return BitFlops(tuple(products), (*elementwise, *residuals), **switches)


def explain(
    model: BitFlops, path: Sequence[Precision], exit_head: Sequence[Product] = ()
) -> Iterable[tuple[str, int, str, int, str, float]]:
    """The table behind a static path's cost: (product, segment, kind, MACs, bits, BitFLOPs), in the order of execution.

    `exit_head` are the products of the exit head of a path that ends early.
    """
    for product in (*model.products, *exit_head):
        if product.segment > len(path) or (product.segment == HEAD and len(path) < model.segments):
            continue
        precision = path[-1] if product.segment == HEAD else path[product.segment - 1]
        a, b = product.bits(model.executed(product, precision))
        amount = bitflops(product.macs, (a, b), product.reduction, model.formula)
        yield product.name, product.segment, product.kind, product.macs, f"{a}×{b}", amount


@dataclass(frozen=True)
class FloatWork:
    """Work that stays in floating point at every precision, of one kind."""

    kind: str
    """Class of the modules, or what is computed between modules."""
    places: int
    elements: int
    """Elements touched per sample."""


def float_work(backbone: "SegmentedBackbone", model: BitFlops) -> list[FloatWork]:
    """What is executed in floating point in integer networks, most elements first; `backbone` has BatchNorm folded."""
    from torch import nn

    found: dict[str, tuple[int, int]] = {}

    def add(kind: str, elements: int) -> None:
        places, before = found.get(kind, (0, 0))
        found[kind] = places + 1, before + elements

    modules = dict(backbone.named_modules())
    for part in model.elementwise:
        module = modules.get(part.name)
        add(part.name.rpartition(".")[2] if module is None else type(module).__name__, part.elements)
    for module in modules.values():
        if isinstance(module, nn.BatchNorm2d):
            add(f"{type(module).__name__} that is behind no convolution of its own", 0)
        elif hasattr(module, "gate") and any(isinstance(part, nn.Conv2d) for part in module.children()):
            add("squeeze-and-excitation: means and scaling", 0)
    for product in model.products:
        if product.kind == "float" and model.executed(product, Precision("w8a8")).name == "fp32":
            add("products that are never quantized, counted at 32×32", 0)
    work = [FloatWork(kind, *numbers) for kind, numbers in found.items()]
    return sorted(work, key=lambda each: (-each.elements, each.kind))
