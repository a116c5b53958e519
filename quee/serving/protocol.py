"""Open Inference Protocol v2: requests and answers, as JSON and with the binary tensor extension.

https://github.com/kserve/open-inference-protocol; the extension is Triton's `extension_binary_data.md`: a header
`Inference-Header-Content-Length`, then the tensors' bytes behind the JSON, in order.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quee.errors import UsageError
from quee.runtime.classifier import Options, Routed
from quee.runtime.pixels import CHANNELS, PIXELS, accepted, numbers
from quee.serving import strict_json
from quee.serving.images import OPTIONS, check_images, check_size, decoded, options_of
from quee.serving.refusal import RefusedError, bad
from quee.serving.settings import Settings

HEADER = "inference-header-content-length"
IMAGES, ENCODED = "images", "encoded"
FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
DATATYPES = {"UINT8": "u1", **FLOATS}
"""Of pixels, with numpy's names."""
PARAMETERS = (*OPTIONS, "pixels", "timeout", "priority", "binary_data_output")
OUTPUTS = {"label": "INT64", "class": "BYTES", "probabilities": "FP32", "path": "BYTES", "cost": "FP64"}
MAX_RANK = 4


@dataclass(frozen=True)
class Request:
    """What an inference request asks."""

    images: np.ndarray | list[bytes]
    """uint8 (n, h, w) or (n, h, w, c), or n encoded images."""
    options: Options
    identity: str | None = None
    timeout: float | None = None
    """Seconds."""
    outputs: dict[str, bool] = field(default_factory=dict)
    """Name to whether it is wanted in binary; empty: all."""
    binary: bool = False
    """For outputs that say nothing."""


def metadata(name: str, version: str, classes: int) -> dict[str, Any]:
    """The model's tensors. One of the two inputs is given; shapes are -1 where any size goes."""
    shapes = {"probabilities": [-1, classes]}
    return {
        "name": name,
        "versions": [version],
        "platform": "quee",
        "inputs": [
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, -1, -1, -1]},
            {"name": ENCODED, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": n, "datatype": kind, "shape": shapes.get(n, [-1])} for n, kind in OUTPUTS.items()],
        "parameters": {"options": ", ".join(PARAMETERS)},
    }


