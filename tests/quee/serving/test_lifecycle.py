"""The change to another bundle and the end of the server lose no request."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from endpoint import Endpoint, serving, wait_for
from image_files import encoded

from quee.errors import IntegrityError
from quee.runtime.manifest import seal
from quee.serving.service import Service
from quee.serving.settings import Settings
from quee.work.io import file_digest

TOKEN = "a-token-of-some-length"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def other(bundle: Path, tmp_path: Path) -> Path:
    """The same networks with another budget: another digest, other answers."""
    copy = tmp_path / "other"
    shutil.copytree(bundle, copy)
    description = json.loads((copy / "bundle.json").read_text())
    seal(copy, {**{k: v for k, v in description.items() if k not in ("digest", "files")}, "budget": 0.9})
    return copy


def linked(tmp_path: Path, target: Path) -> Path:
    link = tmp_path / "champion"
    aside = tmp_path / "aside"
    aside.symlink_to(target)
    os.replace(aside, link)
    return link


def test_a_reload_drops_no_request_and_each_answer_names_its_model(bundle: Path, other: Path, images, tmp_path) -> None:
    pixels = images[0][:1]
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    digests = [file_digest(folder / "bundle.json") for folder in (bundle, other)]
    link = linked(tmp_path, bundle)
    found: list[tuple[int, dict]] = []
    over = threading.Event()
    with serving(link, token=TOKEN) as endpoint:
        path = f"/v2/models/{endpoint.service.current.name}/infer"

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
            while not over.is_set():
                connection.request("POST", path, body, BEARER)
                response = connection.getresponse()
                found.append((response.status, json.loads(response.read())))
            connection.close()

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        first = endpoint.service.current
        linked(tmp_path, other)
        status, answer = endpoint.post("/v1/admin/reload", {"digest": digests[1]}, BEARER)
        assert (status, answer["model_digest"]) == (200, digests[1])
        seen = len(found)
        wait_for(lambda: len(found) > seen + 20)
        over.set()
        for client in clients:
            client.join()
        wait_for(lambda: not first.scheduler._worker.is_alive())
        assert endpoint.metric_with(BEARER, 'quee_reloads_total{outcome="done"}') == 1
    assert {status for status, _ in found} == {200}
    served = [answer["parameters"]["model_digest"] for _, answer in found]
    assert set(served) == set(digests)
    for _, answer in found:
        assert answer["parameters"]["budget"] == (0.2 if answer["parameters"]["model_digest"] == digests[0] else 0.9)


@pytest.mark.parametrize("fault", ["flipped", "gone", "another digest"])
def test_a_bundle_that_is_not_whole_is_not_taken(bundle: Path, other: Path, images, tmp_path, fault: str) -> None:
    link = linked(tmp_path, bundle)
    with serving(link, token=TOKEN) as endpoint:
        before = endpoint.service.current.digest
        linked(tmp_path, other)
        body = {}
        if fault == "flipped":
            data = (other / "model.safetensors").read_bytes()
            (other / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif fault == "gone":
            shutil.rmtree(other)
        else:
            body = {"digest": "0" * 64}
        status, answer = endpoint.post("/v1/admin/reload", body, BEARER)
        assert status == 409
        assert "the old one serves" in answer["error"]
        assert endpoint.service.current.digest == before
        assert endpoint.metric_with(BEARER, 'quee_reloads_total{outcome="refused"}') == 1


@pytest.mark.parametrize("body", [{"bundle": "/etc"}, [], {"digest": 3}, "x"])
def test_a_reload_takes_nothing_but_a_digest(bundle: Path, body: object) -> None:
    with serving(bundle, token=TOKEN) as endpoint:
        assert endpoint.post("/v1/admin/reload", body, BEARER)[0] == 400


def test_a_bundle_of_another_digest_is_not_started_with(bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="expected 000"):
        Service(bundle, Settings(), digest="0" * 64)


def test_ready_turns_false_first_and_what_is_in_flight_is_answered(bundle: Path, images) -> None:
    with serving(bundle) as endpoint:
        pixels = np.repeat(images[0], 2, axis=0)[:1000]
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
        path = f"/v2/models/{endpoint.service.current.name}/infer"
        found: list[tuple[int, dict]] = []
        client = threading.Thread(target=lambda: found.append(endpoint.post(path, {"inputs": [tensor]})))
        client.start()
        wait_for(lambda: endpoint.service.admitted == 1000)
        endpoint.service.ending = True
        assert endpoint.ask("GET", "/v2/health/ready")[0] == 503
        assert endpoint.ask("GET", "/v2/health/live")[0] == 200
        endpoint.server.should_exit = True
        client.join()
        (status, answer) = found[0]
        assert status == 200
        assert len(answer["outputs"][0]["data"]) == 1000


def command(bundle: Path, *options: str) -> list[str]:
    serve = "from quee.cli.main import main; main()"
    return [sys.executable, "-c", serve, "serve", str(bundle), "--port", "0", *options]


def started(bundle: Path, *options: str) -> tuple[subprocess.Popen, int]:
    checkout = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), *filter(None, sys.path)])}
    process = subprocess.Popen(command(bundle, *options), stderr=subprocess.PIPE, text=True, env=environment)
    line = process.stderr.readline()
    assert " on http://127.0.0.1:" in line
    return process, int(line.rsplit(":", 1)[1].strip(" /\n"))


def classify(port: int, image: bytes) -> dict:
    import base64

    body = json.dumps({"image": base64.b64encode(image).decode()}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/classify", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.slow
def test_the_command_reloads_on_sighup_and_ends_on_sigterm(bundle: Path, other: Path, images, tmp_path: Path) -> None:
    link = linked(tmp_path, bundle)
    image = encoded(images[0][0], "PNG")
    process, port = started(link)
    try:
        first = classify(port, image)["model_digest"]
        linked(tmp_path, other)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: classify(port, image)["model_digest"] != first, 30)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(urllib.error.HTTPError, match="503"):  # still taken, no longer ready
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5)
        assert classify(port, image)["results"]
        assert process.wait(60) == 0
        assert (
            process.stderr.read() == f"serving quee-fit {file_digest(other / 'bundle.json')}\n"
        )  # and nothing at the end
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--host", "0.0.0.0"], 2, "token"),
        (["--digest", "0" * 64], 4, "expected"),
        (["--queue", "0"], 2, "queue"),
        (["--examples", "/nowhere"], 2, "not a folder"),
        (["--threads", "0"], 2, "threads"),
        (["--memory", "0"], 2, "memory"),
        (["--budget", "0"], 2, "budget=0.0: give a finite number above 0"),
        (["--budget", "0.2", "--accuracy-loss", "1"], 2, "not both budget and accuracy_loss"),
    ],
)
def test_wrong_usage_is_one_line_and_a_status(bundle: Path, options: list[str], status: int, reason: str) -> None:
    ended = subprocess.run(
        command(bundle, *options), capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3]
    )
    assert ended.returncode == status
    assert reason in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_the_endpoint_outlives_a_client_that_breaks_off(endpoint: Endpoint) -> None:
    for sent in (b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc", b"\x00\x01", b""):
        with endpoint.connect() as connection:
            connection.sendall(sent)
    wait_for(lambda: endpoint.service.admitted == 0)
    assert endpoint.get("/v2/health/live")["live"]
