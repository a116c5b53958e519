"""What is traced computes in ONNX Runtime what NumPy computes; what is not known is refused by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from quee.export.graphs import OPSET
from quee.export.traced import Recorder, UntraceableError
from quee.work.lookup import looked_up

TABLE = np.random.default_rng(0).normal(size=(5, 3))
KNOTS, VALUES = np.array([0.0, 1.0, 3.0, 4.0]), np.array([2.0, 5.0, 5.0, -1.0])


def in_place(x: Any, y: Any) -> Any:
    z = x * 2
    z -= y
    np.maximum(z, 0.25, out=z)
    np.copyto(z, np.inf, where=z > 1)
    return z


def sorted_part(x: Any, y: Any) -> Any:
    z = x + 0
    z.partition(-2, axis=1)
    return z[:, -1:] - z[:, -2:-1]


def parts(x: Any, y: Any) -> Any:
    z = np.concatenate([x, y, x * y], axis=1)
    return np.concatenate([z[:, 2:5], z[:, -1:], z[:, 3:4], z[:, 5:]], axis=1).astype(np.float32)[..., 1:]


CASES: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda x, y: np.exp(-x) / (1 + np.abs(y)) - np.log(np.abs(x) + 1) + np.reciprocal(y + 9),
    "comparisons": lambda x, y: np.where(((x > y) & ~(x <= 0)) | np.isinf(x), x, -1),
    "in place": in_place,
    "interpolated": lambda x, y: np.interp(x[:, 0], KNOTS, VALUES),
    "joined": parts,
    "looked up": lambda x, y: looked_up(TABLE, np.clip(np.rint(x[:, 0]), 0, 4).astype(np.int64)),
    "looked up by two": lambda x, y: looked_up(TABLE, (x[:, 0] > 0) * 3 - 1, (y[:, 1] > 0) * 1),
    "products": lambda x, y: (x.astype(np.float32) @ TABLE[:3].astype(np.float32)).astype(np.float64),
    "reduced": lambda x, y: x.max(axis=1, keepdims=True) + np.add.reduce(y, axis=1)[:, None] - y.min(axis=1)[:, None],
    "reduced by stretches": lambda x, y: np.minimum.reduceat(x[:, [2, 0, 1]], np.array([0, 1]), axis=1),
    "searched": lambda x, y: np.searchsorted(KNOTS, x[:, 0]) * 1.0,
    "sorted": sorted_part,
    "stacked": lambda x, y: np.stack([x[:, 0], y[..., -1], x.sum(axis=1)], axis=-1),
    "the first of the largest": lambda x, y: np.rint(x).argmax(axis=1) - np.rint(y).argmin(axis=1),
    "turned": lambda x, y: (x[:, :, None] * y[:, None]).transpose(0, 2, 1)[:, 1],
}


def graph_of(function: Callable[[Any, Any], Any]) -> bytes:
    record = Recorder()
    found = function(record.input("x", np.float64, 3), record.input("y", np.float64, 3))
    return record.model({"found": found}, OPSET)[0]


@pytest.mark.parametrize("samples", [1, 50])
@pytest.mark.parametrize("case", CASES)
def test_traced_code_computes_what_numpy_computes(case: str, samples: int) -> None:
    random = np.random.default_rng(samples)
    x, y = 2 * random.normal(size=(samples, 3)), random.normal(size=(samples, 3))
    session = onnxruntime.InferenceSession(graph_of(CASES[case]))
    (found,) = session.run(None, {i.name: {"x": x, "y": y}[i.name] for i in session.get_inputs()})
    expected = CASES[case](x.copy(), y.copy())
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-6 if found.dtype == np.float32 else 1e-14, atol=1e-14)


def test_half_precision_is_rounded_once() -> None:
    """Through single precision, numbers near the middle of two halves are rounded twice."""
    random = np.random.default_rng(0)
    half = random.integers(0x0001, 0x7B00, size=4000).astype(np.uint16).view(np.float16).astype(np.float64)
    middle = half * (1 + 2.0**-11) * (1 + random.choice([-1, 1], 4000) * 2.0**-40)
    x = np.stack([-half * random.uniform(1, 1.001, 4000), -middle, -(half % 7e-5)], axis=1)
    x = np.maximum(x, -60000.0)
    session = onnxruntime.InferenceSession(graph_of(lambda a, b: a.astype(np.float16)))
    (found,) = session.run(None, {"x": x})
    assert np.array_equal(found, x.astype(np.float16))
    assert not np.array_equal(x.astype(np.float32).astype(np.float16), x.astype(np.float16))


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a choice of samples": (lambda x, y: x[2:], r"array\[rows\]"),
    "a function": (lambda x, y: np.median(x, axis=1), "np.median"),
    "a loop": (lambda x, y: next(iter(x)), "a loop over samples"),
    "a mask": (lambda x, y: x[x > 0], r"array\[array\]"),
    "a mean over samples": (lambda x, y: x.sum(axis=0), "np.add.reduce over samples"),
    "a method": (lambda x, y: x.cumsum(axis=1), "ndarray.cumsum"),
    "a number of samples": (lambda x, y: np.zeros(len(x)), r"len\(array\)"),
    "a table by its brackets": (lambda x, y: TABLE[x.argmax(axis=1)], r"table\[array\]"),
    "a ufunc": (lambda x, y: np.arctan2(x, y), "np.arctan2"),
    "an assignment": (lambda x, y: x.__setitem__((slice(None), 0), 1.0), r"array\[…\] = …"),
    "an option": (lambda x, y: np.add(x, y, where=x > 0), r"np.add\(where\)"),
    "a branch on values": (lambda x, y: x if (x > 0).max(axis=1) else y, "a branch on values"),
    "memory that is shared": (lambda x, y: np.negative(x, out=x[:, :]), "memory another one shares"),
    "samples after samples": (lambda x, y: np.concatenate([x, y]), "np.concatenate of samples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_traced_is_refused_by_name(case: str) -> None:
    function, what = REFUSED[case]
    with pytest.raises(UntraceableError, match=f"{what}.* cannot be traced into a graph; known are .*concatenate"):
        graph_of(function)


def test_a_graph_takes_the_inputs_that_it_needs() -> None:
    record = Recorder()
    x, y = record.input("x", np.float64, 2), record.input("y", np.float64, 2)
    graph, needed = record.model({"found": np.concatenate([x, np.exp(y)], axis=1)[:, 1:2]}, OPSET)
    assert needed == {"x"}
    assert b"Exp" not in graph
