"""Open Inference Protocol v2: requests and answers, as JSON and with the binary tensor extension.

https://github.com/kserve/open-inference-protocol; the extension is Triton's `extension_binary_data.md`: a header
`Inference-Header-Content-Length`, then the JSON, then the tensors' bytes in order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from quee.errors import UsageError
from quee.runtime.classifier import Routed
from quee.runtime.pixels import CHANNELS, Pixels, accepted, numbers
from quee.serving.requests import Budgets, Closed, File, bad, check_count, check_images, check_size, misfit, read
from quee.serving.settings import Settings
from quee.work.counts import counted

HEADER = "inference-header-content-length"
FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
DATATYPES = {"UINT8": "u1", **FLOATS}
"""Datatypes of pixels, with NumPy's names."""
MAX_RANK = 4
OutputName = Literal["label", "class", "probabilities", "path", "cost"]
OUTPUTS: dict[OutputName, str] = {
    "label": "INT64", "class": "BYTES", "probabilities": "FP32", "path": "BYTES", "cost": "FP64",
}  # fmt: skip


class Parameters(Budgets):
    """Parameters of an inference request."""

    pixels: Pixels = Field(default="uint8", description="unit: the images are FP16, FP32 or FP64 from 0 to 1.")
    timeout: Annotated[int, Field(gt=0, lt=1 << 62)] | None = Field(default=None, description="Microseconds.")
    priority: Any = Field(default=None, description="Taken for the sake of clients that send it; not used.")
    binary_data_output: bool = Field(default=False, description="Whether outputs that do not say come in binary.")


class _Open(BaseModel):
    """Other fields are ignored, because the protocol lets clients add fields."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class InputParameters(_Open):
    binary_data_size: int | None = Field(
        default=None, description="Bytes of the tensor behind the JSON, in place of data."
    )


class Input(_Open):
    """A tensor of pixels (`images`), or of encoded files (`encoded`)."""

    name: Literal["images", "encoded"]
    datatype: Literal["UINT8", "FP16", "FP32", "FP64", "BYTES"]
    shape: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1, max_length=MAX_RANK, fail_fast=True)]
    parameters: InputParameters | None = None
    data: list[Any] | None = Field(default=None, description="Numbers, flat or nested; base64 of encoded files.")


class OutputParameters(Closed):
    binary_data: bool = False


class Output(_Open):
    name: OutputName
    parameters: OutputParameters | None = None


class InferenceRequest(_Open):
    """A request: one of the two inputs, and the wanted outputs (by default all)."""

    id: Annotated[str, Field(max_length=256)] | None = None
    parameters: Parameters | None = None
    inputs: Annotated[list[Input], Field(min_length=1, max_length=1, fail_fast=True)]
    outputs: Annotated[list[Output], Field(max_length=len(OUTPUTS), fail_fast=True)] | None = None

    @field_validator("outputs")
    @classmethod
    def _once(cls, outputs: list[Output] | None) -> list[Output] | None:
        names = [output.name for output in outputs or ()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is asked for twice")
        return outputs

    @property
    def said(self) -> Parameters:
        return self.parameters or Parameters()

    @property
    def seconds(self) -> float | None:
        """The request's timeout."""
        return None if self.said.timeout is None else self.said.timeout / 1e6

    @property
    def wanted(self) -> dict[OutputName, bool]:
        """Names of the wanted outputs, with whether each is wanted in binary."""
        if not self.outputs:
            return dict.fromkeys(OUTPUTS, self.said.binary_data_output)
        return {output.name: bool(output.parameters and output.parameters.binary_data) for output in self.outputs}


class Tensor(BaseModel):
    """A tensor of an answer or, without data, of the model's description."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[Tensor]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str = "quee"
    inputs: list[Tensor]
    outputs: list[Tensor]
    parameters: dict[str, str]


def metadata(name: str, version: str, classes: int) -> ModelMetadata:
    """The model's tensors. A request has one of the two inputs; -1 in a shape stands for any size."""
    outputs = [
        Tensor(name=output, datatype=kind, shape=[-1, classes] if output == "probabilities" else [-1])
        for output, kind in OUTPUTS.items()
    ]
    inputs = [
        Tensor(name="images", datatype="UINT8", shape=[-1, -1, -1, -1]),
        Tensor(name="encoded", datatype="BYTES", shape=[-1]),
    ]
    options = {"options": ", ".join(Parameters.model_fields)}
    return ModelMetadata(name=name, versions=[version], inputs=inputs, outputs=outputs, parameters=options)


