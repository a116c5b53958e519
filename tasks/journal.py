"""The journal: one JSON file per execution of a stage in `.quee/journal/`: who ran what, when, where, with what."""

import json
import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from quee.io import write_bytes, write_json
from tasks.differences import snapshot

JOURNAL = Path(".quee") / "journal"
PACKAGES = ("quee", "numpy", "pyarrow", "scikit-learn", "scipy", "timm", "torch", "torchvision", "dvc", "prefect")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "QUEE_WORKERS")
"""Environment variables that say how many threads and processes compute; another number may give other last bits."""


def begin(experiment: str, stage: str, limit: int | None) -> dict[str, Any]:
    """What is known of an execution when it starts."""
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
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
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
    """Write down how it ended: `done`, `failed` or `interrupted`; `bytes` is the size of the result."""
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
    stamp = datetime.fromtimestamp(record["start"], UTC).strftime("%Y%m%dT%H%M%S.%f")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stamp}-{record['experiment']}-{record['stage']}-{os.getpid()}.json"
    write_json(folder / name, {**record, **ended, **failure, **size})


def summary_file(experiment: str) -> Path:
    """Script by which an experiment's report shows what each stage took."""
    return JOURNAL / f"{experiment}.js"


def summarise(root: Path, experiment: str, stages: list[str]) -> None:
    """Write the latest execution of each stage for the experiment's report to show."""
    rows = []
    for stage in stages:
        record = last(root, experiment, stage, status="done")
        if record is None:
            rows.append([stage, "not run here", "", "", "", "", ""])
            continue
        machine = record.get("machine", {})
        memory, size = (f"{record[key] / 1e6:,.1f}" if record.get(key) else "" for key in ("peak_bytes", "bytes"))
        commit = str(record.get("git_commit") or "")[:7]
        where = f"{machine.get('processor', '')}, {machine.get('cores', '?')} cores"
        rows.append([stage, f"{record['seconds']:,.1f}", memory, size, record.get("started", ""), commit, where])
    write_bytes(root / summary_file(experiment), f"queeStages({json.dumps(rows)});\n".encode())


def records(root: Path, since: float = 0.0) -> list[dict[str, Any]]:
    """The executions written down, oldest first, that started at or after `since` (seconds since 1970)."""
    floor = datetime.fromtimestamp(since, UTC).strftime("%Y%m%dT%H%M%S")
    found = []
    for file in sorted((root / JOURNAL).glob("*.json")):
        if file.name < floor:
            continue
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("start", 0.0) >= since:
            found.append(record)
    return found


def last(
    root: Path, experiment: str, stage: str, since: float = 0.0, status: str | None = None
) -> dict[str, Any] | None:
    """The latest execution of a stage, however it ended or with that `status`."""
    named = [r for r in records(root, since) if (r.get("experiment"), r.get("stage")) == (experiment, stage)]
    named = [r for r in named if status in (None, r.get("status"))]
    return named[-1] if named else None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
