"""A Dask cluster of separate processes and an S3-compatible server, on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def slow_square(log: str, number: int, seconds: float) -> bytes:
    """Work for a worker; records in `log` which worker does it."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {number}\n")
    time.sleep(seconds)
    return b"%d" % number**2


@dataclass
class Cluster:
    """A scheduler and workers of one thread each, which nothing restarts."""

    address: str
    folder: Path
    environment: dict[str, str]
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def add_worker(self) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny"]
        command += ["--no-dashboard", "--local-directory", str(self.folder)]
        self.workers.append(self._start(*command))

    def _start(self, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "dask.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)


@contextlib.contextmanager
def dask_cluster(workers: int, folder: Path, code: Path = ROOT, **environment: str) -> Iterator[Cluster]:
    """A cluster whose workers run the code under `code` and start outside of the project."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(map(str, (code, ROOT / "tests" / "support")))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    port = free_port()
    cluster = Cluster(f"tcp://127.0.0.1:{port}", folder, env)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    scheduler = cluster._start(*command, "--no-dashboard", "--no-show")
    try:
        for _ in range(workers):
            cluster.add_worker()
        wait_for_port(port, scheduler)
        yield cluster
    finally:
        for process in (*cluster.workers, scheduler):
            process.kill()
            process.wait()


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str = "quee") -> Iterator[dict[str, str]]:
    """An S3-compatible server with an empty bucket; yields the environment variables for clients."""
    port = free_port()
    found = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with (folder / "s3.log").open("ab") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for_port(port, server)
        import boto3

        boto3.client(
            "s3",
            endpoint_url=found["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        ).create_bucket(Bucket=bucket)
        yield found
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"{process.args} ended"
        assert time.monotonic() < end, f"{process.args} does not answer"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
