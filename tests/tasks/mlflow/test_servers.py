"""Tracking into stores that several share: PostgreSQL, and a real MLflow server that fails and recovers."""

import http.client
import http.server
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pytest
from toy_project import Project

from quee.errors import UnreachableError
from tasks.mlflow.store import Store
from tasks.mlflow.tracking import track

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def done(project: Project) -> Project:
    project.quee("run")
    return project


def test_a_server_that_answers_500_and_recovers_gets_every_result_once(
    done: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    store = f"sqlite:///{tmp_path / 'server.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--artifacts-destination", str(tmp_path / "files")]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    quietly = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=quiet, start_new_session=True, **quietly)
    gate = Gate(port)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.address)
        behind = mlflow.MlflowClient(f"http://127.0.0.1:{port}")
        gate.failing_behind = "/runs/create"
        for middle in (False, True):  # at once, and in the middle of writing a run
            gate.allowed = 10**9 if middle else 0
            with pytest.raises(UnreachableError, match=r"500.*nothing is lost: `quee track` logs them"):
                track(done.root)
            begun = [run for item in behind.search_experiments() for run in behind.search_runs([item.experiment_id])]
            assert bool([run for run in begun if "quee.complete" not in run.data.tags]) == middle
        gate.allowed, gate.failing_behind = 10**9, None
        assert len(track(done.root).logged) + track(done.root).known >= 4
        assert track(done.root).logged == []
        client = Store(done.root, gate.address).client
        ids = [item.experiment_id for item in client.search_experiments() if item.name.startswith("quee")]
        runs = client.search_runs(ids, "")
        digests = [run.data.tags["quee.digest"] for run in runs]
        assert len(digests) == len(set(digests)) == 4
        assert {run.data.tags["quee.complete"] for run in runs} == {"true"}
    finally:
        gate.close()
        os.killpg(server.pid, signal.SIGKILL)  # its worker too
        server.wait()


class Gate:
    """Passes so many requests on to a server, and answers the following ones with 500."""

    def __init__(self, port: int) -> None:
        gate = self
        self.allowed = 0
        self.failing_behind: str | None = None
        """Ends of paths; the request after such a path is the last that is passed on."""

        class Handler(http.server.BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                gate.allowed -= 1
                if gate.allowed < 0:
                    self.send_error(500)
                    return
                if gate.failing_behind and self.path.endswith(gate.failing_behind):
                    gate.allowed = 1
                inner = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
                inner.request(self.command, self.path, body, headers)
                answer = inner.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                inner.close()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} did not answer")


@pytest.fixture
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own on loopback, its data in a temporary folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps them off the path
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'quee[postgres]')")
    programs, port = Path(initdb).resolve().parent, free_port()
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    own = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}

    def do(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **own)

    do("initdb", "-D", str(folder / "data"), "-U", "quee", "-A", "trust", "-N")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    do("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        do("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "quee", "mlflow")
        yield f"postgresql+psycopg://quee@127.0.0.1:{port}/mlflow"
    finally:
        do("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_two_checkouts_track_into_one_postgresql_store_without_duplicates(
    done: Project, postgres: str, tmp_path: Path
) -> None:
    shutil.copytree(done.root, tmp_path / "other", symlinks=True)
    code = "from pathlib import Path; from tasks.mlflow.tracking import track; print(len(track(Path('.')).logged))"
    places = [done, Project(tmp_path / "other")]
    both = [place.start(sys.executable, "-c", code, MLFLOW_TRACKING_URI=postgres) for place in places]
    said = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(int(text.split()[-1]) for text in said) == [0, 4]
    again = done.quee("track", MLFLOW_TRACKING_URI=postgres)
    assert "0 results tracked, 4 tracked before" in again
    found = done.quee("lineage", "artifacts/toy/evaluate", MLFLOW_TRACKING_URI=postgres)
    assert "toy/evaluate" in found
    assert "nothing that is not needed" in done.quee("gc", MLFLOW_TRACKING_URI=postgres)


def test_a_postgresql_that_is_not_there_costs_a_message(done: Project) -> None:
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'quee[postgres]')")
    store = f"postgresql+psycopg://quee:secret@127.0.0.1:{free_port()}/mlflow"
    output = done.quee("track", status=1, MLFLOW_TRACKING_URI=store)
    assert "nothing is lost" in output
    assert "secret" not in output
