"""Slow connections and too many connections, which uvicorn does not limit."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
from endpoint import Endpoint, serving, until_closed, wait_for


@pytest.fixture(scope="module")
def small(bundle: Path):
    with serving(bundle, header_timeout=0.5, write_timeout=0.5, connections=20, control=False) as running:
        yield running


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "])
def test_a_head_that_trickles_in_ends_the_connection(small: Endpoint, sent: bytes) -> None:
    with small.connect() as connection:
        connection.settimeout(5)
        start = time.monotonic()
        connection.sendall(sent)
        answer = b"pending"
        while time.monotonic() - start < 3:
            try:
                connection.settimeout(0.1)
                answer = connection.recv(1000)
                break
            except TimeoutError:
                if sent:
                    connection.sendall(b"a")
            except ConnectionError:
                answer = b""
                break
        assert answer == b""
        assert time.monotonic() - start < 2
    wait_for(lambda: small.metric('quee_rejected_total{reason="slow_head"}') > 0)


def test_a_second_head_that_trickles_in_ends_the_connection(small: Endpoint) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        first = b""
        while not first.endswith(b"}"):  # a busy server sends head and body apart
            first += connection.recv(1000)
        assert first.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET ")
        start = time.monotonic()
        assert until_closed(connection) == b""
        assert time.monotonic() - start < 2


def test_an_answer_that_is_not_read_ends_the_connection(small: Endpoint) -> None:
    before = small.metric('quee_rejected_total{reason="slow_reader"}')
    asked = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with small.connect() as connection:
        connection.setblocking(False)
        end = time.monotonic() + 10
        while small.metric('quee_rejected_total{reason="slow_reader"}') == before:
            assert time.monotonic() < end
            try:
                connection.send(asked * 50)
            except (BlockingIOError, ConnectionError):
                time.sleep(0.05)


def test_connections_are_bounded(small: Endpoint) -> None:
    opened = [small.connect() for _ in range(40)]
    try:
        wait_for(lambda: len(small.server.server_state.connections) >= 20)
        refused = 0
        for connection in opened:
            with suppress(TimeoutError):
                answer = until_closed(connection, 0.05)  # accepted connections get no answer
                refused += answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer
        assert refused >= 20
    finally:
        for connection in opened:
            connection.close()
    wait_for(lambda: small.ask("GET", "/v2/health/live")[0] == 200)
