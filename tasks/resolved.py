"""Settings as stages see them: `artifacts/EXPERIMENT/settings/settings.json`, every default filled in.

Stage `settings` writes the file from experiments/EXPERIMENT.yaml and the defaults in the code, and all other stages take
their parameters from it. So a changed default counts like a changed YAML, and `dvc.lock` records the values used.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee.errors import UsageError
from tasks.stages import SETTINGS

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment

NAME = "settings.json"


def settings_file(experiment: str) -> str:
    """The file's path from the project's folder, as dvc.yaml names it."""
    return f"artifacts/{experiment}/{SETTINGS}/{NAME}"


def as_text(experiment: "Experiment") -> str:
    """Content of the file. Keys keep the order of the schema and of the YAML, because the order of patterns matters."""
    from quee.settings.experiment import resolved

    return json.dumps(resolved(experiment), indent=1, ensure_ascii=False) + "\n"


def stage_settings(experiment: str, artifacts: Path) -> "Experiment":
    """The settings that stages of an experiment run with; `artifacts` is the folder with its results.

    The file is used even if the YAML has changed since, because DVC records the file. If the file is missing, as for a
    stage run by hand, the YAML is resolved now. Raises UsageError for a wrong name or settings.
    """
    from quee.settings.experiment import load_experiment, parse_resolved

    file = artifacts / SETTINGS / NAME
    if not file.is_file():
        return load_experiment(experiment)
    return parse_resolved(experiment, file.read_text(encoding="utf-8"), str(file))


def changed_since(experiment: str, artifacts: Path) -> str | None:
    """Short text on how the YAML differs from the settings that stages run with; None where it does not."""
    from quee.settings.experiment import load_experiment, resolved

    used = resolved(stage_settings(experiment, artifacts))
    try:
        now = resolved(load_experiment(experiment))
    except UsageError as error:
        return str(error)
    changed = [name for name, _, _ in differences(used, now)]
    return f"{', '.join(changed[:3])}{' …' if len(changed) > 3 else ''}" if changed else None


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every setting that differs; None stands for a missing one."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now or type(before) is not type(now):
        yield name, before, now
