"""DVC's remote and MLflow's artifacts on a real S3-compatible server, on the toy project."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dvc_s3")
pytest.importorskip("moto")
from loopback import free_port, s3_server, wait_for_port
from toy_project import Project

pytestmark = pytest.mark.slow


def objects(environment: dict[str, str], prefix: str) -> list[str]:
    import fsspec

    fs = fsspec.filesystem(
        "s3", key="test", secret="test", endpoint_url=environment["AWS_ENDPOINT_URL"], skip_instance_cache=True
    )
    return list(fs.find(f"quee/{prefix}"))


def test_results_pushed_to_s3_come_back_in_another_clone(project: Project, tmp_path: Path) -> None:
    with s3_server(tmp_path) as environment:
        project.do("dvc", "remote", "add", "-q", "--default", "bucket", "s3://quee/dvc")
        project.do("dvc", "remote", "modify", "bucket", "endpointurl", environment["AWS_ENDPOINT_URL"])
        project.quee("run")
        before = project.results()
        project.do("dvc", "push", "-q", **environment)
        assert objects(environment, "dvc")
        shutil.rmtree(project.root / ".dvc" / "cache")
        shutil.rmtree(project.root / "artifacts")
        shutil.rmtree(project.root / "data" / "digits")
        project.quee("run", **environment)  # the data set is pulled, and the results are, or made again
        assert project.results() == before
        shutil.rmtree(project.root / "artifacts")
        project.do("dvc", "pull", "-q", **environment)
        assert project.results() == before


def test_mlflows_artifacts_lie_on_s3(project: Project, tmp_path: Path) -> None:
    with s3_server(tmp_path) as environment:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
        command += ["--artifacts-destination", "s3://quee/mlflow"]
        with (tmp_path / "mlflow.log").open("wb") as log:
            server = subprocess.Popen(
                command, cwd=tmp_path, env=project.environment(**environment), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_for_port(port, server, 240)
            project.quee("run")
            there = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
            first, _ = project.start("quee", "track", **there).communicate(timeout=240)
            again, _ = project.start("quee", "track", **there).communicate(timeout=120)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        assert "4 results tracked, 0 tracked before" in first and "0 results tracked, 4 tracked before" in again
        assert objects(environment, "mlflow")
