"""Prefect's server and the deployments of prefect.yaml, on the loopback interface: `python -m flows.schedules`.

Two processes do the work, each under a keeper: the server, and this module again with `--serve`, which runs the deployments.
"""

import flows.quiet  # noqa: F401, I001  first: Prefect reads its settings when imported
import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from quee.errors import BusyError, QueeError
from quee.settings.text import read_text
from tasks.dvc.session import INTERRUPTED, LOGS
from tasks.work.lifeline import SUPERVISED, die_with_make, end_in_order, keep
from tasks.work.locks import exclusive
from tasks.work.place import ending, project_root, refuse_taken
from tasks.work.words import last_words

FLOW = "quee-pipeline"
PORT = 4200
START_SECONDS = 120.0
SERVE = "--serve"
MOST = 200
"""Flow runs that Prefect's server lists at a time."""


def main() -> None:
    """Start the server and the deployments, print their addresses, and end both on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m flows.schedules", description=main.__doc__)
    parser.add_argument(SERVE, action="store_true", help="only run the deployments, on the server of PREFECT_API_URL")
    options = parser.parse_args()
    try:
        with ending():
            if options.serve:
                serve_deployments()
            else:
                supervise(int(os.environ.get("QUEE_PREFECT_PORT", PORT)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def supervise(port: int) -> None:
    """Run until interrupted. Raises BusyError when the port is taken, QueeError when a part ends."""
    project_root()
    die_with_make()
    end_in_order()
    refuse_taken(port, "set QUEE_PREFECT_PORT to another")
    address = f"http://127.0.0.1:{port}"
    api = f"{address}/api"
    environment = {**os.environ, "PREFECT_API_URL": api, "PYTHONPATH": str(Path.cwd()), SUPERVISED: "1"}
    parts: list[Part] = []
    try:
        server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        parts.append(Part("server", server, environment))
        wait_for(f"{api}/health", parts[-1])
        parts.append(Part("runner", ["flows.schedules", SERVE], environment))
        print(f"Prefect is at {address}")
        for wanted in deployments():
            wait_for(f"{api}/deployments/name/{FLOW}/{wanted['name']}", parts[-1])
            crons = ", ".join(item["cron"] for item in wanted["schedules"])
            print(f"  {FLOW}/{wanted['name']}: {f'cron {crons} (UTC)' if crons else 'on demand'}")
        print("Now, with experiments of your choice:")
        parameters = "-p 'experiments=[\"digits\"]'"
        print(f"  PREFECT_API_URL={api} .venv/bin/prefect deployment run {FLOW}/on-demand {parameters}")
        print("Ctrl-C ends it", flush=True)
        while True:
            for part in parts:
                if part.ended:
                    raise QueeError(f"Prefect's {part.name} ended{part.said()}")
            time.sleep(1)
    finally:
        for part in reversed(parts):
            part.kept.end()


class Part:
    """A module that runs in a process beside this one; what it prints goes to a log."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name, self.log = name, LOGS / f"prefect-{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self.kept = keep([sys.executable, "-m", *command], environment, output=output)

    @property
    def ended(self) -> bool:
        return self.kept.process.poll() is not None

    def said(self) -> str:
        """Its exit status and last output, as text that follows its name in a message."""
        status, words = self.kept.process.poll(), last_words(self.log.read_text(encoding="utf-8", errors="replace"))
        return f"{'' if status is None else f' with status {status}'}{f': {words}' if words else ''}\nlog: {self.log}"


def wait_for(address: str, part: Part) -> None:
    """Wait until the server answers at an address; raises QueeError when the part ends before or time runs out."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if part.ended:
                raise QueeError(f"Prefect's {part.name} ended before it answered{part.said()}") from None
            time.sleep(0.5)
    raise QueeError(f"Prefect's {part.name} did not answer at {address} within {START_SECONDS:.0f} s{part.said()}")


def deployments() -> list[dict[str, Any]]:
    """The deployments that prefect.yaml lists."""
    content = yaml.safe_load(read_text(Path("prefect.yaml")))
    return list(content["deployments"])


def serve_deployments() -> None:
    """Make the deployments and run scheduled flows, one at a time, until this process is ended."""
    from prefect import serve
    from prefect.schedules import Cron

    from flows.pipeline import quee_pipeline

    reconcile()
    made: list[Any] = [
        quee_pipeline.to_deployment(
            wanted["name"],
            schedules=[Cron(item["cron"], item["timezone"]) for item in wanted["schedules"]],
            parameters=wanted["parameters"],
            description=wanted["description"],
        )
        for wanted in deployments()
    ]
    serve(*made, pause_on_shutdown=False, print_starting_message=False, limit=1)


def reconcile() -> None:
    """Mark runs that a killed process left "Running" as crashed, unless a run holds this checkout."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    newest = FlowRunSort.EXPECTED_START_TIME_DESC
    flow = FlowFilter.model_validate({"name": {"any_": [FLOW]}})
    left = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}})
    try:
        with exclusive("run", "this checkout", wait=False), get_client(sync_client=True) as client:
            for run in client.read_flow_runs(flow_filter=flow, flow_run_filter=left, sort=newest, limit=MOST):
                message = "the process that ran it ended before it did"
                client.set_flow_run_state(run.id, Crashed(message=message), force=True)
                print(f"run {run.name} was left running: marked as crashed", flush=True)
    except BusyError as error:
        print(f"{error}; runs that are marked as running stay as they are", flush=True)


if __name__ == "__main__":
    main()
