"""Integer products that are exact on every CPU.

CPUs without VNNI add pairs of 8-bit products in 16 bits, where 2 · 255 · 127 saturates. `are_exact` tries an engine's
integer kernels on such products. `in_floats` rewrites a graph for engines whose kernels saturate or are slow: integers are
held in float32 and multiplied there, which is exact while sums stay within 2^24; longer reductions are split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np

from quee.work.nodes import needed

EXACT = 1 << 24
"""Integers up to here are exact in float32."""
WIDTH = 96
"""Terms of the products that `are_exact` tries."""
ROWS = (1, 32)
"""Rows of the products that `are_exact` tries: engines have a separate kernel for single rows."""
_OPSET = 17
_PRODUCTS = ("Conv", "MatMul")
_LINEAR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class _Integers:
    """The value of a DequantizeLinear: integers, held in floats, times a scale."""

    name: str
    scale: np.ndarray
    """A scalar for activations, (channels,) for weights."""
    largest: int
    """Largest magnitude that an integer can have."""
    values: np.ndarray | None = None
    """The integers themselves, where they are weights."""
    shape: tuple[int, ...] = ()
    """Shape that broadcasts the scale against the weights."""


def in_floats(graph: bytes, kinds: Sequence[str] = _PRODUCTS) -> bytes:
    """The ONNX model with the integer arithmetic of some kinds of products done in floats; the same results, on any CPU.

    A product of dequantized factors becomes a product of their integers, which is rescaled afterwards.
    """
    import onnx

    model = onnx.load_from_string(graph)
    if any(node.op_type in kinds for node in model.graph.node):
        _Floats(model.graph, kinds).rewrite()
    return cast(bytes, model.SerializeToString(deterministic=True))


class _Floats:
    """Rewrites one graph in place."""

    def __init__(self, graph: Any, kinds: Sequence[str]) -> None:
        from onnx import numpy_helper

        self.graph, self.kinds = graph, kinds
        self.whole = set(kinds) == set(_PRODUCTS)
        """Whether no node needs integers as they were."""
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.value: Callable[[str], np.ndarray] = lambda name: numpy_helper.to_array(self.weights[name])
        self.source: dict[str, str] = {}
        """Output of a QuantizeLinear to its input."""
        self.found: dict[str, _Integers] = {}
        """Output of a DequantizeLinear to its value."""
        self.nodes: list[Any] = []

    def rewrite(self) -> None:
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear":
                self.source[node.output[0]] = node.input[0]
            elif node.op_type == "DequantizeLinear":
                self.found[node.output[0]] = self._integers(node)
            elif node.op_type in self.kinds and self._is_product(*node.input[:2]):
                self._product(node)
                continue
            elif self.whole:
                for name in node.input:
                    self._dequantize(name)
            if not (self.whole and node.op_type in _LINEAR):
                self.nodes.append(node)
        for output in self.graph.output if self.whole else ():
            self._dequantize(output.name)
        self.nodes = needed(self.nodes, {value.name for value in self.graph.output})
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for name, tensor in self.weights.items() if name in read]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)

    def _is_product(self, first: str, second: str) -> bool:
        """Whether both factors are integers and the second one is weights."""
        return second in self.found and first in self.found and self.found[first].values is None

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        if not any(outputs[0] in node.output for node in self.nodes):
            self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def _integers(self, node: Any) -> _Integers:
        given, scale, zero = node.input[0], self.value(node.input[1]), self.value(node.input[2])
        name = f"{given}.integers"
        if given in self.weights:
            values = self.value(given).astype(np.float32)
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            shape = tuple(-1 if own == axis else 1 for own in range(values.ndim))
            values -= zero.astype(np.float32).reshape(shape)
            return _Integers(self._constant(name, values), scale, int(np.abs(values).max(initial=0)), values, shape)
        low, high = float(-int(zero)), float(255 - int(zero))
        divided = self._add("Div", [self.source[given], node.input[1]], [f"{given}.divided"])
        rounded = self._add("Round", [divided], [f"{given}.rounded"])
        ends = [self._constant(f"{given}.{end}", np.float32(v)) for end, v in (("low", low), ("high", high))]
        return _Integers(self._add("Clip", [rounded, *ends], [name]), scale, int(max(-low, high)))

    def _dequantize(self, name: str) -> None:
        """Write out the value of a DequantizeLinear, for nodes that are not products."""
        if (found := self.found.get(name)) is not None:
            scale = self._constant(f"{name}.scale", found.scale.reshape(found.shape))
            self._add("Mul", [found.name, scale], [name])

    def _product(self, node: Any) -> None:
        from onnx import helper

        a, b = (self.found[name] for name in node.input[:2])
        output, conv = node.output[0], node.op_type == "Conv"
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        groups = attributes.get("group", 1)
        sizes = _parts(a, b, conv)
        if len(sizes) == 1:
            pairs = [(a.name, b.name)]
        elif groups == 1:
            ways = [self._split(f"{output}.{i}", f, sizes, axis) for i, (f, axis) in enumerate(_axes(a, b, conv))]
            pairs = list(zip(*ways, strict=True))
        else:  # channels cannot be split across groups, so each product has zeros for the weights of the others
            pairs = [(a.name, name) for name in self._masked(f"{output}.weight", b, sizes)]
        total = self._add(
            node.op_type, list(pairs[0]), [f"{output}.sum" if len(pairs) == 1 else f"{output}.sum0"], **attributes
        )
        for i, pair in enumerate(pairs[1:], 1):
            other = self._add(node.op_type, list(pair), [f"{output}.sum{i}"], **attributes)
            total = self._add("Add", [total, other], [f"{output}.upto{i}"])
        bias = node.input[2:]
        shape = (-1, 1, 1) if conv else (-1,)
        scale = np.atleast_1d(np.asarray(a.scale * b.scale)).reshape(shape)
        scaled = [f"{output}.scaled"] if bias else [output]
        self._add("Mul", [total, self._constant(f"{output}.scale", scale)], scaled)
        if bias:
            added = self._constant(f"{bias[0]}.shaped", self.value(bias[0]).reshape(shape))
            self._add("Add", [*scaled, added], [output])

    def _split(self, name: str, factor: _Integers, sizes: list[int], axis: int) -> list[str]:
        names = [f"{name}.part{i}" for i in range(len(sizes))]
        lengths = self._constant(f"{name}.sizes", np.array(sizes, np.int64))
        self._add("Split", [factor.name, lengths], names, axis=axis)
        return names

    def _masked(self, name: str, weights: _Integers, sizes: list[int]) -> list[str]:
        assert weights.values is not None
        ends = np.cumsum([0, *sizes])
        parts = [np.zeros_like(weights.values) for _ in sizes]
        for i, part in enumerate(parts):
            part[:, ends[i] : ends[i + 1]] = weights.values[:, ends[i] : ends[i + 1]]
        return [self._constant(f"{name}.part{i}", part) for i, part in enumerate(parts)]


def _axes(a: _Integers, b: _Integers, conv: bool) -> tuple[tuple[_Integers, int], tuple[_Integers, int]]:
    """The factors, with the axes along which their product is summed."""
    return ((a, 1), (b, 1)) if conv else ((a, -1), (b, -2))


def _parts(a: _Integers, b: _Integers, conv: bool) -> list[int]:
    """Sizes of parts of the reduction whose sums stay exact for all activations; one part where the whole sum does."""
    if b.values is None:  # both are activations: attention heads are narrow, and their width is not known here
        return [0]
    by_term = np.abs(b.values).sum(axis=(2, 3)).T if conv else np.abs(b.values)  # (terms, outputs)
    width, parts = len(by_term), 1
    while parts < width:
        ends = np.linspace(0, width, parts + 1).astype(int)
        if max(by_term[i:j].sum(axis=0).max() for i, j in pairwise(ends)) * a.largest <= EXACT:
            break
        parts += 1
    return np.diff(np.linspace(0, width, parts + 1).astype(int)).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Tried:
    """A graph of one layer of extreme 8-bit integers."""

    graph: bytes
    """Its input `x` holds integers from 0 to 255 as floats: (n, WIDTH), or for a convolution (n, WIDTH, size, size)."""
    weights: np.ndarray
    """(groups, terms of a group, outputs of a group)"""
    size: int
    """Height and width of the convolution's kernel; 0 for a matrix product."""

    def wanted(self, x: np.ndarray) -> np.ndarray:
        """The exact result (n, outputs) for an input."""
        terms = x.astype(np.int64).reshape(len(x), len(self.weights), -1).transpose(1, 0, 2)
        result: np.ndarray = (terms @ self.weights.astype(np.int64)).transpose(1, 0, 2).reshape(len(x), -1)
        return result


