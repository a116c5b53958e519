"""Layers that execute integer products exactly: their quantizers, their weights packed in files, and integer kernels.

A layer may have a precision of its own, named or by a pattern such as `blocks.*.mlp.fc2`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quee.errors import IntegrityError, QueeError
from quee.network.attention import MatMul, as_it_is
from quee.network.convolution import Conv2dSame, is_plain, padding_of, places
from quee.network.device import CPU, GPU
from quee.precision import Precision
from quee.quantization.formats import FLOAT, FORMATS, KINDS, RoundedMatMul, float_products, format_of
from quee.settings.quantize import QuantizationConfig


class _Quantizer(nn.Module):
    """Base of the quantizers of activations, which give integers from `low` to `high` in steps of `scale`."""

    scale: Tensor
    low: float
    high: float

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", torch.ones(()))

    @property
    def largest(self) -> float:
        """Largest magnitude of an integer this quantizer produces."""
        return max(-self.low, self.high)


class AffineQuantizer(_Quantizer):
    """Per-tensor asymmetric quantizer of activations to `bits` bits.

    A value x becomes the integer clamp(round(x / scale), -zero_point, 2^bits - 1 - zero_point): the usual
    quantized value less its zero point. Rounding is half to even, as in ONNX's QuantizeLinear.
    """

    kind = "affine"
    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.low, self.high = 0.0, float(2**bits - 1)

    def set_range(self, low: float, high: float) -> "AffineQuantizer":
        """Cover [low, high], widened to include zero; zero itself is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        levels = 2**self.bits - 1
        scale = max((high - low) / levels, float(np.finfo(np.float32).tiny))
        self.scale.fill_(scale)
        self.zero_point.fill_(int(np.clip(np.rint(-low / scale), 0, levels)))
        return self.finalize()

    def finalize(self) -> "AffineQuantizer":
        """Derive the clamping bounds from the buffers (after loading)."""
        zero_point = int(self.zero_point)
        self.low, self.high = float(-zero_point), float(2**self.bits - 1 - zero_point)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Integers as float32, of x's shape; multiply by `scale` to dequantize."""
        return torch.div(x, self.scale).round_().clamp_(self.low, self.high)


