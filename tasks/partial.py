"""Resumable work: `.quee/partial/STAGE/DIGEST/`, where DIGEST covers everything that decides the work.

That is what DVC looks at for the stage, and beside it the versions of the libraries that compute: a result that is whole
stays when a library is updated, but what was begun under one version is not gone on with under another.
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
"""Work left by runs with other settings is removed when untouched for so long and the stage succeeds."""
WRITTEN_BY = "work/io.py"
"""Code of the library by which all stages write files; no stage depends on it."""


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
            elif file == code_file(experiment):  # as it is now, whatever the file says
                content = code_of(Path(), stage_settings(experiment, artifacts).backbone.name)
            else:
                content = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
            found += [
                [file, block, json.dumps(content.get(block))] for block in (content if blocks is None else blocks)
            ]
    return found


def stage_entry(root: Path, stage: str, experiment: str, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A stage of `dvc.yaml` with the experiment's name filled in, and its paths where they are given."""
    stages = (yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8")) or {}).get("stages", {})
    if stage not in stages:
        raise UsageError(f"dvc.yaml has no stage {stage!r}; it has {', '.join(stages)}")
    text = json.dumps(stages[stage].get("do", stages[stage])).replace("${key}", experiment)
    for key, path in (paths or {}).items():
        text = text.replace(f"${{item.{key}}}", path)
    entry: dict[str, Any] = json.loads(text)
    return entry


def discard(folder: Path) -> None:
    """Remove a finished stage's resumable work, and what runs with other settings left long ago."""
    shutil.rmtree(folder, ignore_errors=True)
    for other in folder.parent.glob("*"):
        if time.time() - newest(other) > KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path) -> float:
    """When anything in a folder, at whatever depth, was last written (seconds since 1970); now where it is just going."""
    times = []
    for path in (folder, *folder.rglob("*")):
        try:
            times.append(path.lstat().st_mtime)
        except FileNotFoundError:  # another process at work
            return time.time()
    return max(times)
