"""Open Inference Protocol requests: accepted ones, and refused ones with the reason."""

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, noise

from quee.runtime import Options
from quee.serving.protocol import OUTPUTS, parse
from quee.serving.requests import RefusedError
from quee.serving.settings import Settings

SETTINGS = Settings(max_images=8, max_pixels=10_000)
PIXELS = noise(0, 2, 4, 5, 3)
UNIT = {"pixels": "unit"}


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
    for _, found in (nested, flat, raw):
        assert np.array_equal(found, pixels)


def test_encoded_images_arrive_as_base64_and_binary() -> None:
    files = [encoded(noise(i, 6, 7), "PNG") for i in range(2)]
    head = {"name": "encoded", "datatype": "BYTES", "shape": [2]}
    texts = [base64.b64encode(file).decode() for file in files]
    assert parse(request({**head, "data": texts}), None, SETTINGS)[1] == files
    rest = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    text = request({**head, "parameters": {"binary_data_size": len(rest)}})
    assert parse(text + rest, str(len(text)), SETTINGS)[1] == files


def test_parameters_and_outputs_are_read() -> None:
    outputs = [{"name": "label"}, {"name": "cost", "parameters": {"binary_data": True}}]
    more = {"budget": 0.3, "max_cost": 1, "timeout": 500_000, "binary_data_output": True}
    found, _ = parse(request(id="a", parameters=more, outputs=outputs), None, SETTINGS)
    assert (found.said.options, found.seconds, found.id) == (Options(budget=0.3, max_cost=1.0), 0.5, "a")
    assert found.wanted == {"label": False, "cost": True}
    every, _ = parse(request(parameters=more), None, SETTINGS)
    assert every.wanted == dict.fromkeys(OUTPUTS, True)


def test_what_a_client_adds_of_its_own_is_not_read() -> None:
    found, _ = parse(request(tensor(shape=[2, 4, 5, 3], own=1), more={}, parameters=None, outputs=None), None, SETTINGS)
    assert found.wanted == dict.fromkeys(OUTPUTS, False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "the body: .*object"),
        (b"{}", "inputs: Field required"),
        (b"\xff{}", "not JSON"),
        (b"", "not JSON"),
        (b'{"inputs":', "not JSON"),
        (b'{"inputs": ' + b"[" * 100_000, "not JSON: recursion limit"),
        (request(tensor(), tensor()), "inputs: .*at most 1 item"),
        (request(tensor(name="x")), "inputs.0.name: .*'images' or 'encoded', not 'x'"),
        (request(tensor(datatype="FP32")), "valid: UINT8"),
        (request(tensor(shape=[2, 4, 5, 2])), "valid: "),
        (request(tensor(shape=[40])), "valid: "),
        (request(tensor(shape=[2, 4, 5, 4])), "the input"),
        (request(tensor(shape=[2, -4, 5, 3])), "inputs.0.shape.1: .*greater than 0, not -4"),
        (request(tensor(shape=[2, 0, 5, 3])), "greater than 0, not 0"),
        (request(tensor(shape=[2, True, 5, 3])), "valid integer, not True"),
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
        (request(tensor(data=3)), "inputs.0.data: .*array, not 3"),
        (request(tensor(data=None)), "one of data"),
        (request(tensor(data=[0, "NaN"])), "data"),
        (request(tensor(data=[math.nan] * PIXELS.size)), "not finite"),
        (request(tensor(datatype="FP32", data=[0.1, math.nan] * (PIXELS.size // 2)), parameters=UNIT), "nan"),
        (request(tensor(datatype="FP32", data=[math.inf] * PIXELS.size), parameters=UNIT), "inf"),
        (request(tensor(np.zeros((1, 1, 100), np.uint8))), "64 times"),
        (request(parameters={"budget": "0.3"}), "parameters.budget: .*number, not '0.3'"),
        (request(parameters={"budget": True}), "parameters.budget: .*number, not True"),
        (request(parameters={"budget": [1]}), "parameters.budget: .*number, not .1."),
        (request(parameters={"budget": 10**400}), "parameters.budget: .*finite number"),
        (request(parameters={"budgets": 1}), "valid: budget"),
        (request(parameters={"budget": math.nan}), "parameters.budget: .*finite number, not nan"),
        (request(parameters={"timeout": 0}), "parameters.timeout: .*greater than 0"),
        (request(parameters={"timeout": 1 << 62}), "parameters.timeout: .*less than"),
        (request(parameters={"pixels": "float"}), "parameters.pixels: .*'uint8' or 'unit', not 'float'"),
        (request(parameters={"binary_data_output": None}), "boolean"),
        (request(parameters=[1]), "parameters: .*object"),
        (request(outputs=[{"name": "x"}]), "outputs.0.name: .*'label', .* or 'cost', not 'x'"),
        (request(outputs=[{"name": ["label"]}]), "outputs.0.name: .*'label'"),
        (request(outputs=[{"name": "label"}] * 2), "twice"),
        (request(outputs=[{"name": "label", "parameters": {"classification": 3}}]), "classification"),
        (request(outputs={"name": "label"}), "outputs: .*array"),
        (request(id=3), "id: .*string, not 3"),
        (request(id="a" * 257), "id: .*256"),
        (request({"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%%"]}), "data.0: not base64"),
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
