"""`POST /v1/classify`: image files of a form, or base64 in JSON, with a budget beside them; and what images may be."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from quee.data.decode import open_image
from quee.errors import QueeError, UsageError
from quee.runtime.classifier import Options
from quee.serving.refusal import RefusedError, bad, misfit, read
from quee.serving.service import Answer, Service
from quee.serving.settings import Settings

ELONGATION = 64
"""Longer side over shorter at most: the shorter is scaled to the network's input, and the longer with it."""
FIELDS = 64
"""Fields of a form at most, beside its files."""
# It warns of every bad form: strangers would fill the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def decoded(value: Any) -> Any:
    """Base64 text, also as a `data:` URL, to bytes; anything else as it is. Raises ValueError for other text."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except ValueError as error:
        raise ValueError(f"not base64: {error}") from None


File = Annotated[
    bytes,
    BeforeValidator(decoded),
    WithJsonSchema({"type": "string", "format": "binary", "description": "JPEG, PNG or WebP; in JSON as base64."}),
]


class Closed(BaseModel):
    """Fields of exactly these names and types."""

    model_config = ConfigDict(
        strict=True, allow_inf_nan=False, extra="allow", json_schema_extra={"additionalProperties": False}
    )

    @model_validator(mode="after")
    def _known(self) -> "Closed":
        if self.model_extra:  # not left to pydantic, whose message does not say what is valid
            valid = ", ".join(type(self).model_fields)
            raise ValueError(f"unknown field {min(self.model_extra)[:80]!r}; valid: {valid}")
        return self


class Budgets(Closed):
    """`Options` of a request; their ranges are checked there."""

    budget: float | None = Field(default=None, description="Mean cost, above 0; not with trade_off.")
    trade_off: float | None = Field(default=None, description="Price of a unit of cost, 0 or more.")
    max_cost: float | None = Field(default=None, description="Limit for every image, above 0.")

    @property
    def options(self) -> Options:
        """Raises RefusedError for a number out of range."""
        try:
            return Options(self.budget, self.trade_off, self.max_cost)
        except UsageError as error:
            raise bad(str(error), "options") from None


class Classify(Budgets):
    """What is asked: one of `image` and `images`. In a form `image` is a file, and may be repeated."""

    image: File | None = None
    images: Annotated[list[File], Field(fail_fast=True)] | None = None
    explain: bool = Field(default=False, description="Whether to add what every gate saw.")

    @model_validator(mode="after")
    def _given(self) -> "Classify":
        if (self.image is None) == (self.images is None):
            raise ValueError("no image given: give one of image (a file, or base64) and images (a list)")
        return self

    @property
    def files(self) -> list[bytes]:
        return [self.image] if self.image is not None else list(self.images or ())


async def asked(request: Request, service: Service) -> Classify:
    """What a request asks, its images checked; raises RefusedError with the reason."""
    body, (kind, parameters) = await request.body(), parse_options_header(request.headers.get("content-type", ""))
    if kind == b"application/json":
        given = await service.done(lambda: read(Classify, body), len(body))
    elif kind == b"multipart/form-data":
        if b"--" + parameters.get(b"boundary", b"") + b"--" not in body:  # Starlette drops a part that is cut short
            raise bad("the form has no end: give one that ends with its boundary and --")
        given = await _from_form(request, service.settings)
    else:
        raise RefusedError(415, "content_type", "give multipart/form-data or application/json")
    await service.done(lambda: check_images(given.files, service.settings), len(body))
    return given


async def _from_form(request: Request, settings: Settings) -> Classify:
    files: list[bytes] = []
    given: dict[str, Any] = {}
    limits = {"max_files": settings.max_images, "max_fields": FIELDS, "max_part_size": settings.max_body}
    try:
        async with request.form(**limits) as form:
            for name, value in form.multi_items():
                content = await value.read() if isinstance(value, UploadFile) else value
                if isinstance(content, bytes) and name in ("image", "images"):
                    files.append(content)
                elif name in given:
                    raise bad(f"field {name[:80]!r} is given twice", "duplicate_key")
                elif content:
                    given[name] = content
    except HTTPException as error:
        status = 413 if error.detail.startswith("Too many") else 400
        raise RefusedError(status, "malformed", f"the form is not taken: {error.detail}") from None
    try:
        return Classify.model_validate({**given, **({"images": files} if files else {})}, strict=False)
    except ValidationError as error:
        raise misfit(error) from None


def check_size(width: int, height: int, name: str, settings: Settings) -> None:
    """Raises RefusedError for an image that is empty, too large or too elongated."""
    if width < 1 or height < 1:
        raise bad(f"{name}: {width}×{height} pixels", "shape")
    if width * height > settings.max_pixels:
        raise RefusedError(413, "pixels", f"{name}: {width}×{height} pixels; at most {settings.max_pixels:,}")
    if max(width, height) > ELONGATION * min(width, height):
        raise bad(f"{name}: {width}×{height} pixels; one side at most {ELONGATION} times the other", "shape")


def check_count(images: int, settings: Settings) -> None:
    """Raises RefusedError for no image, or more than a request may have."""
    if not images:
        raise bad("no image given", "no_image")
    if images > settings.max_images:
        raise RefusedError(413, "images", f"{images} images in a request; at most {settings.max_images}")


def check_images(images: Sequence[bytes], settings: Settings) -> None:
    """Check encoded images by their headers alone; raises RefusedError for the first that will not be decoded."""
    check_count(len(images), settings)
    for index, data in enumerate(images):
        name = f"image {index}"
        try:
            opened = open_image(data, name)
        except QueeError as error:
            raise bad(str(error), "image") from None
        check_size(*opened.size, name, settings)


def answer(found: Answer) -> dict[str, Any]:
    """What is answered: for every image its class, probabilities, path and cost, and its gates where asked for."""
    routed, served = found.routed, found.served
    classes = served.classifier.classes
    results: list[dict[str, Any]] = [
        {
            "label": int(routed.label[row]),
            "class": classes[int(routed.label[row])],
            "probabilities": routed.probabilities[row].tolist(),
            "path": routed.path[row],
            "cost": float(routed.cost[row]),
        }
        for row in range(len(routed.label))
    ]
    for result, explanation in zip(results, found.explanations or [], strict=False):
        result["gates"] = [asdict(gate) for gate in explanation.gates]
        result["static"] = explanation.static
    return {"model": served.name, **found.parameters, "results": results}