class CodebookQuantizer(_Quantizer):
    """Quantizer to 2^bits levels that need not be evenly spaced: powers of a base, two ranges.

    The levels are integers of a few more bits (fixed point), so products with them stay integer products: exact in
    float32 and independent of batch and threads. A value is rounded to fixed point; a table gives the nearest level, and
    the lower of two equally near levels.
    """

    kind = "codebook"
    levels: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("levels", torch.arange(2**bits, dtype=torch.int16))
        self.finalize()

    def set_levels(self, levels: np.ndarray, scale: float) -> "CodebookQuantizer":
        """`levels` are at most 2^bits distinct integers within ±2^15, in units of `step`."""
        distinct = np.unique(np.rint(levels)).astype(np.int16)
        filled = np.full(2**self.bits, distinct[-1], np.int16)
        filled[: len(distinct)] = distinct
        self.levels.copy_(torch.from_numpy(filled))
        self.scale.fill_(scale)
        return self.finalize()

    def finalize(self) -> "CodebookQuantizer":
        """Derive the table from fixed-point values to levels (after loading)."""
        levels = np.unique(self.levels.cpu().numpy().astype(np.int64))
        nearest = np.searchsorted(levels[1:] + levels[:-1], 2 * np.arange(levels[0], levels[-1] + 1))
        self.low, self.high = float(levels[0]), float(levels[-1])
        self._table = torch.from_numpy(levels[nearest].astype(np.float32)).to(self.levels.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Integers as float32, of x's shape; multiply by `scale` to dequantize."""
        fixed = torch.div(x, self.scale).round_().clamp_(self.low, self.high).sub_(self.low)
        return self._table.index_select(0, fixed.flatten().int()).view(x.shape)


Quantizer = AffineQuantizer | CodebookQuantizer
QUANTIZERS = ("affine", "codebook")


def make_quantizer(kind: str, bits: int) -> Quantizer:
    return CodebookQuantizer(bits) if kind == "codebook" else AffineQuantizer(bits)


EXACT = 2.0**24
"""Integers up to here are exact in float32."""


def exact_matmul(a: Tensor, b: Tensor, size: int) -> Tensor:
    """Product a (…, m, k) @ b (…, k, n) of integers as float32; no sum over `size` consecutive terms may exceed 2^24.

    The result is the exact integer, rounded once to float32 like a conversion from int32.
    """
    with as_it_is():
        if size >= a.shape[-1]:
            return a @ b
        total = (a[..., :size] @ b[..., :size, :]).double()
        for start in range(size, a.shape[-1], size):
            total += a[..., start : start + size] @ b[..., start : start + size, :]
        return total.float()


class _Derived(nn.Module):
    """Base of layers that derive tensors for execution from their buffers."""

    def finalize(self) -> None:
        """Derive these tensors; call it after the buffers change."""
        raise NotImplementedError

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        result = super()._apply(fn, recurse)
        self.finalize()  # moves the derived tensors to another device, too
        return result


class _QuantizedWeight(_Derived):
    """Base of the layers with weights: packed integers, scales, bias, an input quantizer."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    input: Quantizer
    integer_product: Callable[[Tensor], Tensor] | None = None
    """An integer kernel that replaces every product in float32, see `use_integer_kernels`."""
    _faster: "IntegerProduct | None" = None
    """An integer kernel that replaces the matrix product in float32 where it is faster; the result has the same bits."""

    def __init__(self, out_features: int, in_features: int, precision: Precision, kind: str = "affine") -> None:
        super().__init__()
        self.precision = precision
        self.input = make_quantizer(kind, precision.activation_bits)
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features))
        self.finalize()

    def set_weight(self, integers: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.weight.copy_(integers.to(torch.int8))
        self.weight_scale.copy_(scale)
        self.bias.copy_(torch.zeros_like(self.bias) if bias is None else bias.detach())

    def finalize(self) -> None:
        self.input.finalize()
        weight = self.weight[:, self._order()]
        self._transposed = weight.float().t().contiguous()  # (in, out)
        self._scale = self.input.scale * self.weight_scale  # (out,)
        self._size = self._exact_size(weight)
        faster = has_integer_kernel(self) and integers_are_faster(self.weight.device.type)
        self._faster = IntegerProduct(self) if faster else None

    def _order(self) -> Tensor | slice:
        """The order in which the reduction is executed."""
        return slice(None)

    def _exact_size(self, weight: Tensor) -> int:
        """The largest size of equal parts of the reduction whose sums stay exact for any input."""
        magnitudes = weight.long().abs().cumsum(dim=1)
        width = magnitudes.shape[1]
        parts = max(1, -(-int(magnitudes[:, -1].max() * self.input.largest) // int(EXACT)))
        while (size := -(-width // parts)) > 1:
            ends = magnitudes[:, [*range(size - 1, width - 1, size), width - 1]]
            if float(ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])).max()) * self.input.largest <= EXACT:
                break
            parts += 1
        return size

    def _multiply(self, integers: Tensor) -> Tensor:
        """(…, in) quantized to (…, out): multiply integers, rescale, add the bias."""
        if self.integer_product is not None:
            return self.integer_product(integers).mul_(self._scale).add_(self.bias)
        if self._faster is not None:
            return self._faster.rescaled(integers, None, self._scale, self.bias)
        return exact_matmul(integers, self._transposed, self._size).mul_(self._scale).add_(self.bias)


class QuantizedLinear(_QuantizedWeight):
    def __init__(self, linear: nn.Linear, precision: Precision, kind: str = "affine") -> None:
        super().__init__(linear.out_features, linear.in_features, precision, kind)

    def arranged(self, x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """A product (…, in) to (…, out) applied to the layer's input."""
        return product(x)

    def forward(self, x: Tensor) -> Tensor:
        if self._faster is not None and self.integer_product is None:
            return self._faster.rescaled(x, self.input, self._scale, self.bias)
        return self._multiply(self.input(x))


PROBED = ((16, 3), (4, 3), (1, 3), (1, 5), (1, 7))
"""Input channels per group and kernel sizes of the convolutions that `direct_is_exact` tries."""


@cache
def direct_is_exact() -> bool:
    """Whether this machine's float32 convolution adds plain products, which makes it exact for integers.

    Algorithms such as Winograd's transform the values first and round. Sums up to 2^24 are tried, dense, in groups and
    depthwise, for a batch of one sample and a large one, because their algorithms may differ.
    """
    random = torch.Generator().manual_seed(0)
    for channels, size in PROBED:
        kernels = torch.randint(-127, 128, (16, channels, size, size), generator=random)
        largest = int(EXACT) // int(kernels.abs().flatten(1).sum(dim=1).max())
        around, groups = size // 2, 16 // channels
        for samples in (1, 32):
            maps = torch.randint(-largest, largest + 1, (samples, 16, 14, 14), generator=random)
            found = functional.conv2d(maps.float(), kernels.float(), padding=around, groups=groups)
            exact = functional.conv2d(maps.double(), kernels.double(), padding=around, groups=groups)
            if not torch.equal(found.double(), exact.round()):
                return False
    return True


class QuantizedConv2d(_QuantizedWeight):
    """A convolution of integers, which is exact; `weight` is (out, in of a group · height · width).

    It is a convolution in float32 where that is exact: where no sum can exceed 2^24, on machines with a direct algorithm.
    Elsewhere it is a product over patches, three times as slow for maps of 16 to 64 channels. Values are quantized before
    the overlapping patches are taken; the patches have channels last.
    """

    def __init__(self, conv: nn.Conv2d, precision: Precision, kind: str = "affine") -> None:
        if why := _unhandled(conv):
            raise QueeError(f"nothing quantizes a {why}")
        assert not isinstance(conv.padding, str)
        self.kernel_size, self.stride, self.groups = conv.kernel_size, conv.stride, conv.groups
        self.padding, self.dilation, self.same = conv.padding, conv.dilation, isinstance(conv, Conv2dSame)
        height, width = conv.kernel_size
        super().__init__(conv.out_channels, conv.in_channels // conv.groups * height * width, precision, kind)

    def finalize(self) -> None:
        super().finalize()
        zero = torch.zeros(1, device=self.input.scale.device)
        self._zero = float(self.input(zero))  # the quantized value of the padding
        direct = self._size >= self.weight.shape[1] and self.weight.device.type == "cpu" and direct_is_exact()
        own = self.weight.view(len(self.weight), -1, *self.kernel_size)
        self._kernels = own.float().contiguous(memory_format=torch.channels_last) if direct else None

    def _order(self) -> Tensor:
        """Order of a patch: height, width, channels; the weights have channels, height, width."""
        own = torch.arange(self.weight.shape[1], device=self.weight.device)
        return own.view(-1, *self.kernel_size).permute(1, 2, 0).flatten()

    def forward(self, x: Tensor) -> Tensor:
        if self._kernels is None or self.integer_product is not None:
            return self._over_patches(x)
        (top, left), integers = self.padding, self.input(x.contiguous(memory_format=torch.channels_last))
        if self._zero or self.same:
            integers = functional.pad(integers, padding_of(self, *x.shape[2:]), value=self._zero)
            top = left = 0
        product = functional.conv2d(integers, self._kernels, None, self.stride, (top, left), self.dilation, self.groups)
        return product.mul_(self._scale[:, None, None]).add_(self.bias[:, None, None])

    def _over_patches(self, x: Tensor) -> Tensor:
        (down, right), around = self.stride, padding_of(self, *x.shape[2:])
        integers = self.input(x.permute(0, 2, 3, 1))  # (n, h, w, c)
        integers = functional.pad(integers, (0, 0, *around), value=self._zero).contiguous()
        sample, row, column, _ = integers.stride()
        steps = (sample, down * row, right * column, self.dilation[0] * row, self.dilation[1] * column, 1)
        shape = (len(x), *places(self, x.shape[2:]), *self.kernel_size, x.shape[1])
        patches = integers.as_strided(shape, steps)  # (n, rows, columns, height, width, c)
        if self.groups == 1:
            return self._multiply(patches.flatten(3)).permute(0, 3, 1, 2)
        grouped = patches.unflatten(5, (self.groups, -1)).permute(5, 0, 1, 2, 3, 4, 6)
        weight = self._transposed.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (groups, in, out)
        product = exact_matmul(grouped.flatten(4).flatten(1, 3), weight, self._size)  # (groups, n · places, out)
        found = product.permute(1, 0, 2).flatten(1).mul_(self._scale).add_(self.bias)
        return found.view(*shape[:3], -1).permute(0, 3, 1, 2)

    def arranged(self, x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """A product (…, in) to (…, out) applied to the patches of the layer's input (n, c, h, w)."""
        size, x = x.shape[2:], functional.pad(x, padding_of(self, *x.shape[2:]))
        patches = functional.unfold(x, self.kernel_size, self.dilation, 0, self.stride)  # (n, in, patches)
        return product(patches.transpose(1, 2)).transpose(1, 2).unflatten(2, places(self, size))


class QuantizedMatMul(_Derived):
    """Product of two quantized activations."""

    a: Quantizer
    b: Quantizer

    def __init__(self, precision: Precision, kinds: Sequence[str] = ("affine", "affine")) -> None:
        super().__init__()
        self.precision = precision
        self.a, self.b = (make_quantizer(kind, precision.activation_bits) for kind in kinds)

    def finalize(self) -> None:
        self.a.finalize()
        self.b.finalize()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        size = int(EXACT // max(self.a.largest * self.b.largest, 1.0))
        return exact_matmul(self.a(a), self.b(b), size).mul_(self.a.scale * self.b.scale)


QuantizedLayer = QuantizedLinear | QuantizedConv2d | QuantizedMatMul
QUANTIZED = (QuantizedLinear, QuantizedConv2d, QuantizedMatMul)

Layout = Mapping[str, Sequence[str]]
"""Layout of a quantized network: layer name to its precision and the kinds of its quantizers."""


def quantizable(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that quantization replaces, by name. Layers marked `fixed`, whose input is the same for all images, stay.

    Raises QueeError naming a layer that has a parameter with "weight" in its name and cannot be quantized.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if getattr(module, "fixed", False):
            continue
        if isinstance(module, nn.Linear | nn.Conv2d) or (isinstance(module, MatMul) and module.kind == "attention"):
            if isinstance(module, nn.Conv2d) and (why := _unhandled(module)):
                raise QueeError(f"{name}: nothing quantizes a {why}")
            layers[name] = module
        elif any("weight" in key and value.dim() > 1 for key, value in module.named_parameters(recurse=False)):
            raise QueeError(f"{name}: nothing quantizes a {type(module).__name__}; valid: Linear, Conv2d, MatMul")
    return layers


def _unhandled(conv: nn.Conv2d) -> str:
    """Why a convolution cannot be computed as a product over its patches; empty where it can."""
    if not is_plain(conv):
        return f"{type(conv).__name__}, which computes something else than a Conv2d"
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return f"Conv2d with padding={conv.padding!r} of mode {conv.padding_mode!r}; valid: numbers and 'zeros'"
    return ""


def quantized_layer(module: nn.Module, precision: Precision, kinds: Sequence[str] | None = None) -> QuantizedLayer:
    """The quantized counterpart of a layer, still without scales and weights."""
    if isinstance(module, nn.Linear):
        return QuantizedLinear(module, precision, *(kinds or ()))
    if isinstance(module, nn.Conv2d):
        return QuantizedConv2d(module, precision, *(kinds or ()))
    return QuantizedMatMul(precision, kinds or ("affine", "affine"))


def layout(model: nn.Module) -> dict[str, list[str]]:
    """The layout of a quantized network."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedMatMul):
            found[name] = [str(module.precision), module.a.kind, module.b.kind]
        elif isinstance(module, QuantizedLinear | QuantizedConv2d):
            found[name] = [str(module.precision), module.input.kind]
        elif isinstance(module, RoundedMatMul):
            found[name] = [str(module.precision), module.format]
    return found


def empty_quantized(model: nn.Module, layout: Layout) -> nn.Module:
    """Replace the layers of `model` in place by empty quantized ones; load a state dict next and then call `finalize`.

    BatchNorm must be folded. Raises QueeError where the layout is not one of this model.
    """
    layers = quantizable(model)
    rounded = {name: layout[name] for name in float_products(model) if name in layout}
    if odd := {*layers, *rounded} ^ set(layout):
        raise QueeError(f"the quantized network and the backbone differ in layer {min(odd)}")
    for name, (_, *formats) in rounded.items():
        if len(formats) != 1 or formats[0] not in KINDS:
            raise QueeError(f"{name}: unknown number format {formats!r}; valid: {', '.join(KINDS)}")
        model.set_submodule(name, KINDS[formats[0]]())
    for name, layer in layers.items():
        precision, *kinds = layout[name]
        if not set(kinds) <= set(QUANTIZERS):
            raise QueeError(f"{name}: unknown quantizer {kinds!r}; valid: {', '.join(QUANTIZERS)}")
        model.set_submodule(name, quantized_layer(layer, Precision(precision), kinds))
    return model


def finalize(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, QUANTIZED):
            module.finalize()
    return model


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Signed integers of `bits` bits, any shape, as bytes (⌈size · bits / 8⌉,): offset binary, least bit first."""
    shifted = (integers.astype(np.int16).ravel() + (1 << (bits - 1))).astype(np.uint8)
    planes = np.unpackbits(shifted[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(planes.ravel(), bitorder="little")


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, ...], name: str = "weight") -> np.ndarray:
    """Unpack int8 integers of that shape; raises IntegrityError for a wrong number of bytes."""
    size = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.shape != (-(-size * bits // 8),):
        raise IntegrityError(f"{name}: {packed.shape} bytes do not hold {shape} weights of {bits} bits")
    planes = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits)
    values = np.packbits(planes, axis=1, bitorder="little")[:, 0].astype(np.int16) - (1 << (bits - 1))
    return values.astype(np.int8).reshape(shape)


MULTIPLE = 8
"""Kernels of GPUs require widths that are a multiple of this, so widths are padded."""
ROWS = 32
"""Least number of rows for these kernels."""
BLOCK = 512
"""Rows that a CPU takes at once, so that what is between two operations stays in its cache."""


class IntegerProduct:
    """A layer's product (…, in) @ (in, out) of integers of up to 8 bits, in int32, returned as float32.

    Activations are within 256 neighbouring integers, but not always those of int8. Where they are not, they are shifted, and
    the effect of the shift on the sums, which is equal in all rows, is added again.
    """

    def __init__(self, layer: "_QuantizedWeight") -> None:
        weight = layer.weight[:, layer._order()]  # (out, in)
        self.outputs, self.inputs = weight.shape
        self.multiple, self.least = (MULTIPLE, ROWS) if weight.device.type != "cpu" else (1, 1)
        within = layer.input.low >= -128 and layer.input.high <= 127
        self.shift = 0.0 if within else layer.input.low + 128
        # Stored by output: the kernels want the second factor's columns contiguous.
        padding = (0, -self.inputs % self.multiple, 0, -self.outputs % self.multiple)
        weight = functional.pad(weight, padding).contiguous()
        self.added = int(self.shift) * weight.sum(dim=1, dtype=torch.int32) if self.shift else None
        self.weight = weight.t()

    def __call__(self, integers: Tensor) -> Tensor:
        rows = integers.reshape(-1, self.inputs)
        if self.multiple > 1:
            missing = max(self.least, -(-len(rows) // self.multiple) * self.multiple) - len(rows)
            sums = self._sums(functional.pad(rows, (0, -self.inputs % self.multiple, 0, missing)))
            sums = sums[: len(rows), : self.outputs]
        else:
            sums = self._sums(rows)
        return sums.float().reshape(*integers.shape[:-1], self.outputs)

    def _sums(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """(n, in) integers in float32 to (n, out) int32, written to `out` if given."""
        given = (rows - self.shift if self.shift else rows).to(torch.int8)
        found = torch._int_mm(given, self.weight) if out is None else torch._int_mm(given, self.weight, out=out)
        return found if self.added is None else found.add_(self.added)

    def rescaled(self, x: Tensor, quantizer: Quantizer | None, scale: Tensor, bias: Tensor) -> Tensor:
        """(…, in) to (…, out), quantized unless there is no quantizer, multiplied, times `scale` (out,), plus `bias` (out,)."""
        if self.multiple > 1:
            return self(x if quantizer is None else quantizer(x)).mul_(scale).add_(bias)
        rows = x.reshape(-1, self.inputs)
        found = torch.empty(len(rows), self.outputs)
        for start in range(0, len(rows), BLOCK):
            own, part = rows[start : start + BLOCK], found[start : start + BLOCK]
            sums = self._sums(own if quantizer is None else quantizer(own), part.view(torch.int32))  # the same memory
            part.copy_(sums).mul_(scale).add_(bias)
        return found.view(*x.shape[:-1], self.outputs)


INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""With any of these a CPU multiplies integers of 8 bits faster than float32."""


@cache
def integers_are_faster(device: str) -> bool:
    """Whether a device multiplies integers of 8 bits faster than float32: a GPU with tensor cores for them, or a CPU's."""
    if device == GPU:
        return torch.cuda.get_device_capability() >= (7, 5)
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has none
    return device == CPU and any(map(found.get, INSTRUCTIONS))


def has_integer_kernel(layer: _QuantizedWeight) -> bool:
    """Whether an integer kernel can compute a layer's product: activations are evenly spaced, a convolution has one group."""
    return isinstance(layer.input, AffineQuantizer) and getattr(layer, "groups", 1) == 1


def use_integer_kernels(model: nn.Module) -> int:
    """Let quantized layers with weights use integer kernels from now on; returns the number of these layers.

    Call it once the model is on its device. Layers without one (`has_integer_kernel`) are not changed.
    """
    layers = [m for m in model.modules() if isinstance(m, _QuantizedWeight) and has_integer_kernel(m)]
    for layer in layers:
        layer.integer_product = IntegerProduct(layer)
    return len(layers)


def resolved(layers: Iterable[str], overrides: Mapping[str, Precision]) -> dict[str, Precision]:
    """Layer name to its own precision. A layer's name has priority over patterns; the first pattern that fits counts.

    Raises QueeError naming a pattern that fits no layer.
    """
    names, found = list(layers), dict[str, Precision]()
    for pattern, precision in sorted(overrides.items(), key=lambda item: item[0] not in names):
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise QueeError(f"no layer is called {pattern!r}; there are {', '.join(_kinds(names))}")
        for name in matching:
            found.setdefault(name, precision)
    return found


def own_layers(model: nn.Module, configs: Iterable[QuantizationConfig]) -> dict[str, dict[str, str]]:
    """For the cost model's `layers`: a config's precision to the layers that are executed at another one.

    Raises QueeError for a config whose `float_products` are still to be measured, where the network has any.
    """
    names, products = quantizable(model), float_products(model)
    found: dict[str, dict[str, str]] = {}
    for config in configs:
        own = resolved(names, config.layers)
        if products and (name := format_of(config)) != FLOAT:
            own |= dict.fromkeys(products, FORMATS[name].precision)
        if own:
            found[str(config.precision)] = {name: str(precision) for name, precision in sorted(own.items())}
    return found


def _kinds(names: list[str]) -> list[str]:
    """Names with `*` instead of the number of the block."""
    opened = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return list(dict.fromkeys(opened))
