"""`POST /v1/classify`: image files in a form, or base64 in JSON, with an optional budget."""

import logging
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from quee.runtime.explanation import GateReport
from quee.serving.requests import Budgets, File, RefusedError, bad, check_images, misfit, read
from quee.serving.service import Answer, Service
from quee.serving.settings import Settings

FIELDS = 64
"""Most fields of a form besides its files."""
# The parser logs every bad form, so strangers could fill the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class Classify(Budgets):
    """A request with one of `image` and `images`. In a form `image` is a file and may be repeated."""

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
    """The parsed request with checked images; raises RefusedError with the reason."""
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
                else:
                    given[name] = content
    except HTTPException as error:
        status = 413 if error.detail.startswith("Too many") else 400
        raise RefusedError(status, "malformed", f"the form is not taken: {error.detail}") from None
    try:
        return Classify.model_validate({**given, **({"images": files} if files else {})}, strict=False)
    except ValidationError as error:
        raise misfit(error) from None


def answer(found: Answer) -> dict[str, Any]:
    """The answer: class, probabilities, path and cost of every image, and its gates if asked for."""
    routed, served = found.routed, found.served
    classes = served.classifier.classes
    results: list[dict[str, Any]] = [
        {
            "label": int(routed.label[row]),
            "class": classes[int(routed.label[row])],
            "probabilities": routed.probabilities[row].tolist(),
            "path": routed.path[row],
            "cost": float(routed.cost[row]),
            "decided_by": routed.decided_by[row],
        }
        for row in range(len(routed.label))
    ]
    for result, explanation in zip(results, found.explanations or [], strict=False):
        result["gates"] = [_gate(gate) for gate in explanation.gates]
        result["static"] = explanation.static
    return {"model": served.name, **found.parameters, "results": results}


def _gate(gate: GateReport) -> dict[str, Any]:
    """What a gate saw; as in a result, `label` is the index of its class and `class` the name."""
    return {"class" if name == "class_name" else name: value for name, value in asdict(gate).items()}