def parse(
    body: bytes, header_length: str | None, settings: Settings
) -> tuple[InferenceRequest, np.ndarray | list[bytes]]:
    """The request in a body, and its images: uint8 (n, h, w) or (n, h, w, c), or n encoded images.

    Raises RefusedError with the reason.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
            raise bad(f"{HEADER}: {header_length[:40]!r} is not a length")
        length = int(header_length)
        if length > len(body):
            raise bad(f"{HEADER} is {length}, the body {len(body)} bytes")
    request = read(InferenceRequest, body[:length])
    return request, _images(request.inputs[0], memoryview(body)[length:], settings, request.said.pixels)


def _images(tensor: Input, rest: memoryview, settings: Settings, pixels: Pixels) -> np.ndarray | list[bytes]:
    where, shape, data = f"input {tensor.name}", tensor.shape, tensor.data
    size = tensor.parameters and tensor.parameters.binary_data_size
    if valid := _datatypes(tensor, pixels):
        raise bad(f"{where} has datatype {tensor.datatype!r}; valid: {valid}", "dtype")
    if (size is None) == (data is None):
        raise bad(f"{where}: give one of data and parameters.binary_data_size")
    if size is not None and size != len(rest):
        raise bad(f"{where}: binary_data_size is {size}; {len(rest)} bytes follow the JSON")
    if size is None and len(rest):
        raise bad(f"{len(rest)} bytes follow the JSON and no input is binary")
    if tensor.name == "encoded":
        found = _length_prefixed(rest) if data is None else _files(data)
        if shape != [len(found)]:
            raise bad(f"{where}: shape {shape} and {counted(len(found), 'image')}", "shape")
        check_images(found, settings)
        return found
    if len(shape) not in (3, MAX_RANK) or (len(shape) == MAX_RANK and shape[3] not in CHANNELS):
        raise bad(f"{where}: shape {shape}; valid: [n, h, w] or [n, h, w, 1, 3 or 4]", "shape")
    check_size(shape[2], shape[1], where, settings)
    check_count(shape[0], settings)
    count = math.prod(shape)
    values = _binary(rest, DATATYPES[tensor.datatype], count) if data is None else _numbers(data, shape, pixels)
    if values.size != count:
        raise bad(f"{where}: shape {shape} takes {count} values, {values.size} are given", "shape")
    if pixels == "uint8":
        return values.reshape(shape)  # values are checked when the images are prepared
    return _taken(lambda: accepted(values.reshape(shape), where, pixels=pixels))


def _datatypes(tensor: Input, pixels: Pixels) -> str:
    """The valid datatypes, for the message about a tensor with another one."""
    if tensor.name == "encoded":
        return "" if tensor.datatype == "BYTES" else "BYTES"
    floats = ", ".join(FLOATS)
    if pixels == "unit":
        return "" if tensor.datatype in FLOATS else f"{floats} with the parameter pixels 'unit'"
    return "" if tensor.datatype == "UINT8" else f"UINT8, or {floats} from 0 to 1 with the parameter pixels 'unit'"


def _numbers(data: list[Any], shape: list[int], pixels: Pixels) -> np.ndarray:
    found = _taken(lambda: numbers(data, "data", pixels))
    if found.ndim != 1 and list(found.shape) != shape:
        raise bad(f"data has shape {list(found.shape)}, the input {shape}", "shape")
    return found


def _binary(rest: memoryview, kind: str, count: int) -> np.ndarray:
    """The values of a binary tensor."""
    width = np.dtype(kind).itemsize
    if len(rest) != count * width:
        raise bad(f"the shape takes {count * width} bytes, {len(rest)} are given", "shape")
    return np.array(np.frombuffer(rest, kind))


def _taken(read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except UsageError as error:
        raise bad(str(error), "dtype") from None


_FILES: TypeAdapter[list[bytes]] = TypeAdapter(Annotated[list[File], Field(fail_fast=True)])


def _files(data: list[Any]) -> list[bytes]:
    try:
        return _FILES.validate_python(data, strict=True)
    except ValidationError as error:
        raise misfit(error, "data") from None


def _length_prefixed(rest: memoryview) -> list[bytes]:
    """BYTES in binary: each element follows its length, four bytes little-endian."""
    found, at = [], 0
    while at < len(rest):
        length = int.from_bytes(rest[at : at + 4], "little")
        at += 4 + length
        if at > len(rest):
            raise bad("a length in the binary data goes beyond it")
        found.append(bytes(rest[at - length : at]))
    return found


def answer(
    request: InferenceRequest,
    routed: Routed,
    classes: Sequence[str],
    name: str,
    version: str,
    parameters: dict[str, Any],
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if binary tensors follow."""
    tensors: dict[OutputName, np.ndarray] = {
        "label": routed.label.astype(np.int64),
        "class": np.array([classes[int(index)] for index in routed.label], object),
        "probabilities": routed.probabilities.astype(np.float32),
        "path": np.array(routed.path, object),
        "cost": routed.cost.astype(np.float64),
    }
    outputs, blobs = [], []
    for output, binary in request.wanted.items():
        tensor = tensors[output]
        entry = Tensor(name=output, datatype=OUTPUTS[output], shape=list(tensor.shape))
        if binary:
            blobs.append(_bytes(tensor))
            entry.parameters = {"binary_data_size": len(blobs[-1])}
        else:
            entry.data = tensor.ravel().tolist()
        outputs.append(entry)
    found = InferenceResponse(
        model_name=name, model_version=version, id=request.id, parameters=parameters, outputs=outputs
    )
    text = found.model_dump_json(exclude_none=True).encode()
    return (text + b"".join(blobs), len(text)) if blobs else (text, None)


def _bytes(tensor: np.ndarray) -> bytes:
    if tensor.dtype != object:
        return tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
    encoded = [str(text).encode() for text in tensor]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
