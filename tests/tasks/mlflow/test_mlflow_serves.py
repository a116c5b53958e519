"""The registered model behind MLflow's own tools: `mlflow models serve` and `mlflow models predict`."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quee
from quee.network.architectures import create_backbone
from quee.runtime import load_bundle

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[3]
KWARGS = {"embed_dim": 16, "depth": 4, "num_heads": 2}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    from sklearn.datasets import load_digits

    return np.rint(load_digits().images * 255 / 16).astype(np.uint8)[:400]


@pytest.fixture(scope="module")
def bundle(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", (2, 4), **KWARGS)
    out = tmp_path_factory.mktemp("fit") / "bundle"
    quee.fit(backbone, images, np.arange(len(images)) % 10, out, precisions=["w4a4", "w8a8"])
    return out


@pytest.fixture(scope="module")
def registry(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a store whose `quee-digits@champion` is the bundle."""
    from mlflow import MlflowClient
    from mlflow.models import Model

    from tasks.mlflow.registry import save_bundle_model

    root = tmp_path_factory.mktemp("store")
    save_bundle_model(root / "model", bundle, CHECKOUT / "quee/runtime/pyfunc.py", Model(), CHECKOUT / "quee")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.create_registered_model("quee-digits")
    made = client.create_model_version("quee-digits", str(root / "model"))
    client.set_registered_model_alias("quee-digits", "champion", made.version)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)]), "PATH": path}
    return {**os.environ, **inherited, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}


def mlflow(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlflow", "models", *arguments, "-m", "models:/quee-digits@champion"]


def expected(bundle: Path, images: np.ndarray, **options: Any) -> tuple[list[int], list[float]]:
    found = load_bundle(bundle).route(images, **options)
    return found.label.tolist(), found.cost.tolist()


@pytest.fixture(scope="module")
def endpoint(registry: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*mlflow("serve"), "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=registry, stdout=out, stderr=out, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def invoke(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: list[dict[str, Any]] = json.load(response)["predictions"]
    return answer


@pytest.mark.parametrize("options", [{}, {"budget": 0.3}, {"trade_off": 0.05}, {"accuracy_loss": 3.0}])
def test_invocations_answer_as_the_bundle_does(endpoint: str, bundle: Path, images: np.ndarray, options: dict) -> None:
    some = images[:6, :, :, None]
    rows = invoke(endpoint, {"inputs": some.tolist(), "params": options})
    labels, costs = expected(bundle, some, **options)
    assert [row["label"] for row in rows] == labels
    assert [row["cost"] for row in rows] == costs
    assert all(row["path"] for row in rows)


def test_the_path_can_be_left_out(endpoint: str, images: np.ndarray) -> None:
    rows = invoke(endpoint, {"inputs": images[:2, :, :, None].tolist(), "params": {"return_path": False}})
    assert all("path" not in row for row in rows)


def test_both_prices_at_once_are_refused(endpoint: str, images: np.ndarray) -> None:
    body = {"inputs": images[:1, :, :, None].tolist(), "params": {"budget": 0.3, "trade_off": 0.1}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        invoke(endpoint, body)
    assert b"not both" in refused.value.read()


FLOATS = [
    ({}, "unit", b"floats; give whole numbers from 0 to 255"),
    ({"pixels": "unit"}, "whole", b"takes those from 0 to 1"),
    ({"pixels": "grey"}, "whole", b"valid: uint8, unit"),
]


@pytest.mark.parametrize(("params", "which", "reason"), FLOATS)
def test_floats_are_never_cast_to_black_images(
    endpoint: str, images: np.ndarray, params: dict, which: str, reason: bytes
) -> None:
    some = images[:2, :, :, None]
    body = {"inputs": (some / 255 if which == "unit" else some).tolist(), "params": params}
    with pytest.raises(urllib.error.HTTPError) as refused:
        invoke(endpoint, body)
    assert refused.value.code == 400 and reason in refused.value.read()


def test_floats_from_0_to_1_are_taken_where_said(endpoint: str, bundle: Path, images: np.ndarray) -> None:
    some = images[:6, :, :, None]
    rows = invoke(endpoint, {"instances": (some / 255).tolist(), "params": {"pixels": "unit", "max_cost": 0.3}})
    labels, costs = expected(bundle, some, max_cost=0.3)
    assert ([row["label"] for row in rows], [row["cost"] for row in rows]) == (labels, costs)


def test_a_file_of_floats_is_refused(registry: dict[str, str], images: np.ndarray, tmp_path: Path) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps({"inputs": (images[:2, :, :, None] / 255).tolist()}))
    command = [*mlflow("predict"), "--env-manager", "local", "-i", str(source), "-t", "json"]
    found = subprocess.run(command, env=registry, capture_output=True, text=True, timeout=240)
    assert found.returncode != 0 and 'pixels="unit"' in found.stderr


def test_batches_are_scored_from_files(
    registry: dict[str, str], bundle: Path, images: np.ndarray, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    some = images[:50, :, :, None]
    source.write_text(json.dumps({"inputs": some.tolist(), "params": {"budget": 0.3}}))
    command = [*mlflow("predict"), "--env-manager", "local", "-i", str(source), "-o", str(target), "-t", "json"]
    subprocess.run(command, env=registry, check=True, capture_output=True, timeout=240)
    rows = json.loads(target.read_text())["predictions"]
    labels, costs = expected(bundle, some, budget=0.3)
    assert [row["label"] for row in rows] == labels
    assert [row["cost"] for row in rows] == costs
