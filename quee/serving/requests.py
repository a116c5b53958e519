"""Common parts of all requests: reading, refusals, budgets, and limits on images.

A refusal has a status, a word for the metrics, and the reason as `{"error": …}`.
"""

import base64
import re
from collections.abc import Sequence
from reprlib import repr as shortened
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from quee.data.decode import open_image
from quee.errors import QueeError, UsageError
from quee.runtime.operating import Options
from quee.serving.settings import Settings
from quee.work.decimals import comma_hint

ELONGATION = 64
"""Largest ratio of the sides: scaling the shorter side to the network's input scales the longer side, too."""
CONTAINERS = 2_000_000
"""Most lists and objects in a JSON body; an empty one takes 2 bytes there and 60 in memory."""
COMMA = re.compile(rb":\s*-?\d+,\d")
"""A number with a decimal comma as a value in JSON, behind which another name would stand."""
NUMBERS = {"float_parsing": "Input should be a valid number", "int_parsing": "Input should be a valid integer"}
"""Reasons whose own words end with what the parser does."""
M = TypeVar("M", bound=BaseModel)


class RefusedError(Exception):
    """A refused request; `why` is one of a few short words, under which metrics count it."""

    def __init__(self, status: int, why: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.why, self.message, self.retry_after = status, why, message, retry_after

    def response(self, close: bool = False) -> JSONResponse:
        headers = {"connection": "close"} if close else {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse({"error": self.message}, self.status, headers)


class GoneError(Exception):
    """The client left before it was answered."""


def bad(message: str, why: str = "malformed") -> RefusedError:
    """400: the request cannot be understood."""
    return RefusedError(400, why, message)


def read(model: type[M], data: bytes) -> M:
    """A JSON body as a model; raises RefusedError (400) naming the first invalid field."""
    if (opened := data.count(b"[") + data.count(b"{")) > CONTAINERS:
        raise bad(f"JSON with {opened} lists and objects; at most {CONTAINERS}")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        refused = misfit(error)
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid" and COMMA.search(data):
            refused.message += "; numbers have a decimal point: 0.2, not 0,2"
        raise refused from None


def refuse_query(request: Request, model: type[BaseModel]) -> None:
    """Raises RefusedError for an option in the address, where it would be overlooked: options belong into the body."""
    if request.scope.get("query_string") and (named := sorted({*request.query_params} & {*model.model_fields})):
        raise bad(f"{named[0]} is given in the address: give it in the request's body", "options")


def misfit(error: ValidationError, field: str = "") -> RefusedError:
    """The first error of a validation as a refusal: the field (within `field`), the valid values and the given one."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return bad(f"not JSON: {first['ctx']['error']}")
    where = ".".join(map(str, (field, *first["loc"]))).strip(".") or "the body"
    reason = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    given = "" if first["type"] in ("missing", "value_error", "too_long") else f", not {shortened(value)}"
    given += comma_hint(value)
    reason = NUMBERS.get(first["type"], reason)
    why = {"parameters": "options", "shape": "shape", "datatype": "dtype"}
    named = next((why[part] for part in first["loc"] if part in why), "malformed")
    return bad(f"{where}: {reason}{given}", str(named))


def decoded(value: Any) -> Any:
    """Base64 text, also as a `data:` URL, to bytes; returns other types unchanged. Raises ValueError for other text."""
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
        if self.model_extra:  # pydantic's own message does not list the valid fields
            valid = ", ".join(type(self).model_fields)
            raise ValueError(f"unknown field {min(self.model_extra)[:80]!r}; valid: {valid}")
        return self


class Budgets(Closed):
    """Budgets of a request; `Options` checks their ranges."""

    budget: float | None = Field(default=None, description="Ceiling of the mean cost, above 0.")
    accuracy_loss: float | None = Field(
        default=None, description="Instead: points of accuracy that may be lost to the float network, 0 or more."
    )
    certified: bool = Field(default=False, description="With accuracy_loss: by a certified operating point.")
    trade_off: float | None = Field(default=None, description="Instead: price of a unit of cost, 0 or more.")
    max_cost: float | None = Field(default=None, description="Limit for every image, above 0.")

    @property
    def options(self) -> Options:
        """Raises RefusedError for a number out of range."""
        try:
            return Options(**{name: getattr(self, name) for name in Budgets.model_fields})
        except UsageError as error:
            raise bad(str(error), "options") from None


def check_size(width: int, height: int, name: str, settings: Settings) -> None:
    """Raises RefusedError for an image that is empty, too large or too elongated."""
    if width < 1 or height < 1:
        raise bad(f"{name}: {width}×{height} pixels", "shape")
    if width * height > settings.max_pixels:
        raise RefusedError(413, "pixels", f"{name}: {width}×{height} pixels; at most {settings.max_pixels:,}")
    if max(width, height) > ELONGATION * min(width, height):
        raise bad(f"{name}: {width}×{height} pixels; one side at most {ELONGATION} times the other", "shape")


def check_count(images: int, settings: Settings) -> None:
    """Raises RefusedError for no image, or for more images than a request may have."""
    if not images:
        raise bad("no image given", "no_image")
    if images > settings.max_images:
        raise RefusedError(413, "images", f"{images} images in a request; at most {settings.max_images}")


def check_images(images: Sequence[bytes], settings: Settings) -> None:
    """Check encoded images by their headers alone; raises RefusedError for the first that may not be decoded."""
    check_count(len(images), settings)
    for index, data in enumerate(images):
        name = f"image {index}"
        try:
            opened = open_image(data, name)
        except QueeError as error:
            raise bad(str(error), "image") from None
        check_size(*opened.size, name, settings)


async def answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler of RefusedError."""
    assert isinstance(error, RefusedError)
    request.scope.setdefault("state", {})["refused"] = error.why
    return error.response()


class Refusal(BaseModel):
    """The body of a refusal."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": description}
    for status, description in {
        400: "Cannot be answered; the reason is named.",
        401: "The token is missing or wrong.",
        403: "Not allowed from there.",
        404: "No such model or page.",
        405: "No such method.",
        408: "The body came too slowly.",
        409: "The new bundle was refused.",
        413: "Too large.",
        415: "Not a content type or encoding that is taken.",
        421: "Another host's request.",
        422: "Not valid.",
        503: "Overloaded, or about to end; see Retry-After.",
    }.items()
}
"""Refusals in the OpenAPI description."""
