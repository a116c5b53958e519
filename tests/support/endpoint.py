"""An endpoint on a free port of this machine, and a client's calls."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quee.serving.server import Server, server_of
from quee.serving.service import Service
from quee.serving.settings import Settings

MULTIPART = "multipart/form-data; boundary=frontier"


@dataclass
class Endpoint:
    port: int
    service: Service
    server: Server

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Any:
        """The JSON of a page, which must exist."""
        status, _, body = self.ask("GET", path, headers=headers)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, value: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        status, _, answer = self.ask("POST", path, body, {"content-type": "application/json", **(headers or {})})
        return status, json.loads(answer)

    def classify(self, *images: bytes, **fields: Any) -> tuple[int, Any]:
        """Post a form to the image endpoint."""
        status, _, answer = self.ask("POST", "/v1/classify", form(*images, **fields), {"content-type": MULTIPART})
        return status, json.loads(answer)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def metric(self, name: str) -> float:
        """A sample's value, by its name with labels; 0 where it has not been seen."""
        return self.metric_with({}, name)

    def metric_with(self, headers: dict[str, str], name: str) -> float:
        _, _, text = self.ask("GET", "/metrics", headers=headers)
        lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
        return float(dict(lines).get(name, 0.0))


def until_closed(connection: socket.socket, seconds: float = 10.0) -> bytes:
    """What a connection still receives before its other side ends it."""
    connection.settimeout(seconds)
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def form(*images: bytes, **fields: Any) -> bytes:
    parts = [
        b'content-disposition: form-data; name="image"; filename="i"\r\ncontent-type: image/png\r\n\r\n' + image
        for image in images
    ]
    parts += [f'content-disposition: form-data; name="{n}"\r\n\r\n{v}'.encode() for n, v in fields.items()]
    return b"".join(b"--frontier\r\n" + part + b"\r\n" for part in parts) + b"--frontier--\r\n"


@contextmanager
def serving(bundle: Path, batch: int = 64, engine: str | None = None, **settings: Any) -> Iterator[Endpoint]:
    """A server in a thread, ended in order."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    service = Service(bundle, Settings(drain=0.0, grace=10.0, **settings), batch, engine=engine)
    server = server_of(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield Endpoint(listener.getsockname()[1], service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
