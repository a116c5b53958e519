"""Prefect's server, a worker and the nightly deployment on the loopback interface: `python -m flows.schedules`."""

import flows.quiet  # noqa: F401, I001  first: Prefect reads its settings when imported
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from quee.errors import BusyError, QueeError
from tasks.lifeline import SUPERVISED

POOL = "quee"
DEPLOYMENT = "quee-pipeline/nightly"
PORT = 4200
START_SECONDS = 120.0


def main() -> None:
    """Start the three, tell where they are, and end them with Ctrl-C."""
    try:
        port = int(os.environ.get("QUEE_PREFECT_PORT", PORT))
        serve(port)
    except KeyboardInterrupt:
        pass
    except QueeError as error:
        print(f"quee: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def serve(port: int) -> None:
    """Run until interrupted. Raises BusyError when the port is taken, QueeError when a part ends."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BusyError(f"port {port} is not free ({error.strerror}); set QUEE_PREFECT_PORT to another") from None
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PREFECT_API_URL": api,
        "PYTHONPATH": str(Path.cwd()),
        "QUEE_CHECKOUT": str(Path.cwd()),
        SUPERVISED: "1",
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parts: dict[str, subprocess.Popen[bytes]] = {}
    try:
        parts["server"] = start(["server", "start", "--host", "127.0.0.1", "--port", str(port)], environment)
        wait_for(api, parts["server"])
        do(["work-pool", "create", POOL, "--type", "process", "--overwrite"], environment)
        deploy(api, environment)
        parts["worker"] = start(["worker", "start", "--pool", POOL, "--limit", "1"], environment)
        print(f"Prefect is at http://127.0.0.1:{port}; deployment quee-pipeline/nightly runs at 02:30 UTC. Now:")
        print(f"  PREFECT_API_URL={api} .venv/bin/prefect deployment run quee-pipeline/nightly")
        print("Ctrl-C ends it", flush=True)
        while True:
            for name, part in parts.items():
                if (status := part.poll()) is not None:
                    raise QueeError(f"Prefect's {name} ended with status {status}")
            time.sleep(1)
    finally:
        for part in reversed(parts.values()):
            end(part)


def start(arguments: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "flows._prefect_child", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def do(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flows._prefect_child", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QueeError(f"prefect {' '.join(arguments)} failed: {' '.join((done.stderr or done.stdout).split())}")


def deploy(api: str, environment: dict[str, str]) -> None:
    """Deploy what prefect.yaml lists. Prefect 3.8 creates it, then fails asking for workers: let be."""
    try:
        do(["--no-prompt", "deploy", "--all"], environment)
    except QueeError as error:
        try:
            with urllib.request.urlopen(f"{api}/deployments/name/{DEPLOYMENT}", timeout=10) as answer:
                created = json.load(answer)
        except (urllib.error.URLError, OSError):
            raise error from None
        if not created.get("schedules"):
            raise


def wait_for(api: str, server: "subprocess.Popen[bytes]") -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise QueeError(f"Prefect's server did not answer at {api} within {START_SECONDS:.0f} s")


def end(part: "subprocess.Popen[bytes]") -> None:
    part.terminate()
    try:
        part.wait(20)
    except subprocess.TimeoutExpired:
        part.kill()
        part.wait()


if __name__ == "__main__":
    main()
