"""Questions to a tracking store that does not answer end with an error, never with an empty answer."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quee.errors import QueeError, UnreachableError, UsageError
from tasks.mlflow.memory import Memory

RUN: Any = SimpleNamespace(info=SimpleNamespace(run_id="0" * 32, run_name="a run"))
QUESTIONS: dict[str, Callable[[Memory], object]] = {
    "a run": lambda memory: memory.run("0" * 32),
    "a file of a run": lambda memory: memory.artifact(RUN, "uncommitted.patch"),
    "who made a result": lambda memory: memory.maker("artifacts/toy/targets", "1" * 32),
}


@pytest.fixture
def server() -> Iterator["type[Answers]"]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        Answers.address = f"http://127.0.0.1:{opened.server_port}"
        yield Answers
        opened.shutdown()


class Answers(http.server.BaseHTTPRequestHandler):
    address, status, body = "", 500, b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(("status", "kind"), [(500, UnreachableError), (403, QueeError)])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_store_that_fails_is_no_store_without_the_result(
    server: type[Answers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str, status: int, kind: type
) -> None:
    server.status, server.body = status, b"no"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(kind, match=rf"MLflow at {server.address} does not answer: .*{status}"):
        QUESTIONS[question](Memory(tmp_path))


def test_a_run_that_is_not_there_is_unknown(
    server: type[Answers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status, server.body = 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}'
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    with pytest.raises(UsageError, match="unknown MLflow run"):
        Memory(tmp_path).run("0" * 32)
