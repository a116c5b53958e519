"""Requests that no client would send on purpose, from a seed: valid ones mutated, byte by byte and part by part."""

import json
import random
import socket
from collections.abc import Callable, Iterator

Bytes = bytes | bytearray


def http(method: str, path: str, body: Bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + bytes(body)


def flipped(data: Bytes, draw: random.Random) -> bytes:
    """A few bytes changed, left out, doubled or put in."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(out):
            out[at] = draw.randrange(256)
        elif kind == 1:
            del out[at : at + draw.randint(1, 8)]
        elif kind == 2:
            out[at:at] = out[at : at + draw.randint(1, 40)]
        else:
            out[at:at] = draw.randbytes(draw.randint(1, 8))
    return bytes(out)


VALUES: list[object] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "a", "NaN", "\x00", "😀", [], {}, [[]], [None],
    {"a": 1}, [1, 2, 3], "A" * 1000, [[[[1]]]], "../../etc/passwd", "aGVsbG8=",
]  # fmt: skip


def bent(value: object, draw: random.Random) -> object:
    """A JSON value with something in it replaced, left out or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        made, key = dict(value), draw.choice(list(value))
        kind = draw.randrange(5)
        if kind == 0:
            del made[key]
        elif kind == 1:
            made[draw.choice(["data", "x", "shape", "budget", "", key + "s"])] = made.pop(key)
        else:
            made[key] = bent(made[key], draw)
        return made
    if isinstance(value, list) and value and draw.random() < 0.7:
        made_list = list(value)
        at = draw.randrange(len(made_list))
        if draw.random() < 0.2:
            made_list.append(draw.choice(VALUES))
        else:
            made_list[at] = bent(made_list[at], draw)
        return made_list
    return draw.choice(VALUES)


def requests(model: str, image: bytes, seed: int) -> Iterator[bytes]:
    """Endless raw requests; each is to be answered with 2xx, 4xx or 503, or the connection ended."""
    draw = random.Random(seed)
    infer = f"/v2/models/{model}/infer"
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2], "data": [0, 1, 2, 3]}
    asked = {"id": "1", "inputs": [tensor], "parameters": {"budget": 0.2}, "outputs": [{"name": "label"}]}
    form = (
        b'--f\r\ncontent-disposition: form-data; name="image"; filename="i"\r\n\r\n' + image
        + b'\r\n--f\r\ncontent-disposition: form-data; name="budget"\r\n\r\n0.2\r\n--f--\r\n'
    )  # fmt: skip
    binary = {**asked, "inputs": [{**tensor, "parameters": {"binary_data_size": 4}}]}
    del binary["inputs"][0]["data"]
    import base64

    classify = {"image": base64.b64encode(image).decode(), "budget": 0.2, "explain": True}
    paths = [
        "/",
        "/metrics",
        "/v2",
        f"/v2/models/{model}",
        "/v1/model",
        "/v1/examples/0",
        "/page/page.js",
        "/openapi.json",
    ]

    def head(length: int, **more: str) -> dict[str, str]:
        return {"host": "localhost", "content-length": str(length), **{k.replace("_", "-"): v for k, v in more.items()}}

    def json_infer() -> bytes:
        body = json.dumps(bent(asked, draw)).encode()
        return http("POST", infer, body, head(len(body), content_type="application/json"))

    def json_classify() -> bytes:
        body = json.dumps(bent(classify, draw)).encode()
        return http("POST", "/v1/classify", body, head(len(body), content_type="application/json"))

    def bytes_infer() -> bytes:
        body = flipped(json.dumps(asked).encode(), draw)
        return http("POST", infer, body, head(len(body)))

    def binary_infer() -> bytes:
        text = json.dumps(bent(binary, draw) if draw.random() < 0.5 else binary).encode()
        body = flipped(text + b"\0\1\2\3", draw) if draw.random() < 0.5 else text + b"\0\1\2\3"
        length = (
            str(len(text))
            if draw.random() < 0.7
            else draw.choice(["0", "-1", "9" * 20, "x", "1e3", str(len(body) + 1)])
        )
        return http("POST", infer, body, head(len(body), inference_header_content_length=length))

    def form_classify() -> bytes:
        body = flipped(form, draw)
        return http("POST", "/v1/classify", body, head(len(body), content_type="multipart/form-data; boundary=f"))

    def image_classify() -> bytes:
        body = form.replace(image, flipped(image, draw))
        return http("POST", "/v1/classify", body, head(len(body), content_type="multipart/form-data; boundary=f"))

    def any_path() -> bytes:
        path = flipped(draw.choice([*paths, infer]).encode(), draw).decode("latin-1")
        path = "/" + "".join(c for c in path if 32 < ord(c) < 127).lstrip("/")
        return http(draw.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "X"]), path, b"", head(0))

    def odd_headers() -> bytes:
        body = json.dumps(asked).encode()
        name = draw.choice(["content-type", "content-encoding", "origin", "host", "accept", "authorization", "range"])
        text = flipped(b"application/json", draw).decode("latin-1")
        value = draw.choice(
            ["gzip", "multipart/form-data", "null", "a" * 5000, "\u00e9", text.translate({13: " ", 10: " "})]
        )
        return http("POST", infer, body, {**head(len(body)), name: value})

    def raw() -> bytes:
        whole = http("POST", infer, json.dumps(asked).encode(), head(10))
        return flipped(whole, draw) if draw.random() < 0.8 else draw.randbytes(draw.randint(1, 200))

    def chunked() -> bytes:
        chunks = (
            b"".join(b"%x\r\n" % len(c) + c + b"\r\n" for c in (json.dumps(asked).encode()[:40], b"}")) + b"0\r\n\r\n"
        )
        headers = {"host": "localhost", "transfer-encoding": "chunked"}
        return http("POST", infer, flipped(chunks, draw) if draw.random() < 0.7 else chunks, headers)

    kinds: list[tuple[Callable[[], bytes], float]] = [
        (json_infer, 4), (json_classify, 2), (bytes_infer, 4), (binary_infer, 3), (form_classify, 2), (image_classify, 2),
        (any_path, 2), (odd_headers, 2), (raw, 1), (chunked, 1),
    ]  # fmt: skip
    makers, weights = zip(*kinds, strict=True)
    while True:
        yield draw.choices(makers, weights)[0]()


