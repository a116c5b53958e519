"""uvicorn with limits on slow connections, an orderly shutdown, and reload on SIGHUP."""

import asyncio
import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from quee.errors import QueeError
from quee.serving.app import create_app
from quee.serving.service import Service

HEAD_BYTES = 16 * 1024
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b'content-length: 33\r\n\r\n{"error": "too many connections"}'
)
"""Answer to a connection beyond the limit, sent before its request."""
logger = logging.getLogger("quee.serving")


class TimedConnection(H11Protocol):
    """Closes connections whose request head or answer takes too long, and connections beyond the limit.

    uvicorn times only idle connections between requests, and `Limits` times bodies. Only this class depends on uvicorn's
    internals; `tests/quee/serving/test_server.py` shows whether a new release of uvicorn fits.
    """

    service: Service
    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.service.settings.connections:
            self.service.metrics.dropped("connections")
            self.transport.write(FULL)
            self.transport.close()
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        self._unwatch_answer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.service.settings.write_timeout, self._drop, "slow_reader")

    def resume_writing(self) -> None:
        self._unwatch_answer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self.service.metrics.dropped("http")
        super().send_400_response(msg)

    def _watch_head(self) -> None:
        """Time a head from its first byte, even if bytes keep arriving; between requests uvicorn's own timer runs."""
        begun = self.cycle is None or bool(self.conn.trailing_data[0])
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing() or not begun:
            self._unwatch_head()
        elif self._head is None:
            self._head = self.loop.call_later(self.service.settings.header_timeout, self._drop, "slow_head")

    def _unwatch_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _unwatch_answer(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _drop(self, reason: str) -> None:
        self.service.metrics.dropped(reason)
        self.transport.abort()


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT `ready` becomes false. After `drain` seconds no connection is accepted, and requests in
    flight are answered. A second signal ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._leaving: float | None = None
        self._reloads: set[asyncio.Task[None]] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._leaving is not None:
            self.should_exit = self.force_exit = True
        self._leaving = time.monotonic()
        self.service.ending = True

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hup)

    async def on_tick(self, counter: int) -> bool:
        if self._leaving is not None and time.monotonic() - self._leaving >= self.service.settings.drain:
            self.should_exit = True
        return await super().on_tick(counter)

    def _hup(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        try:
            fresh = await self.service.reload()
        except QueeError as error:
            logger.error("reload refused, the old model serves: %s", error)
        else:
            logger.warning("serving %s %s", fresh.name, fresh.digest)


def server_of(service: Service, app: FastAPI | None = None) -> Server:
    """A server for a service, not started."""
    settings = service.settings
    config = uvicorn.Config(
        app or create_app(service),
        host=settings.host,
        port=settings.port,
        http=type("Bound", (TimedConnection,), {"service": service}),
        ws="none",
        lifespan="on",
        loop="auto",
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=max(1, round(settings.keep_alive)),
        timeout_graceful_shutdown=max(1, round(settings.grace)),
        backlog=2048,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # headers about the client's address are not trusted
        log_level="error",
    )
    return Server(config, service)
