"""Published results: an archive per experiment in `reference/`, small enough for the embedded remote, so a fresh clone has
them.

`python -m tasks.verbs.reference EXPERIMENT` publishes what is in `artifacts/`; `quee results --reference` shows it anywhere.
"""

import argparse
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from quee.errors import IntegrityError, QueeError, UsageError
from quee.work.io import write_bytes, write_json
from tasks.dvc.inputs import pull
from tasks.dvc.lock import chosen, out_problem, read_lock
from tasks.dvc.process import run_dvc
from tasks.stages import STAGES
from tasks.verbs.data import track
from tasks.work import journal
from tasks.work.locks import exclusive
from tasks.work.place import ending
from tasks.work.published import ARCHIVES, POINTER, archive_of, pack, published, unpack

MOST_BYTES = 6_000_000
"""Largest size of all published results together."""


def publish(root: Path, experiment: str) -> Path:
    """Pack an experiment's small results and what made them into `reference/EXPERIMENT.tar.xz`, whole or not at all.

    Raises IntegrityError when a result in `dvc.lock` is not the one on disk.
    """
    result = chosen(read_lock(root), [experiment])[experiment]
    for made in result.stages.values():
        if reason := out_problem(root, made):
            raise IntegrityError(f"{made.name}: {reason}; `quee run {experiment}` brings it up to date")
    aside = root / ARCHIVES / f".{experiment}.aside"
    shutil.rmtree(aside, ignore_errors=True)
    for stage in result.stages:
        folder = root / "artifacts" / experiment / stage
        shutil.copytree(
            folder, aside / stage, ignore=shutil.ignore_patterns("*.safetensors", *STAGES[stage].unpublished)
        )
    shutil.copy(root / "experiments" / f"{experiment}.yaml", aside / "experiment.yaml")
    entries = {f"{name}@{experiment}": stage.entry for name, stage in result.stages.items()}
    lock = yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=True)
    write_bytes(aside / "dvc.lock", lock.encode())
    records = {stage: journal.last(root, experiment, stage, status="done") for stage in result.stages}
    write_json(aside / "made.json", {stage: _made(record) for stage, record in records.items() if record})
    archive = archive_of(root, experiment)
    pack(aside, archive)
    shutil.rmtree(aside)
    unpack(root)
    return archive


def _made(record: dict[str, Any]) -> dict[str, Any]:
    """The public part of a journal record: no names of machines or people."""
    machine = {key: record["machine"].get(key) for key in ("cores", "processor")}
    return {"machine": machine, **{key: record.get(key) for key in ("git_commit", "seconds", "started", "versions")}}


def available(root: Path) -> list[str]:
    """The experiments with published results, pulled where they are tracked but missing; empty where that fails."""
    with suppress(QueeError):
        _pull(root)
    return published(root)


def fetch(root: Path) -> None:
    """Pull `reference/` where it is tracked but missing, and unpack it; raises IntegrityError where that fails."""
    _pull(root)
    unpack(root)


def _pull(root: Path) -> None:
    if not published(root) and (root / POINTER).is_file():
        pull(root, POINTER, ARCHIVES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.verbs.reference", description=publish.__doc__)
    parser.add_argument("experiment")
    options = parser.parse_args()
    with ending():
        root = Path.cwd()
        fetch(root)
        with exclusive("reference", "reference/"):
            if (root / POINTER).is_file() and run_dvc(root, "status", "-q", str(POINTER)).status:
                raise UsageError(f"{ARCHIVES}/ is not what {POINTER} says; `dvc pull -f {POINTER}` brings it")
            target = publish(root, options.experiment)
            size = sum(file.stat().st_size for file in (root / ARCHIVES).rglob("*") if file.is_file())
            if size > MOST_BYTES:
                raise UsageError(f"{ARCHIVES}/ has {size:,} bytes; the embedded remote takes {MOST_BYTES:,} in all")
            track(ARCHIVES)
            done = run_dvc(root, "push", str(POINTER))
            if done.status:
                raise QueeError(f"{ARCHIVES}/ was not pushed: {done.reason}")
    print(f"published {target.relative_to(root)}: {size:,} bytes in {ARCHIVES}/; commit {POINTER} and remote/")


if __name__ == "__main__":
    main()
