"""Integer products are exact on every CPU: saturation is measured, and graphs can run without integer kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saturating import saturated

from quee.runtime.engines.exact import EXACT, are_exact, in_floats

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402


def layer(kind: str, weights: np.ndarray, scales: np.ndarray, zero: int, scale: float, bias: np.ndarray) -> bytes:
    """A quantized layer in the form of bundles: weights (in, out), or (out, in, 1, 1) for a convolution."""
    conv = kind == "Conv"
    stored = np.ascontiguousarray(weights.T)[:, :, None, None] if conv else weights
    arrays = {
        "scale": np.float32(scale),
        "zero": np.uint8(zero),
        "w": stored,
        "scales": scales,
        "zeros": np.zeros(len(scales), np.int8),
        "bias": bias,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["b"], axis=0 if conv else 1),
        *(
            [helper.make_node("Conv", ["a", "b", "bias"], ["y"])]
            if conv
            else [helper.make_node("MatMul", ["a", "b"], ["p"]), helper.make_node("Add", ["p", "bias"], ["y"])]
        ),
        helper.make_node("Identity", ["a"], ["seen"]),  # what else reads a quantized value has it as before
    ]
    rank = 4 if conv else 2
    given, *found = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n in ("x", "y", "seen"))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "layer", [given], found, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["MatMul", "Conv"]), st.integers(1, 70), st.integers(1, 9), st.integers(0, 255), st.integers(0, 99)
)
def test_a_layer_in_floats_is_the_product_of_its_integers(
    kind: str, width: int, outputs: int, zero: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(-127, 128, (width, outputs), dtype=np.int8)
    scales = random.uniform(0.001, 0.1, outputs).astype(np.float32)
    scale, bias = np.float32(random.uniform(0.01, 1)), random.standard_normal(outputs).astype(np.float32)
    x = (random.standard_normal((5, width)) * 150 * scale).astype(np.float32)
    model = onnx.load_from_string(in_floats(layer(kind, weights, scales, zero, scale, bias)))
    onnx.checker.check_model(model)
    assert not any("Quantize" in node.op_type for node in model.graph.node)
    y, seen = ReferenceEvaluator(model).run(None, {"x": x[:, :, None, None] if kind == "Conv" else x})
    integers = np.clip(np.rint(x / scale), -zero, 255 - zero)
    exact = integers.astype(np.int64) @ weights.astype(np.int64)
    wanted = exact.astype(np.float32) * (scale * scales) + bias
    assert np.array_equal(y.reshape(wanted.shape), wanted)
    assert np.array_equal(seen.reshape(x.shape), integers.astype(np.float32) * scale)


@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
@pytest.mark.parametrize("width", [600, 1600, 3072])
def test_sums_beyond_what_floats_hold_are_split(kind: str, width: int) -> None:
    weights = np.full((width, 3), 127, np.int8)
    weights[:, 1] = -127
    ones, none = np.ones(3, np.float32), np.zeros(3, np.float32)
    model = onnx.load_from_string(in_floats(layer(kind, weights, ones, 0, 1.0, none)))
    assert sum(node.op_type == kind for node in model.graph.node) >= width * 255 * 127 / EXACT
    x = np.full((2, width), 255, np.float32)
    x[1] -= np.arange(width) % 7
    y, _ = ReferenceEvaluator(model).run(None, {"x": x[:, :, None, None] if kind == "Conv" else x})
    exact = x.astype(np.int64) @ weights.astype(np.int64)
    assert (np.abs(exact) > EXACT).any()
    assert np.allclose(y.reshape(2, 3), exact, rtol=2e-7, atol=0)


def integers_of(graph: bytes) -> np.ndarray:
    """(in, out)"""
    weight = next(t for t in onnx.load_from_string(graph).graph.initializer if t.name == "weight")
    array = numpy_helper.to_array(weight).astype(np.int64)
    return array.reshape(len(array), -1).T if array.ndim == 4 else array


def run_by(product):
    """Executes the measured graphs by a given product of integers."""

    def run(graph: bytes, x: np.ndarray) -> np.ndarray:
        if x.ndim == 2:
            return product(x.astype(np.int64), integers_of(graph)).astype(np.float32)
        columns = [product(x[:, :, 0, i].astype(np.int64), integers_of(graph)) for i in range(x.shape[3])]
        return np.stack(columns, axis=2)[:, :, None].astype(np.float32)

    return run


def test_products_that_saturate_are_found_and_exact_ones_are_not() -> None:
    assert are_exact(run_by(np.matmul))
    assert not are_exact(run_by(saturated))
    for conv in (True, False):  # in one kind of layer alone
        assert not are_exact(
            lambda graph, x, conv=conv: run_by(saturated if (x.ndim == 4) == conv else np.matmul)(graph, x)
        )


def test_single_rows_are_measured_too() -> None:
    assert not are_exact(lambda graph, x: run_by(saturated if len(x) == 1 else np.matmul)(graph, x))
    assert not are_exact(lambda graph, x: run_by(saturated if len(x) > 1 else np.matmul)(graph, x))
