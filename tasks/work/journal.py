"""The journal: one JSON file in `.quee/journal/` per execution of a stage, with time, machine, versions and commit."""

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quee.work.counts import counted
from quee.work.io import write_bytes, write_json
from quee.work.keys import ABSENT, LIBRARIES, versions
from quee.work.machine import cpu_name
from tasks.work.differences import snapshot

JOURNAL = Path(".quee") / "journal"
PACKAGES = ("quee", *LIBRARIES, "matplotlib", "onnx", "onnxruntime", "openvino", "dvc", "prefect")
"""Distributions whose versions are recorded: those that compute results, draw them, and run the stages."""
STAMP = "%Y%m%dT%H%M%S"
"""The start of a record's file name: when the execution began, so names sort by time."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "QUEE_WORKERS")
"""Environment variables that set the number of threads and processes, which may change last bits."""


def begin(experiment: str, stage: str, limit: int | None) -> dict[str, Any]:
    """The record of an execution that starts now."""
    code = snapshot(Path())
    record: dict[str, Any] = {
        "experiment": experiment,
        "stage": stage,
        "start": time.time(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]),
        "pid": os.getpid(),
        "user": os.environ.get("USER") or os.environ.get("LOGNAME"),
        "git_commit": code.commit if code else None,
        "git_patch": code.patch if code else None,
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "processor": cpu_name(),
            "cores": os.cpu_count(),
        },
        "versions": {"python": platform.python_version(), **_installed()},
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
    }
    if limit is not None:
        record["limit"] = limit
    if run := os.environ.get("QUEE_PREFECT_RUN"):
        record["prefect_run"] = run
    return record


def finish(
    folder: Path,
    record: dict[str, Any],
    status: str,
    *,
    exit_status: int = 0,
    error: str = "",
    bytes: int | None = None,
) -> None:
    """Write a record with its status, `done`, `failed` or `interrupted`; `bytes` is the size of the result."""
    end = time.time()
    if (torch := sys.modules.get("torch")) is not None:
        record["threads"]["torch"] = torch.get_num_threads()
        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            record["machine"]["gpus"] = ", ".join(torch.cuda.get_device_name(number) for number in range(count))
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = usage * (1 if sys.platform == "darwin" else 1024)
    ended = {"end": end, "seconds": round(end - record["start"], 3), "status": status, "peak_bytes": peak}
    failure = {"exit": exit_status, "error": error} if status != "done" else {}
    size = {} if bytes is None else {"bytes": bytes}
    stamp = datetime.fromtimestamp(record["start"], UTC).strftime(STAMP + ".%f")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stamp}-{record['experiment']}-{record['stage']}-{os.getpid()}.json"
    write_json(folder / name, {**record, **ended, **failure, **size})


def summary_file(experiment: str) -> Path:
    """Script through which an experiment's report shows the time of each stage."""
    return JOURNAL / f"{experiment}.js"


def summarise(root: Path, experiment: str, stages: list[str]) -> None:
    """Write the latest execution of each stage into the script of the experiment's report."""
    rows = []
    known = latest(root, [(experiment, stage) for stage in stages], status="done")
    for stage in stages:
        record = known.get((experiment, stage))
        if record is None:
            rows.append([stage, "not run here", "", "", "", "", ""])
            continue
        machine = record.get("machine", {})
        memory, size = (f"{record[key] / 1e6:,.1f}" if record.get(key) else "" for key in ("peak_bytes", "bytes"))
        commit = str(record.get("git_commit") or "")[:7]
        where = (
            f"{machine.get('processor', '')}, {counted(machine['cores'], 'core') if 'cores' in machine else '? cores'}"
        )
        rows.append([stage, f"{record['seconds']:,.1f}", memory, size, record.get("started", ""), commit, where])
    write_bytes(root / summary_file(experiment), f"queeStages({json.dumps(rows)});\n".encode())


def records(root: Path) -> Iterator[dict[str, Any]]:
    """All recorded executions, latest first; each file is read when the iterator reaches it."""
    return (record for file in _files(root) if (record := _read(file)))


def latest(
    root: Path, wanted: Iterable[tuple[str, str]], since: float = 0.0, status: str | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    """By (experiment, stage) the latest execution that started at or after `since` (seconds since 1970), with any
    status or the given one. The folder is listed once, and only records of wanted stages are read."""
    floor = datetime.fromtimestamp(since, UTC).strftime(STAMP)
    missing = set(wanted)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in _files(root):
        if not missing or file.name < floor:
            break
        if _stage_of(file) not in missing or not (record := _read(file)):
            continue
        key = (str(record.get("experiment")), str(record.get("stage")))
        if key in missing and record.get("start", 0.0) >= since and status in (None, record.get("status")):
            found[key] = record
            missing.remove(key)
    return found


def last(
    root: Path, experiment: str, stage: str, since: float = 0.0, status: str | None = None
) -> dict[str, Any] | None:
    """The latest execution of a stage, as `latest` finds it."""
    return latest(root, [(experiment, stage)], since, status).get((experiment, stage))


def _files(root: Path) -> list[Path]:
    """The records' files, latest first."""
    return sorted((root / JOURNAL).glob("*.json"), reverse=True)


def _stage_of(file: Path) -> tuple[str, str]:
    """(experiment, stage) by the name of a record's file: TIME-EXPERIMENT-STAGE-PROCESS.json."""
    parts = file.stem.split("-")
    return (parts[1], parts[2]) if len(parts) == 4 else ("", "")


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _installed() -> dict[str, str]:
    return {name: found for name, found in versions(PACKAGES).items() if found != ABSENT}
