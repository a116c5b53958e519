"""Prefect's server, a worker and the deployments of prefect.yaml on the loopback interface: `python -m flows.schedules`."""

import flows.quiet  # noqa: F401, I001  first: Prefect reads its settings when imported
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from quee.errors import BusyError, QueeError
from tasks.dvc.session import INTERRUPTED, LOGS
from tasks.work.lifeline import SUPERVISED, die_with_make, end_in_order, keep
from tasks.work.locks import exclusive
from tasks.work.place import project_root
from tasks.work.words import last_words

POOL = "quee"
FLOW = "quee-pipeline"
PORT = 4200
START_SECONDS = 120.0
CHILD = "flows._prefect_child"


def main() -> None:
    """Start them, tell where they are, and end them with Ctrl-C."""
    try:
        port = int(os.environ.get("QUEE_PREFECT_PORT", PORT))
        serve(port)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except QueeError as error:
        print(f"quee: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def serve(port: int) -> None:
    """Run until interrupted. Raises BusyError when the port is taken, QueeError when a part ends."""
    project_root()
    die_with_make()
    end_in_order()
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
    parts: dict[str, Part] = {}
    try:
        parts["server"] = Part("server", ["server", "start", "--host", "127.0.0.1", "--port", str(port)], environment)
        wait_for(api, parts["server"])
        do(["work-pool", "create", POOL, "--type", "process", "--overwrite"], environment)
        do(["work-pool", "set-concurrency-limit", POOL, "1"], environment)
        deployed = deploy(api, environment)
        reconcile(api)
        parts["worker"] = Part("worker", ["worker", "start", "--pool", POOL, "--limit", "1"], environment)
        print(f"Prefect is at http://127.0.0.1:{port}")
        for name, when in deployed.items():
            print(f"  {FLOW}/{name}: {when}")
        print("Now, with experiments of your choice:")
        parameters = "-p 'experiments=[\"digits\"]'"
        print(f"  PREFECT_API_URL={api} .venv/bin/prefect deployment run {FLOW}/on-demand {parameters}")
        print("Ctrl-C ends it", flush=True)
        while True:
            for part in parts.values():
                if part.ended:
                    raise QueeError(f"Prefect's {part.name} ended{part.said()}")
            time.sleep(1)
    finally:
        for part in reversed(parts.values()):
            part.kept.end()


class Part:
    """A process of Prefect's that runs beside this one; what it prints goes to a log."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.name, self.log = name, LOGS / f"prefect-{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self.kept = keep([sys.executable, "-m", CHILD, *arguments], environment, output=output)

    @property
    def ended(self) -> bool:
        return self.kept.process.poll() is not None

    def said(self) -> str:
        """How it ended and its last words, to be put behind its name."""
        status, words = self.kept.process.poll(), last_words(self.log.read_text(encoding="utf-8", errors="replace"))
        return f"{'' if status is None else f' with status {status}'}{f': {words}' if words else ''}\nlog: {self.log}"


def do(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", CHILD, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QueeError(f"prefect {' '.join(arguments)} failed: {last_words(done.stderr) or last_words(done.stdout)}")


def deploy(api: str, environment: dict[str, str]) -> dict[str, str]:
    """Deploy what prefect.yaml lists, one by one; when each runs, by name.

    Prefect 3.8 may fail after it has made a deployment, asking for workers: what counts is that it is there.
    """
    content = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))
    found = {}
    for wanted in content["deployments"]:
        name, failure = wanted["name"], None
        try:
            do(["--no-prompt", "deploy", "--name", name], environment)
        except QueeError as error:
            failure = error
        made = ask(api, f"deployments/name/{FLOW}/{name}")
        crons = [item["cron"] for item in wanted.get("schedules", [])]
        if made is None or sorted(item["schedule"]["cron"] for item in made["schedules"]) != sorted(crons):
            raise failure or QueeError(f"deployment {FLOW}/{name} was not made as prefect.yaml says")
        found[name] = f"cron {', '.join(crons)} (UTC)" if crons else "on demand"
    return found


def reconcile(api: str) -> None:
    """Mark as crashed what a killed worker left "Running": nobody runs it, and it would hold the only place."""
    try:
        with exclusive("run", "this checkout", wait=False):
            left = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
            query = {"flow_runs": left, "work_pools": {"name": {"any_": [POOL]}}}
            for run in ask(api, "flow_runs/filter", query) or []:
                state = {"type": "CRASHED", "name": "Crashed", "message": "its worker ended before it did"}
                ask(api, f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
                print(f"run {run['name']} was left running by a worker that ended: marked as crashed")
    except BusyError as error:
        print(f"{error}; runs left by a worker that ended stay as they are")


def ask(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The server's answer to a GET, or to a POST of `body`; None where it has none to give."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return None


def wait_for(api: str, server: Part) -> None:
    """Wait for the server's answer; raises QueeError with its last words when it ends or gives none in time."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if server.ended:
                raise QueeError(f"Prefect's server ended before it answered{server.said()}") from None
            time.sleep(0.5)
    raise QueeError(f"Prefect's server did not answer at {api} within {START_SECONDS:.0f} s{server.said()}")


if __name__ == "__main__":
    main()
