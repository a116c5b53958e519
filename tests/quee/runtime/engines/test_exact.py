"""Integer products are exact on every CPU: saturation is measured, and graphs can run without integer kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saturating import saturated

from quee.runtime.engines.exact import EXACT, KERNELS, WIDTH, are_exact, in_floats, products

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


def weights_of(graph: bytes) -> tuple[np.ndarray, int]:
    """Weights (groups, terms, outputs) of a measured graph, and whether it is a convolution."""
    model = onnx.load_from_string(graph).graph
    node = model.node[-1]
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    array = numpy_helper.to_array(next(t for t in model.initializer if t.name == "weight")).astype(np.int64)
    if node.op_type == "MatMul":
        return array[None], 0
    return array.reshape(groups, len(array) // groups, -1).transpose(0, 2, 1), groups


def run_by(product):
    """Executes the measured graphs by a given product of integers."""

    def run(graph: bytes, x: np.ndarray) -> np.ndarray:
        weights, _ = weights_of(graph)
        rows = x.astype(np.int64).reshape(len(x), len(weights), -1)
        return np.concatenate([product(rows[:, g], weights[g]) for g in range(len(weights))], axis=1).astype(np.float32)

    return run


def test_products_that_saturate_are_found_and_exact_ones_are_not() -> None:
    assert are_exact(run_by(np.matmul))
    assert not are_exact(run_by(saturated))
    for kind in (0, 1, 12, 96):  # in one kind of layer alone: matrix products, convolutions, in groups, depthwise
        assert not are_exact(
            lambda graph, x, kind=kind: run_by(saturated if weights_of(graph)[1] == kind else np.matmul)(graph, x)
        )


def test_single_rows_are_measured_too() -> None:
    assert not are_exact(lambda graph, x: run_by(saturated if len(x) == 1 else np.matmul)(graph, x))
    assert not are_exact(lambda graph, x: run_by(saturated if len(x) > 1 else np.matmul)(graph, x))


@pytest.mark.parametrize(("size", "groups"), KERNELS)
def test_the_tried_layers_in_floats_give_their_exact_results(size: int, groups: int) -> None:
    tried = products(size, groups)
    shape = (4, WIDTH, size, size) if size else (4, WIDTH)
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    for kinds in (("Conv", "MatMul"), ("Conv",)):
        model = onnx.load_from_string(in_floats(tried.graph, kinds))
        onnx.checker.check_model(model)
        left = any("Quantize" in node.op_type for node in model.graph.node)
        assert left == (size == 0 and kinds == ("Conv",))
        if not left:
            (y,) = ReferenceEvaluator(model).run(None, {"x": x})
            assert np.array_equal(y.reshape(4, -1), tried.wanted(x))


def test_sums_in_groups_beyond_what_floats_hold_are_split_by_zeros() -> None:
    weights = np.full((4, 200, 3, 3), 127, np.int8)
    weights[1] = -127
    arrays = {"scale": np.float32(1), "zero": np.uint8(0), "w": weights, "scales": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["b"], axis=0),
        helper.make_node("Conv", ["a", "b"], ["y"], group=2),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in {**arrays, "zeros": np.zeros(4, np.int8)}.items()]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    model = onnx.load_from_string(in_floats(made))
    assert sum(node.op_type == "Conv" for node in model.graph.node) > 1
    x = np.random.default_rng(0).integers(250, 256, (2, 400, 3, 3)).astype(np.float32)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    halves = x.reshape(2, 2, -1).astype(np.int64)
    exact = np.einsum("ngi,goi->ngo", halves, weights.reshape(2, 2, -1).astype(np.int64)).reshape(2, 4)
    assert (np.abs(exact) > EXACT).any()
    assert np.allclose(y.reshape(2, 4), exact, rtol=2e-7, atol=0)
