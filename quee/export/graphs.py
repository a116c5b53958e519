"""Export to ONNX: one graph per (segment, precision), with the gate after it.

Integer layers become QuantizeLinear and DequantizeLinear with the scales of the calibration; engines turn these into
integer kernels. Fewer than 8 bits are 8-bit integers of a clipped range. Grids that are not uniform are looked up in
tables, in floating point.
"""

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from quee.errors import QueeError
from quee.exits.heads import ExitHeads, Seen
from quee.features import GateView
from quee.network.attention import Attention, as_it_is
from quee.network.base import SegmentedBackbone
from quee.network.convolution import padding_of
from quee.precision import Precision
from quee.quantization.layers import AffineQuantizer, QuantizedConv2d, QuantizedLinear, QuantizedMatMul, Quantizer
from quee.runtime.engines.base import graph_name
from quee.work.extras import require_package
from quee.work.nodes import needed

OPSET = 17
TRACED = 23
"""Number of samples that graphs are traced with: a prime that divides no usual width."""
OUTPUTS = ("state", "logits", "embedding")
"""Outputs of a graph; `state` is absent at the last gate, `embedding` where state features have none. The input is `x`."""


class _RoundTrip(torch.autograd.Function):
    """Quantize and dequantize an activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        zero = zero_point.to(x.dtype)
        return (torch.round(x / scale).clamp(-zero, 255 - zero)) * scale

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero_point: Any) -> Any:
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero_point), scale, zero_point).setType(
            x.type()
        )


class _Dequantize(torch.autograd.Function):
    """Integer weights to floating point, one scale per channel along `axis`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
        return dequantized(weight, scale, axis)

    @staticmethod
    def symbolic(g: Any, weight: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return g.op("DequantizeLinear", weight, scale, zero_point, axis_i=axis)


def dequantized(weight: Tensor, scale: Tensor, axis: int) -> Tensor:
    shape = [1] * weight.dim()
    shape[axis] = -1
    return weight * scale.view(shape)


class _Activation(nn.Module):
    """An activation on its quantizer's grid, in floating point."""

    scale: Tensor
    zero_point: Tensor
    table: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.low, self.high = quantizer.low, quantizer.high
        self.register_buffer("scale", quantizer.scale.clone())
        self.affine = isinstance(quantizer, AffineQuantizer)
        if isinstance(quantizer, AffineQuantizer):
            self.register_buffer("zero_point", quantizer.zero_point.to(torch.uint8))
            self.narrow = quantizer.bits < 8
        else:
            self.register_buffer("table", quantizer._table * quantizer.scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.affine:
            if self.narrow:
                x = x.clamp(self.low * float(self.scale), self.high * float(self.scale))
            return _RoundTrip.apply(x, self.scale, self.zero_point)
        fixed = torch.div(x, self.scale).round().clamp(self.low, self.high) - self.low
        return self.table[fixed.long()]


class _Weight(nn.Module):
    """Common part of the layers with weights; the output channels of `weight` are along `axis`."""

    weight: Tensor
    weight_scale: Tensor
    zero_point: Tensor
    bias: Tensor

    def __init__(self, layer: QuantizedLinear | QuantizedConv2d, weight: Tensor, axis: int) -> None:
        super().__init__()
        self.input, self.axis = _Activation(layer.input), axis
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("weight_scale", layer.weight_scale.clone())
        self.register_buffer("zero_point", torch.zeros(len(layer.weight_scale), dtype=torch.int8))
        self.register_buffer("bias", layer.bias.clone())
        if not self.input.affine:  # engines would round the activations of integer weights after a floating-point input
            self.weight = dequantized(self.weight, self.weight_scale, axis)

    def floating(self) -> Tensor:
        if not self.input.affine:
            return self.weight
        return _Dequantize.apply(self.weight, self.weight_scale, self.zero_point, self.axis)


class _Linear(_Weight):
    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__(layer, layer.weight.t(), 1)  # (in, out)

    def forward(self, x: Tensor) -> Tensor:
        with as_it_is():
            return self.input(x) @ self.floating() + self.bias


class _Conv2d(_Weight):
    def __init__(self, layer: QuantizedConv2d) -> None:
        super().__init__(layer, layer.weight.unflatten(1, (-1, *layer.kernel_size)), 0)
        self.kernel_size, self.stride, self.groups = layer.kernel_size, layer.stride, layer.groups
        self.padding, self.dilation, self.same = layer.padding, layer.dilation, layer.same

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = around = padding_of(self, x.shape[2], x.shape[3])
        padding = (top, left)
        if not self.input.affine or (top, left) != (
            bottom,
            right,
        ):  # zero need not be a value; ONNX's Conv has one padding
            x, padding = functional.pad(x, around), (0, 0)
        kernels = self.floating()
        return functional.conv2d(self.input(x), kernels, self.bias, self.stride, padding, self.dilation, self.groups)


class _Integers(nn.Module):
    """An activation's integers as floats, by arithmetic that engines fuse with the operations around it."""

    table: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.step, self.low, self.high = float(quantizer.scale), quantizer.low, quantizer.high
        self.affine = isinstance(quantizer, AffineQuantizer)
        if not isinstance(quantizer, AffineQuantizer):
            self.register_buffer("table", quantizer._table.clone())

    def forward(self, x: Tensor) -> Tensor:
        integers = torch.div(x, self.step).round().clamp(self.low, self.high)
        return integers if self.affine else self.table[(integers - self.low).long()]


class _MatMul(nn.Module):
    """A product of integers in floating point, which is exact."""

    def __init__(self, layer: QuantizedMatMul) -> None:
        super().__init__()
        self.a, self.b = _Integers(layer.a), _Integers(layer.b)
        self.step = float(layer.a.scale * layer.b.scale)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) @ self.b(b) * self.step


class _Columns(_Weight):
    """Some of a layer's outputs on its quantized input, times a factor."""

    def __init__(self, layer: QuantizedLinear, columns: slice, factor: float) -> None:
        super().__init__(layer, layer.weight.t(), 1)
        self.weight = self.weight[:, columns].contiguous()
        if not self.input.affine:
            self.weight *= factor
        self.weight_scale, self.zero_point = self.weight_scale[columns] * factor, self.zero_point[columns].clone()
        self.bias = self.bias[columns] * factor

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.floating() + self.bias


class _Attention(nn.Module):
    """Attention in one piece: products of integers in floating point, which is exact, between integer layers.

    Engines have no integer kernel for a product of two activations with zero points. QuantizeLinear at this place would
    also keep them from fusing transposition, product and softmax into one kernel, which takes a seventh of a block's time.
    """

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        first, second = cast(QuantizedMatMul, layer.query_key), cast(QuantizedMatMul, layer.attention_value)
        qkv, dim = cast(QuantizedLinear, layer.qkv), len(layer.qkv.weight) // 3
        self.heads, self.input = layer.heads, _Activation(qkv.input)
        self.q_norm, self.k_norm = layer.q_norm, layer.k_norm
        self.scale = layer.scale if not isinstance(layer.q_norm, nn.Identity) else 1.0
        factors = (layer.scale / self.scale, 1.0, 1.0)
        self.parts = nn.ModuleList(_Columns(qkv, slice(i * dim, (i + 1) * dim), f) for i, f in enumerate(factors))
        self.integers = nn.ModuleList(_Integers(q) for q in (first.a, first.b, second.a, second.b))
        self.steps = float(first.a.scale * first.b.scale), float(second.a.scale * second.b.scale)
        self.proj = _Linear(cast(QuantizedLinear, layer.proj))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        n, tokens, dim = x.shape
        given = self.input(x)
        q, k, v = (part(given).reshape(n, tokens, self.heads, dim // self.heads).transpose(1, 2) for part in self.parts)
        query, key, weight, value = self.integers
        q = query(self.q_norm(q) * self.scale if self.scale != 1 else self.q_norm(q))
        attention = q @ key(self.k_norm(k)).transpose(-2, -1) * self.steps[0]  # (n, heads, tokens, tokens)
        found = weight(attention.softmax(dim=-1)) @ value(v) * self.steps[1]
        return cast(Tensor, self.proj(found.transpose(1, 2).reshape(n, tokens, dim)))


def _is_quantized(layer: Attention) -> bool:
    kinds = {"qkv": QuantizedLinear, "proj": QuantizedLinear, "query_key": QuantizedMatMul}
    parts = {**kinds, "attention_value": QuantizedMatMul}
    return all(isinstance(getattr(layer, name), kind) for name, kind in parts.items())


M = TypeVar("M", bound=nn.Module)
_TWINS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    QuantizedLinear: _Linear,
    QuantizedConv2d: _Conv2d,
    QuantizedMatMul: _MatMul,
}


def exportable(model: M) -> M:
    """A copy with quantize–dequantize around floating-point products in place of quantized layers, and `_Attention`."""
    copy = nn.Sequential(deepcopy(model))
    for name, layer in list(copy.named_modules()):
        if isinstance(layer, Attention) and _is_quantized(layer):
            copy.set_submodule(name, _Attention(layer))
    for name, layer in list(copy.named_modules()):
        if type(layer) in _TWINS:
            copy.set_submodule(name, _TWINS[type(layer)](layer))
    return cast(M, copy[0])


class _Step(nn.Module):
    """A segment and the gate after it: (state, logits, embedding)."""

    def __init__(self, model: SegmentedBackbone, heads: ExitHeads, segment: int, precision: Precision, embedding: bool):
        super().__init__()
        self.model, self.segment = model, segment
        head = heads.heads[segment - 1]
        classifier, self.pooling = head.classifier(precision), head.pooling
        layers = None if classifier is None else classifier.floating if precision.is_float else classifier.quantized
        self.head = None if layers is None else exportable(layers)
        self.projection = exportable(head.projection) if embedding and head.projection is not None else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        state = self.model.run_segment(self.segment, x)
        seen = Seen(self.model, self.segment, state)
        given = () if self.segment == self.model.segments else (state,)
        logits = self.model.classify(state) if self.head is None else self.head(seen(self.pooling))
        if self.projection is None:
            return (*given, logits)
        return (*given, logits, self.projection(seen(self.model.global_pooling)))


def export_graphs(view: GateView, precisions: Sequence[Precision], out: Path) -> list[str]:
    """Write every segment's graph at every precision into `out`; returns the sorted names of the files.

    `bf16` and `fp16` are executed from the graph of `fp32`. Raises QueeError where the package onnx is missing, because
    the files of a bundle must not depend on the installed packages.
    """
    require_package("onnx", "writing a bundle", "train")
    backbone, names = view.backbone, []
    for precision in sorted({Precision("fp32") if p.is_float else p for p in precisions}):
        model = exportable(backbone.model(precision))
        state = torch.zeros(TRACED, *model.input.shape)
        for segment in range(1, backbone.segments + 1):
            step = _Step(model, view.heads, segment, precision, view.embedding).eval()
            name = graph_name(segment, precision)
            (out / name).write_bytes(_graph(step, state, segment == backbone.segments))
            names.append(name)
            if segment < backbone.segments:
                with torch.inference_mode():
                    state = model.run_segment(segment, state)
    return sorted(names)


class _KnownSizes(TorchFunctionMode):
    """Makes all sizes but the number of samples plain numbers, so that what is computed from them is constant."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Size) and found:
            return (found[0], *map(int, found[1:]))
        return found


def _graph(step: _Step, x: Tensor, last: bool) -> bytes:
    import onnx

    kept = [name for name in OUTPUTS if not (last and name == "state")]
    outputs = kept if step.projection is not None else kept[:-1]
    file = BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), _KnownSizes():
        warnings.simplefilter("ignore")  # traced sizes are meant to be constants
        torch.onnx.export(
            step,
            (x.clone(),),
            file,  # type: ignore[arg-type]
            input_names=["x"],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,  # docs/runtime.md, "Exporting": the newer exporter fixes the number of samples of vision transformers
        )
    model = onnx.load_from_string(file.getvalue())
    _free_batch(model.graph)
    model.producer_version = ""
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _free_batch(graph: Any) -> None:
    """Make the traced number of samples a free dimension, and double precision (of means) single.

    All other dimensions keep their traced size, which engines optimise better than shapes computed at run time.
    Raises QueeError where samples are mixed with another dimension.
    """
    from onnx import TensorProto, helper, numpy_helper

    sizes = _sizes(graph)
    nodes = [helper.make_node("Shape", ["x"], ["samples"], start=0, end=1)]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for tensor in weights.values():
        _single(tensor)
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:  # ONNX Runtime wants equal tensors apart
            copy = TensorProto()
            copy.CopyFrom(weights[node.input[0]])
            copy.name = node.output[0]
            graph.initializer.append(copy)
            continue
        for attribute in node.attribute if node.op_type in ("Cast", "Constant") else ():
            if attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
            elif attribute.name == "value":
                _single(attribute.t)
        if node.op_type in ("Reshape", "Expand") and (shape := sizes.get(node.input[1])) is not None:
            first, *rest = shape.tolist()
            if any(size and size % TRACED == 0 for size in (first // TRACED, *rest)):
                raise QueeError(f"the network cannot be exported: {node.name} mixes samples with another dimension")
            own, times = f"{node.output[0]}.shape", first // TRACED if first > 0 and first % TRACED == 0 else 0
            if times and (node.op_type == "Expand" or -1 in rest):
                graph.initializer.append(numpy_helper.from_array(np.array(rest, np.int64), f"{own}.rest"))
                graph.initializer.append(numpy_helper.from_array(np.array([times], np.int64), f"{own}.times"))
                nodes.append(helper.make_node("Mul", ["samples", f"{own}.times"], [f"{own}.first"]))
                nodes.append(helper.make_node("Concat", [f"{own}.first", f"{own}.rest"], [own], axis=0))
            else:  # a multiple of the samples: windows
                fixed = [-1 if times else first, *rest]
                graph.initializer.append(numpy_helper.from_array(np.array(fixed, np.int64), own))
            node.input[1] = own
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(needed(nodes, {value.name for value in graph.output}))
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"


def _single(tensor: Any) -> None:
    """Change a constant in double precision to single precision."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.DOUBLE:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _sizes(graph: Any) -> dict[str, np.ndarray]:
    """Values by name that are computed from integer constants alone, such as shapes."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    known = {i.name: numpy_helper.to_array(i) for i in graph.initializer if len(i.dims) < 2}
    found = {name: value for name, value in known.items() if value.dtype.kind in "ib"}
    for node in graph.node:
        if len(node.output) == 1 and node.op_type != "DequantizeLinear" and all(n in found for n in node.input):
            given = {name: found[name] for name in node.input}
            value = np.asarray(ReferenceEvaluator(node).run(None, given)[0])  # type: ignore[index]
            if value.dtype.kind in "ib" and value.ndim < 2:
                found[node.output[0]] = value
    return found
