"""Limits on senders, sizes and times: a stranger cannot make the server hold or wait for more."""

import gzip
import http.client
import json
import time
from pathlib import Path

import numpy as np
import pytest
from callers import at_once
from endpoint import MULTIPART, Endpoint, form, serving, until_closed, wait_for
from image_files import encoded

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def small(bundle: Path):
    with serving(bundle, max_body=50_000, bodies=100_000, body_timeout=0.7, control=False) as running:
        yield running


def infer(endpoint: Endpoint) -> str:
    return f"/v2/models/{endpoint.service.current.name}/infer"


def head(endpoint: Endpoint, length: int | str, extra: str = "") -> bytes:
    lines = f"POST {infer(endpoint)} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{extra}\r\n"
    return lines.encode()


def test_a_body_beyond_the_limit_is_413_and_its_sender_reads_so(small: Endpoint) -> None:
    status, headers, body = small.ask("POST", infer(small), b"0" * 50_001, JSON)
    assert (status, headers["connection"]) == (413, "close")
    assert "at most 50000" in json.loads(body)["error"]
    assert small.ask("POST", infer(small), b"0" * 50_000, JSON)[0] == 400


def test_a_declared_length_beyond_the_limit_is_refused_unread(small: Endpoint) -> None:
    with small.connect() as connection:
        connection.sendall(head(small, 10**12, "expect: 100-continue\r\n"))
        start = time.monotonic()
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - start < 0.5


def test_chunks_beyond_the_limit_are_refused(small: Endpoint) -> None:
    with small.connect() as connection:
        start = f"POST {infer(small)} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(start.encode())
        for _ in range(7):
            connection.sendall(b"2000\r\n" + b"0" * 0x2000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP"])
def test_compressed_bodies_are_not_opened(small: Endpoint, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 1_000_000)
    status, _, body = small.ask("POST", infer(small), bomb, {**JSON, "content-encoding": encoding})
    assert status == 415
    assert "uncompressed" in json.loads(body)["error"]


def test_a_body_that_trickles_in_is_408(small: Endpoint) -> None:
    with small.connect() as connection:
        connection.sendall(head(small, 1000) + b"{")
        assert until_closed(connection).startswith(b"HTTP/1.1 408")
    wait_for(lambda: small.service.admitted == 0)


def test_bodies_held_at_once_are_bounded(small: Endpoint) -> None:
    first, second = small.connect(), small.connect()
    with first, second:
        for connection in (first, second):
            connection.sendall(head(small, 50_000) + b"{")
        time.sleep(0.1)
        status, headers, body = small.ask("POST", infer(small), b"0" * 10_000, JSON)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "bodies" in json.loads(body)["error"]
        until_closed(first)
        until_closed(second)
    wait_for(lambda: small.ask("POST", infer(small), b"0" * 40_000, JSON)[0] == 400)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]"])
def test_another_hosts_requests_are_refused(small: Endpoint, host: str) -> None:
    assert small.ask("GET", "/v1/model", headers={"host": host})[0] == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST:80"])
def test_this_machines_names_are_answered(small: Endpoint, host: str) -> None:
    assert small.ask("GET", "/v1/model", headers={"host": host})[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_other_pages_may_not_call(small: Endpoint, origin: str) -> None:
    status, headers, _ = small.ask("POST", "/v1/classify", form(), {"content-type": MULTIPART, "origin": origin})
    assert status == 403
    assert "access-control-allow-origin" not in headers


def test_the_page_itself_may_call(small: Endpoint) -> None:
    origin = f"http://127.0.0.1:{small.port}"
    assert small.ask("POST", "/v1/classify", form(), {"content-type": MULTIPART, "origin": origin})[0] == 400


def test_an_origin_that_is_let_in_is_told_so(bundle: Path) -> None:
    token, friend = "a-token-of-some-length", {"origin": "https://friend.example"}
    with serving(bundle, cors=("https://friend.example",), token=token) as endpoint:
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        assert endpoint.ask("OPTIONS", "/v1/classify", headers={**friend, **asks})[0] == 200
        assert endpoint.ask("GET", "/v1/model", headers=friend)[0] == 401
        status, headers, _ = endpoint.ask("GET", "/v1/model", headers={**friend, "authorization": f"Bearer {token}"})
        assert (status, headers["access-control-allow-origin"]) == (200, "https://friend.example")
        assert endpoint.ask("GET", "/v1/model", headers={"origin": "https://other.example"})[0] == 403


def test_a_full_queue_is_503_with_a_time_to_come_back_and_loses_nothing(bundle: Path, images) -> None:
    pixels = images[0][:8]
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    found: list[tuple[int, dict]] = []
    with serving(bundle, queue=16, control=False) as endpoint:
        expected = endpoint.service.current.classifier.route(pixels).path
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": "path"}]}).encode()

        def ask(_: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
            for _ in range(10):
                connection.request("POST", infer(endpoint), body, JSON)
                response = connection.getresponse()
                answer = json.loads(response.read())
                found.append((response.status, answer))
                if response.status == 503:
                    assert int(response.headers["retry-after"]) >= 1
            connection.close()

        at_once(ask, 12)
        assert len(found) == 120
        assert {status for status, _ in found} == {200, 503}
        assert all(answer["outputs"][0]["data"] == expected for status, answer in found if status == 200)
        assert endpoint.service.admitted == 0
        assert endpoint.metric('quee_rejected_total{reason="queue"}') == sum(status == 503 for status, _ in found)


def test_an_answer_that_takes_too_long_is_503(bundle: Path, images) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [400, 8, 8], "data": images[0][:400].ravel().tolist()}
    with serving(bundle) as endpoint:
        status, answer = endpoint.post(infer(endpoint), {"inputs": [tensor], "parameters": {"timeout": 1}})
        assert status == 503
        assert "within" in answer["error"]


def test_what_its_client_left_is_dropped(bundle: Path, images) -> None:
    body = form(*[encoded(np.zeros((8, 8), np.uint8), "PNG")] * 900)
    with serving(bundle) as endpoint:
        connection = http.client.HTTPConnection("127.0.0.1", endpoint.port)
        connection.request("POST", "/v1/classify", body, {"content-type": MULTIPART})
        wait_for(lambda: endpoint.service.admitted >= 1)
        connection.close()
        wait_for(lambda: endpoint.service.admitted == 0)
        wait_for(lambda: endpoint.service.current.scheduler.stats().in_flight == 0)
        assert endpoint.classify(encoded(images[0][0], "PNG"))[0] == 200
