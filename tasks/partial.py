"""Resumable work in `.quee/partial/STAGE/DIGEST/`; DIGEST covers everything that decides the work.

That is everything that DVC compares for the stage, and the versions of the computing libraries. A finished result stays
when a library is updated, but unfinished work of one version is not continued under another.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from quee.errors import UsageError
from quee.work.keys import code, contents_below, key_of, versions
from tasks.dvc.dependencies import code_file, code_of
from tasks.dvc.experiments import paths_of
from tasks.resolved import settings_file, stage_settings

PARTIAL = Path(".quee") / "partial"
KEPT_SECONDS = 14 * 24 * 3600
"""Work of runs with other settings is removed when the stage succeeds, if it has not been touched for so long."""
WRITTEN_BY = "work/io.py"
"""The library's code for writing files, which no stage depends on."""


def stage_digest(stage: str, experiment: str, artifacts: Path, limit: int | None = None) -> str:
    """Digest of a stage's entry in `dvc.yaml` (its command, resolved blocks of settings, contents of its dependencies)
    and of the versions of the libraries that compute.

    `artifacts` is the folder with the other stages' results; a smoke run has its own.
    """
    entry = stage_entry(Path(), stage, experiment, paths_of(stage_settings(experiment, artifacts)))
    own = f"artifacts/{experiment}"
    deps = []
    for dep in entry.get("deps", []):
        path = artifacts / Path(dep).relative_to(own) if Path(dep).is_relative_to(own) else Path(dep)
        deps.append([dep, contents_below(path)])
    settings = _settings(entry, experiment, artifacts)
    return key_of(entry.get("cmd"), limit, settings, deps, code(WRITTEN_BY), versions())


def _settings(entry: dict[str, Any], experiment: str, artifacts: Path) -> list[list[Any]]:
    """The parameters of a stage by file and block, in the order of dvc.yaml."""
    from quee.settings.experiment import resolved

    found = []
    for params in entry.get("params", []):
        for file, blocks in params.items():
            if file == settings_file(experiment):
                content = resolved(stage_settings(experiment, artifacts))
            elif file == code_file(experiment):  # resolved now, because the file may be older
                content = code_of(Path(), stage_settings(experiment, artifacts).backbone.name)
            else:
                content = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
            found += [
                [file, block, json.dumps(content.get(block))] for block in (content if blocks is None else blocks)
            ]
    return found


def stage_entry(root: Path, stage: str, experiment: str, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A stage of `dvc.yaml` with the experiment's name and, if given, its paths filled in."""
    stages = (yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8")) or {}).get("stages", {})
    if stage not in stages:
        raise UsageError(f"dvc.yaml has no stage {stage!r}; it has {', '.join(stages)}")
    text = json.dumps(stages[stage].get("do", stages[stage])).replace("${key}", experiment)
    for key, path in (paths or {}).items():
        text = text.replace(f"${{item.{key}}}", path)
    entry: dict[str, Any] = json.loads(text)
    return entry


def discard(folder: Path) -> None:
    """Remove a finished stage's resumable work, and old work of runs with other settings."""
    shutil.rmtree(folder, ignore_errors=True)
    for other in folder.parent.glob("*"):
        if time.time() - newest(other) > KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path) -> float:
    """Time of the last write in a folder at any depth, in seconds since 1970; the present time if it is being removed."""
    times = []
    for path in (folder, *folder.rglob("*")):
        try:
            times.append(path.lstat().st_mtime)
        except FileNotFoundError:  # another process removes it
            return time.time()
    return max(times)