def products(size: int, groups: int = 1) -> Tried:
    """A matrix product (`size` 0), or a convolution in groups."""
    from onnx import TensorProto, helper, numpy_helper

    conv, channels = size > 0, WIDTH // groups
    each = 64 if groups == 1 else channels
    shape = (groups, channels * max(size, 1) ** 2, each)
    weights = np.random.default_rng(0).choice(np.array([-127, -90, 3, 101, 127], np.int8), shape)
    weights[:, :, 0] = 127  # the largest possible sums
    stored = weights.transpose(0, 2, 1).reshape(groups * each, channels, size, size) if conv else weights[0]
    arrays = {
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.ascontiguousarray(stored),
        "scales": np.ones(groups * each, np.float32),
        "zeros": np.zeros(groups * each, np.int8),
    }
    kind, axis, attributes = ("Conv", 0, {"group": groups}) if conv else ("MatMul", 1, {})
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["b"], axis=axis),
        helper.make_node(kind, ["a", "b"], ["y"], **attributes),
    ]
    around, after = ((size, size), (1, 1)) if conv else ((), ())
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", WIDTH, *around))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", groups * each, *after))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "products", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return Tried(model.SerializeToString(deterministic=True), weights, size)


KERNELS = ((0, 1), (1, 1), (2, 1), (3, 12), (3, WIDTH))
"""Sizes and groups of the layers that `are_exact` tries; engines have kernels of their own for each, depthwise ones last."""


def are_exact(run: Callable[[bytes, np.ndarray], np.ndarray]) -> bool:
    """Whether an engine's integer kernels sum without loss; `run(graph, x)` executes a graph."""
    for size, groups in KERNELS:
        tried = products(size, groups)
        for rows in ROWS:
            shape = (rows, WIDTH, size, size) if size else (rows, WIDTH)
            x = np.random.default_rng(rows).choice(np.array([0.0, 200.0, 255.0], np.float32), shape)
            x[0] = 255.0
            if not np.array_equal(run(tried.graph, x).reshape(rows, -1), tried.wanted(x)):
                return False
    return True
