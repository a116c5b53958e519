"""Resumable work: `.quee/partial/STAGE/DIGEST/`, where DIGEST covers exactly what DVC would look at for the stage."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from quee.errors import UsageError

PARTIAL = Path(".quee") / "partial"
KEPT_SECONDS = 14 * 24 * 3600
"""Work left by runs with other settings is removed when untouched for so long and the stage succeeds."""


def stage_digest(stage: str, experiment: str, artifacts: Path, limit: int | None = None) -> str:
    """SHA-256 over the stage's entry in `dvc.yaml`: its command, blocks of settings and dependencies' contents.

    `artifacts` is the folder with the other stages' results; a smoke run has its own.
    """
    entry = stage_entry(Path(), stage, experiment)
    digest = hashlib.sha256(json.dumps([entry.get("cmd"), limit]).encode())
    for params in entry.get("params", []):
        for file, blocks in params.items():
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
            chosen = {block: content.get(block) for block in blocks}
            digest.update(json.dumps([file, chosen], sort_keys=True).encode())
    own = f"artifacts/{experiment}"
    for dep in entry.get("deps", []):
        path = artifacts / Path(dep).relative_to(own) if Path(dep).is_relative_to(own) else Path(dep)
        digest.update(dep.encode())
        for file in _files(path):
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").digest()
            digest.update(file.relative_to(path).as_posix().encode() + content)
    return digest.hexdigest()[:32]


def stage_entry(root: Path, stage: str, experiment: str) -> dict[str, Any]:
    """A stage of `dvc.yaml` with the experiment's name filled in."""
    stages = (yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8")) or {}).get("stages", {})
    if stage not in stages:
        raise UsageError(f"dvc.yaml has no stage {stage!r}; it has {', '.join(stages)}")
    text = json.dumps(stages[stage]).replace("${item.experiment}", experiment)
    entry: dict[str, Any] = json.loads(text)
    return entry


def discard(folder: Path) -> None:
    """Remove a finished stage's resumable work, and what runs with other settings left long ago."""
    shutil.rmtree(folder, ignore_errors=True)
    for other in folder.parent.glob("*"):
        if time.time() - other.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (Path(where) / name for where, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if "__pycache__" not in file.parts)