class Wire:
    """A connection that is kept as long as the server keeps it."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.port, self.timeout = port, timeout
        self.socket: socket.socket | None = None

    def ask(self, data: bytes) -> int | None:
        """The status of the answer; None where the connection ended without one. Raises TimeoutError when it hangs.

        The request says no more: what it left unfinished ends with the connection's sending side.
        """
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout)
        try:
            self.socket.sendall(data)
            answer = self._answer(data)
        except ConnectionError:
            answer = None
        if answer is None or not answer[1]:
            self.close()
        return None if answer is None else answer[0]

    def _answer(self, data: bytes) -> tuple[int, bool] | None:
        assert self.socket is not None
        found = b""
        self.socket.settimeout(0.1)
        while b"\r\n\r\n" not in found:
            try:
                part = self.socket.recv(65536)
            except TimeoutError:  # it waits for the rest of a request: there is none
                self.socket.settimeout(self.timeout)
                self.socket.shutdown(socket.SHUT_WR)
                part = self.socket.recv(65536)
            if not part:
                return None
            found += part
        head, _, body = found.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        self.socket.settimeout(self.timeout)
        while len(body) < length and not data.startswith(b"HEAD "):
            part = self.socket.recv(65536)
            if not part:
                return status, False
            body += part
        # More than one answer: the bytes were more than one request. The connection is out of step.
        kept = b"connection: close" not in lower and len(body) <= length
        return status, kept

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
