"""Published results in `reference/EXPERIMENT/`: small enough for the embedded remote, so a fresh clone has them.

`python -m tasks.verbs.reference EXPERIMENT` publishes what is in `artifacts/`; `quee results --reference` shows it anywhere.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml

from quee.errors import IntegrityError, QueeError, UsageError
from quee.work.io import write_bytes, write_json
from tasks.dvc.inputs import pull
from tasks.dvc.lock import chosen, default_experiments, out_problem, read_lock
from tasks.dvc.process import run_dvc
from tasks.stages import STAGES
from tasks.verbs.data import track
from tasks.work import journal
from tasks.work.locks import exclusive
from tasks.work.place import ending

FOLDER = Path("reference")
POINTER = Path("reference.dvc")
MOST_BYTES = 13_000_000
"""Largest size of all published results together."""


def publish(root: Path, experiment: str) -> Path:
    """Copy an experiment's small results and what made them to `reference/EXPERIMENT`, whole or not at all.

    Raises IntegrityError when a result in `dvc.lock` is not the one on disk.
    """
    result = chosen(read_lock(root), [experiment])[experiment]
    for made in result.stages.values():
        if reason := out_problem(root, made):
            raise IntegrityError(f"{made.name}: {reason}; `quee run {experiment}` brings it up to date")
    target = root / FOLDER / experiment
    aside = target.with_name(f".{experiment}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    file = root / "experiments" / f"{experiment}.yaml"
    mode = ((yaml.safe_load(file.read_bytes()) or {}).get("backbone") or {}).get("mode")
    for stage in result.stages:
        folder = root / "artifacts" / experiment / stage
        skipped = shutil.ignore_patterns(*STAGES[stage].unpublished, *_weights(root, experiment, mode, stage))
        shutil.copytree(folder, aside / stage, ignore=skipped)
        if not any((aside / stage).iterdir()):
            (aside / stage).rmdir()
    shutil.copy(file, aside / "experiment.yaml")
    entries = {f"{name}@{experiment}": stage.entry for name, stage in result.stages.items()}
    lock = yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=True)
    write_bytes(aside / "dvc.lock", lock.encode())
    records = {stage: journal.last(root, experiment, stage, status="done") for stage in result.stages}
    write_json(aside / "made.json", {stage: _made(record) for stage, record in records.items() if record})
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    return target


def _weights(root: Path, experiment: str, mode: str | None, stage: str) -> tuple[str, ...]:
    """Patterns of weights that are not published: those that `make repro` makes in minutes, and the network of others."""
    if experiment in default_experiments(root):
        return ("*.safetensors",)
    return ("model.safetensors",) if stage == "backbone" and mode == "pretrained" else ()


def _made(record: dict[str, Any]) -> dict[str, Any]:
    """The public part of a journal record: no names of machines or people."""
    machine = {key: record["machine"].get(key) for key in ("cores", "processor")}
    return {"machine": machine, **{key: record.get(key) for key in ("git_commit", "seconds", "started", "versions")}}


def published(root: Path) -> list[str]:
    """The experiments in `reference/`."""
    return sorted(file.parents[1].name for file in (root / FOLDER).glob("[!.]*/evaluate/metrics.json"))


def fetch(root: Path) -> None:
    """Pull `reference/` where it is tracked but missing; raises IntegrityError where the pull fails."""
    if published(root) or not (root / POINTER).is_file():
        return
    pull(root, POINTER, Path(FOLDER))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.verbs.reference", description=publish.__doc__)
    parser.add_argument("experiment")
    options = parser.parse_args()
    with ending():
        root = Path.cwd()
        fetch(root)
        with exclusive("reference", "reference/"):
            if (root / POINTER).is_file() and run_dvc(root, "status", "-q", str(POINTER)).status:
                raise UsageError(f"{FOLDER}/ is not what {POINTER} says; `dvc pull -f {POINTER}` brings it")
            target = publish(root, options.experiment)
            size = sum(file.stat().st_size for file in (root / FOLDER).rglob("*") if file.is_file())
            if size > MOST_BYTES:
                raise UsageError(f"{FOLDER}/ has {size:,} bytes; the embedded remote takes {MOST_BYTES:,} in all")
            track(FOLDER)
            done = run_dvc(root, "push", str(POINTER))
            if done.status:
                raise QueeError(f"{FOLDER}/ was not pushed: {done.reason}")
    print(f"published {target.relative_to(root)}: {size:,} bytes in {FOLDER}/; commit {POINTER} and remote/")


if __name__ == "__main__":
    main()
