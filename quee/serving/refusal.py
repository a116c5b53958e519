"""What a request is refused with: a status, a word for the metrics, and the reason, as `{"error": …}`."""

from reprlib import repr as shortened
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

CONTAINERS = 2_000_000
"""Lists and objects in a JSON body: an empty one takes 2 bytes there and 60 in memory."""
M = TypeVar("M", bound=BaseModel)


class RefusedError(Exception):
    """A request that is not answered; `why` is a short word, one of few, that metrics count by."""

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
    """400: the request does not say something that can be answered."""
    return RefusedError(400, why, message)


def read(model: type[M], data: bytes) -> M:
    """A JSON body as a model; raises RefusedError (400) naming the first field that does not fit."""
    if (opened := data.count(b"[") + data.count(b"{")) > CONTAINERS:
        raise bad(f"JSON with {opened} lists and objects; at most {CONTAINERS}")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise misfit(error) from None


def misfit(error: ValidationError, field: str = "") -> RefusedError:
    """The first error of a validation, as a refusal: the field (within `field`), what is valid, and what was given."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return bad(f"not JSON: {first['ctx']['error']}")
    where = ".".join(map(str, (field, *first["loc"]))).strip(".") or "the body"
    reason = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error", "too_long") else f", not {shortened(first['input'])}"
    why = {"parameters": "options", "shape": "shape", "datatype": "dtype"}
    named = next((why[part] for part in first["loc"] if part in why), "malformed")
    return bad(f"{where}: {reason}{given}", str(named))


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
"""For the OpenAPI description."""