def parse(body: bytes, header_length: str | None, settings: Settings) -> Request:
    """The request of a body; raises RefusedError with the reason."""
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
            raise bad(f"{HEADER}: {header_length[:40]!r} is not a length")
        length = int(header_length)
        if length > len(body):
            raise bad(f"{HEADER} is {length}, the body {len(body)} bytes")
    value = strict_json.loads(body[:length])
    if not isinstance(value, dict):
        raise bad("the request is not an object")
    identity = value.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > 256):
        raise bad("id: give a string of at most 256 characters")
    parameters = _object(value, "parameters")
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        raise bad(f"unknown parameter {unknown[0][:80]!r}; valid: {', '.join(PARAMETERS)}", "options")
    timeout = parameters.get("timeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 < timeout < 1 << 62):
        raise bad("timeout: give microseconds, a whole number above 0", "options")
    pixels = parameters.get("pixels", "uint8")
    if not isinstance(pixels, str) or pixels not in PIXELS:
        raise bad(f"pixels: {str(pixels)[:80]!r}; valid: {', '.join(PIXELS)}", "options")
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise bad(f"inputs: give one tensor, {IMAGES} or {ENCODED}")
    return Request(
        _images(inputs[0], memoryview(body)[length:], settings, pixels),
        options_of(parameters),
        identity,
        None if timeout is None else timeout / 1e6,
        _outputs(value),
        _flag(parameters, "binary_data_output"),
    )


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise bad(f"{name}: give an object")
    return found


def _flag(parameters: dict[str, Any], name: str) -> bool:
    found = parameters.get(name, False)
    if not isinstance(found, bool):
        raise bad(f"{name}: give true or false")
    return found


def _outputs(value: dict[str, Any]) -> dict[str, bool]:
    asked = value.get("outputs")
    if asked is None:
        return {}
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise bad("outputs: give a list of objects")
    found: dict[str, bool] = {}
    for output in asked:
        name = output.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise bad(f"unknown output {str(name)[:80]!r}; valid: {', '.join(OUTPUTS)}")
        parameters = _object(output, "parameters")
        if unknown := sorted(set(parameters) - {"binary_data"}):
            raise bad(f"output {name}: parameter {unknown[0][:80]!r} is not supported; valid: binary_data")
        if name in found:
            raise bad(f"output {name} is asked for twice")
        found[name] = _flag(parameters, "binary_data")
    return found


def _datatype_fault(name: str, kind: Any, pixels: str) -> str | None:
    """What would be valid, where a datatype is not."""
    if name == ENCODED:
        return None if kind == "BYTES" else "BYTES"
    if pixels == "unit":
        return None if kind in FLOATS else f"{', '.join(FLOATS)} with the parameter pixels 'unit'"
    return None if kind == "UINT8" else f"UINT8, or {', '.join(FLOATS)} from 0 to 1 with the parameter pixels 'unit'"


def _images(tensor: dict[str, Any], rest: memoryview, settings: Settings, pixels: str) -> np.ndarray | list[bytes]:
    name, kind, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if name not in (IMAGES, ENCODED):
        raise bad(f"unknown input {str(name)[:80]!r}; valid: {IMAGES}, {ENCODED}")
    if (fault := _datatype_fault(name, kind, pixels)) is not None:
        raise bad(f"input {name} has datatype {str(kind)[:40]!r}; valid: {fault}", "dtype")
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise bad(f"input {name}: shape {str(shape)[:80]}; give a list of whole numbers above 0", "shape")
    size = _object(tensor, "parameters").get("binary_data_size")
    data = tensor.get("data")
    if (size is None) == (data is None):
        raise bad(f"input {name}: give one of data and parameters.binary_data_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size != len(rest)):
        raise bad(f"input {name}: binary_data_size is {str(size)[:40]}; {len(rest)} bytes follow the JSON")
    if size is None and len(rest):
        raise bad(f"{len(rest)} bytes follow the JSON and no input is binary")
    if name == ENCODED:
        found = _texts(data) if size is None else _length_prefixed(rest)
        if shape != [len(found)]:
            raise bad(f"input {name}: shape {shape[:6]} and {len(found)} images", "shape")
        return check_images(found, settings)
    if len(shape) not in (3, MAX_RANK) or (len(shape) == MAX_RANK and shape[3] not in CHANNELS):
        raise bad(f"input {name}: shape {shape[:6]}; valid: [n, h, w] or [n, h, w, 1, 3 or 4]", "shape")
    check_size(shape[2], shape[1], f"input {name}", settings)
    if shape[0] > settings.max_images:
        raise RefusedError(413, "images", f"{shape[0]} images in a request; at most {settings.max_images}")
    values = _numbers(data, shape, pixels) if size is None else _values(rest, DATATYPES[str(kind)], math.prod(shape))
    if values.size != math.prod(shape):
        raise bad(f"input {name}: shape {shape} takes {math.prod(shape)} values, {values.size} are given", "shape")
    if pixels == "uint8":
        return values.reshape(shape)  # and looked at when it is prepared
    return _taken(lambda: accepted(values.reshape(shape), f"input {name}", pixels=pixels))


def _numbers(data: Any, shape: list[int], pixels: str) -> np.ndarray:
    if not isinstance(data, list):
        raise bad("data: give a list")
    found = _taken(lambda: numbers(data, "data", pixels))
    if found.ndim != 1 and list(found.shape) != shape:
        raise bad(f"data has shape {list(found.shape)}, the input {shape}", "shape")
    return found


def _values(rest: memoryview, kind: str, count: int) -> np.ndarray:
    """The numbers of a binary tensor."""
    width = np.dtype(kind).itemsize
    if len(rest) != count * width:
        raise bad(f"the shape takes {count * width} bytes, {len(rest)} are given", "shape")
    return np.array(np.frombuffer(rest, kind))


def _taken(read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except UsageError as error:
        raise bad(str(error), "dtype") from None


def _texts(data: Any) -> list[bytes]:
    if not isinstance(data, list):
        raise bad("data: give a list of base64")
    return [decoded(text, f"image {index}") for index, text in enumerate(data)]


def _length_prefixed(rest: memoryview) -> list[bytes]:
    """BYTES in binary: each element behind its length, four bytes little-endian."""
    found, at = [], 0
    while at < len(rest):
        length = int.from_bytes(rest[at : at + 4], "little")
        at += 4 + length
        if at > len(rest):
            raise bad("a length in the binary data goes beyond it")
        found.append(bytes(rest[at - length : at]))
    return found


def answer(
    request: Request, routed: Routed, classes: list[str], name: str, version: str, parameters: dict[str, Any]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where tensors follow it."""
    tensors: dict[str, np.ndarray] = {
        "label": routed.label.astype(np.int64),
        "class": np.array([classes[int(index)] for index in routed.label], object),
        "probabilities": routed.probabilities.astype(np.float32),
        "path": np.array(routed.path, object),
        "cost": routed.cost.astype(np.float64),
    }
    wanted = request.outputs or dict.fromkeys(OUTPUTS, request.binary)
    outputs, blobs = [], []
    for output, binary in wanted.items():
        tensor = tensors[output]
        entry: dict[str, Any] = {"name": output, "datatype": OUTPUTS[output], "shape": list(tensor.shape)}
        if binary:
            blobs.append(_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensor.ravel().tolist()
        outputs.append(entry)
    described: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.identity is not None:
        described["id"] = request.identity
    described["parameters"] = parameters
    text = json.dumps(described, allow_nan=False).encode()
    return (text + b"".join(blobs), len(text)) if blobs else (text, None)


def _bytes(tensor: np.ndarray) -> bytes:
    if tensor.dtype != object:
        return tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
    encoded = [str(text).encode() for text in tensor]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
