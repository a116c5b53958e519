"""Open Inference Protocol requests: what is taken, and what is refused with which reason."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, noise

from quee.serving.protocol import parse
from quee.serving.refusal import RefusedError
from quee.serving.settings import Settings

SETTINGS = Settings(max_images=8, max_pixels=10_000)
PIXELS = noise(0, 2, 4, 5, 3)


def tensor(pixels: np.ndarray = PIXELS, **changes: Any) -> dict[str, Any]:
    made = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs or [tensor()]), **more}).encode()


def binary(pixels: np.ndarray, **changes: Any) -> tuple[bytes, str]:
    size = {"binary_data_size": pixels.nbytes}
    head = request(tensor(pixels, data=None, **{"parameters": size, **changes}))
    return head + pixels.tobytes(), str(len(head))


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 1), (2, 4, 5, 3)])
def test_pixels_arrive_nested_flat_and_binary(shape: tuple[int, ...]) -> None:
    pixels = noise(1, *shape)
    nested = parse(request(tensor(pixels)), None, SETTINGS)
    flat = parse(request(tensor(pixels, data=pixels.ravel().tolist())), None, SETTINGS)
    raw = parse(*binary(pixels), SETTINGS)
    for found in (nested, flat, raw):
        assert np.array_equal(found.images, pixels)


def test_encoded_images_arrive_as_base64_and_binary() -> None:
    files = [encoded(noise(i, 6, 7), "PNG") for i in range(2)]
    head = {"name": "encoded", "datatype": "BYTES", "shape": [2]}
    texts = [base64.b64encode(file).decode() for file in files]
    assert parse(request({**head, "data": texts}), None, SETTINGS).images == files
    rest = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    text = request({**head, "parameters": {"binary_data_size": len(rest)}})
    assert parse(text + rest, str(len(text)), SETTINGS).images == files


def test_parameters_and_outputs_are_read() -> None:
    outputs = [{"name": "label"}, {"name": "cost", "parameters": {"binary_data": True}}]
    more = {"budget": 0.3, "max_cost": 1, "timeout": 500_000, "binary_data_output": True}
    found = parse(request(id="a", parameters=more, outputs=outputs), None, SETTINGS)
    assert (found.options.budget, found.options.max_cost, found.timeout, found.binary) == (0.3, 1.0, 0.5, True)
    assert found.outputs == {"label": False, "cost": True}
    assert found.identity == "a"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "not an object"),
        (b"{}", "inputs"),
        (request(tensor(), tensor()), "one tensor"),
        (request(tensor(name="x")), "unknown input"),
        (request(tensor(datatype="FP32")), "valid: UINT8"),
        (request(tensor(shape=[2, 4, 5, 2])), "valid: "),
        (request(tensor(shape=[40])), "valid: "),
        (request(tensor(shape=[2, 4, 5, 4])), "the input"),
        (request(tensor(shape=[2, -4, 5, 3])), "above 0"),
        (request(tensor(shape=[2, 0, 5, 3])), "above 0"),
        (request(tensor(shape=[2, True, 5, 3])), "above 0"),
        (request(tensor(shape=None)), "shape"),
        (request(tensor(data=[0.5] * PIXELS.size)), "whole numbers"),
        (request(tensor(data=[True] * PIXELS.size)), "whole numbers"),
        (request(tensor(data=["a"] * PIXELS.size)), "whole numbers"),
        (request(tensor(data=[None] * PIXELS.size)), "whole numbers"),
        (request(tensor(data=[256] * PIXELS.size)), "0 to 255"),
        (request(tensor(data=[-1] * PIXELS.size)), "0 to 255"),
        (request(tensor(data=[10**30] * PIXELS.size)), "whole numbers"),
        (request(tensor(data=[[0], [0, 1]])), "data"),
        (request(tensor(data=[])), "values"),
        (request(tensor(data=3)), "list"),
        (request(tensor(data=None)), "one of data"),
        (request(tensor(data=[0, "NaN"])), "data"),
        (request().replace(b"[[[[", b"[[[[NaN, "), "not a JSON number"),
        (request(tensor(np.zeros((1, 1, 100), np.uint8))), "64 times"),
        (request(parameters={"budget": "0.3"}), "budget is a string"),
        (request(parameters={"budget": True}), "budget is a boolean"),
        (request(parameters={"budget": [1]}), "budget is a list"),
        (request(parameters={"budget": 10**400}), "not JSON|too large"),
        (request(parameters={"budgets": 1}), "valid: budget"),
        (request(parameters={"timeout": 0}), "microseconds"),
        (request(parameters=[1]), "object"),
        (request(outputs=[{"name": "x"}]), "valid: label"),
        (request(outputs=[{"name": ["label"]}]), "valid: label"),
        (request(outputs=[{"name": "label"}] * 2), "twice"),
        (request(outputs=[{"name": "label", "parameters": {"classification": 3}}]), "classification"),
        (request(outputs={"name": "label"}), "list"),
        (request(id=3), "id"),
        (request({"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%%"]}), "base64"),
        (request({"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}), "readable"),
        (request({"name": "encoded", "datatype": "BYTES", "shape": [2], "data": []}), "shape"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        parse(body, None, SETTINGS)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("head", "reason"),
    [("-1", "not a length"), ("9" * 11, "the body"), ("x", "not a length"), ("²", "not a length"), ("5", "not JSON")],
)
def test_bad_binary_headers_are_refused(head: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        parse(binary(PIXELS)[0], head, SETTINGS)


@pytest.mark.parametrize("size", [0, 1, PIXELS.nbytes - 1, PIXELS.nbytes + 1, -1, True, "120"])
def test_a_binary_size_that_is_not_there_is_refused(size: object) -> None:
    with pytest.raises(RefusedError, match="binary_data_size|takes"):
        parse(*binary(PIXELS, parameters={"binary_data_size": size}), SETTINGS)


@pytest.mark.parametrize("shape", [(1, 101, 100), (9, 2, 2)])
def test_too_much_is_413(shape: tuple[int, ...]) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(*binary(np.zeros(shape, np.uint8)), SETTINGS)
    assert refused.value.status == 413


@given(st.binary(max_size=200), st.none() | st.text(max_size=5) | st.integers(0, 300).map(str))
def test_noise_is_refused_and_nothing_else(body: bytes, header: str | None) -> None:
    with pytest.raises(RefusedError):
        parse(body, header, SETTINGS)
