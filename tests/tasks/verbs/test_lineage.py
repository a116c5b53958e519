"""From a number back to its inputs, on the toy project with real git, DVC and MLflow."""

from dataclasses import asdict
from typing import Any

import pytest
from toy_project import Project

from quee.errors import IntegrityError, UsageError
from tasks.verbs.lineage import chain_of


def lineage(project: Project, name: str) -> dict[str, Any]:
    return asdict(chain_of(project.root, name))


def test_a_file_leads_to_its_run_and_the_run_to_everything_that_made_it(tracked: Project) -> None:
    head = tracked.do("git", "rev-parse", "HEAD").strip()
    found = lineage(tracked, str(tracked.root / "artifacts/toy/evaluate/metrics.json"))
    assert (found["stage"], found["commit"], found["dirty"]) == ("evaluate", head, True)
    stages, inputs, made = found["stages"], found["inputs"], found["made"]
    assert [stage["stage"] for stage in stages] == ["prepare", "targets"]
    assert set(inputs) == {
        "data/digits",
        "helpers",
        *(f"stages/{s}.py" for s in ("prepare", "targets", "evaluate")),
    }
    assert made["machine.cores"]
    assert made["versions.python"]
    assert stages[1]["settings"]["targets.clusters"] == "30"
    again = lineage(tracked, str(found["run"]))
    assert again == found
    text = tracked.quee("lineage", str(found["run"]))
    assert f"git {head} and uncommitted differences" in text


def test_what_has_no_lineage_is_refused(tracked: Project) -> None:
    file = tracked.root / "artifacts/toy/targets/metrics.json"
    right = file.read_text()
    file.write_text('{"parts": [1]}')
    with pytest.raises(IntegrityError, match="of no tracked result"):
        lineage(tracked, str(file))
    file.write_text(right)
    with pytest.raises(UsageError, match="neither an MLflow run id nor"):
        lineage(tracked, "0" * 31)
    with pytest.raises(UsageError, match="unknown MLflow run"):
        lineage(tracked, "0" * 32)
    with pytest.raises(UsageError, match="neither under artifacts"):
        lineage(tracked, str(tracked.root / "dvc.yaml"))
