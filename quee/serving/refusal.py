"""What a request is refused with: a status, a word for the metrics, and the reason, as `{"error": …}`."""

from starlette.requests import Request
from starlette.responses import JSONResponse


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


async def answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler of RefusedError."""
    assert isinstance(error, RefusedError)
    request.scope.setdefault("state", {})["refused"] = error.why
    return error.response()
