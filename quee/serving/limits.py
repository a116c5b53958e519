"""The ASGI layer that every request passes first. It checks the sender, the size and the time of a request.

No body is read before its sender is accepted, and nothing is decoded before the whole body has arrived within its limits.
"""

import asyncio
import hmac
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quee.serving.metrics import Metrics
from quee.serving.requests import GoneError, RefusedError
from quee.serving.settings import Settings

OPEN = ("/v2/health/", "/page/")
"""Paths that need no token: probes, and the page's own files, which hold no data."""
LINGER = 1.0
"""Seconds for which a refused body is read and dropped, so that its sender gets the answer instead of a reset."""


class Limits:
    """Checks a request and hands it on with its whole body as one message."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.held = 0
        """Bytes of bodies in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        held = 0
        try:
            refused, body = None, b""
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
            try:
                self._admit(scope, headers)
                body = await self._body(headers, receive)
                held = len(body)
            except RefusedError as error:
                refused = error
                if headers.get("expect", "").lower() != "100-continue":
                    await _drop(receive)
            if refused is not None:
                state["refused"] = refused.why
                await refused.response(close=True)(scope, receive, observed)
            else:
                await self.app(scope, _whole(body, receive), observed)
        except GoneError:
            status = 499  # only for the metrics: the client has left
        finally:
            self.held -= held
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(route, status, time.perf_counter() - start, state.get("refused"))

    def _admit(self, scope: Scope, headers: dict[str, str]) -> None:
        settings = self.settings
        if not settings.answers_to(headers.get("host", "")):
            raise RefusedError(421, "host", f"host {headers.get('host', '')[:80]!r} is not served here")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host") and origin not in settings.cors:
            raise RefusedError(403, "origin", f"pages of {origin[:80]} may not call; see --cors")
        preflight = scope["method"] == "OPTIONS" and origin in settings.cors  # browsers send no token with these
        free = preflight or scope["path"] == "/" or scope["path"].startswith(OPEN)
        if settings.token is not None and not free:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), settings.token.encode()):
                raise RefusedError(401, "token", "give the token: Authorization: Bearer TOKEN")
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise RefusedError(415, "encoding", f"content-encoding {encoding[:40]!r}: bodies are taken uncompressed")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The whole body; its bytes count as held until the caller releases them."""
        settings, declared = self.settings, int(headers.get("content-length", 0))
        if declared > settings.max_body:
            raise RefusedError(413, "body", f"a body of {declared} bytes; at most {settings.max_body}")
        self._hold(declared)
        held = declared
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > settings.max_body:
                        raise RefusedError(413, "body", f"a body beyond {settings.max_body} bytes")
                    if size > held:
                        self._hold(size - held)
                        held = size
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            self.held -= held
            raise RefusedError(408, "slow_body", f"the body took over {settings.body_timeout:g} s") from None
        except BaseException:
            self.held -= held
            raise
        self.held += size - held
        return b"".join(parts)

    def _hold(self, size: int) -> None:
        if self.held + size > self.settings.bodies:
            raise RefusedError(503, "bodies", "too many large bodies at once", retry_after=1)
        self.held += size


def _whole(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one message, then the following messages."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _drop(receive: Receive) -> None:
    try:
        async with asyncio.timeout(LINGER):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    except TimeoutError:
        pass
