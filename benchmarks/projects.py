"""Small projects for benchmarks, in folders of their own, and running their stages."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from quee.work.io import file_digest

ROOT = Path(__file__).resolve().parent.parent


def write_project(folder: Path, name: str, content: Mapping[str, Mapping[str, Any]], weights: str = "none") -> None:
    """A project with the one experiment `name` of these blocks, on this clone's code, images and weights.

    A project of an earlier call is used again, and its results are; the experiment's settings are written anew.
    """
    dataset = content["prepare"]["dataset"]
    (folder / "data" / "weights").mkdir(parents=True, exist_ok=True)
    (folder / "experiments").mkdir(exist_ok=True)
    linked = ["dvc.yaml", "quee", "tasks", f"data/{dataset}", f"data/weights/{weights}.safetensors"]
    for link in linked:
        if (ROOT / link).exists() and not (folder / link).is_symlink():
            (folder / link).symlink_to(ROOT / link)
    entry = {"data": f"data/{dataset}", "weights": f"data/weights/{weights}.safetensors"}
    (folder / "params.yaml").write_text(yaml.safe_dump({"experiments": {name: entry}}))
    (folder / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(dict(content)))


def run_stage(stage: str, folder: Path, name: str) -> dict[str, Any]:
    """Seconds, CPU seconds, largest resident memory and digests of the files of a stage run in a process of its own.

    Memory and CPU time are those of the stage's process and of its workers; `peak_gb` is the largest sum at one time.
    """
    began, largest, used = time.perf_counter(), 0, dict[int, float]()
    process = subprocess.Popen([sys.executable, "-m", f"tasks.{stage}", name, "--debug"], cwd=folder)
    while process.poll() is None:
        family = _family(process.pid)
        largest = max(largest, sum(_resident(one) for one in family))
        used |= {one: _cpu_seconds(one) for one in family}
        time.sleep(0.2)
    seconds = time.perf_counter() - began
    out = folder / "artifacts" / name / stage
    files = {file.name: file_digest(file)[:16] for file in sorted(out.iterdir())} if out.is_dir() else {}
    return {
        "stage": stage,
        "status": process.returncode,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(used.values()), 1),
        "peak_gb": round(largest / 1e9, 2),
        "files": files,
    }


def run_stages(stages: Sequence[str], folder: Path, name: str) -> list[dict[str, Any]]:
    """Run the stages that have no result yet, in order; raises RuntimeError where one fails."""
    found = []
    for stage in stages:
        if (folder / "artifacts" / name / stage).is_dir():
            continue
        found.append(run_stage(stage, folder, name))
        if found[-1]["status"]:
            raise RuntimeError(f"stage {stage} of {name} failed; its output stands above")
        facts = {key: found[-1][key] for key in ("stage", "seconds", "cpu_seconds", "peak_gb")}
        print(*(f"{key} {value}" for key, value in facts.items()), flush=True)
    return found


def _family(process: int) -> list[int]:
    """A process and all that descend from it."""
    found = [process]
    for one in found:
        try:
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def _resident(process: int) -> int:
    """Bytes that a process has resident; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def _cpu_seconds(process: int) -> float:
    """User and system time of a process; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100
