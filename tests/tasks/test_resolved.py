"""Stages run with the resolved settings, and report a YAML that has changed since."""

import json
from pathlib import Path

import pytest
from toy_project import Project, experiment

from quee.errors import IntegrityError, UsageError
from quee.settings.experiment import load_experiment
from tasks.resolved import as_text, changed_since, differences, settings_file, stage_settings
from tasks.stage import Stage, run_stage

ARTIFACTS = Path("artifacts/toy")


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    return project


def resolve(project: Project) -> None:
    project.write(settings_file("toy"), as_text(load_experiment("toy")))


def test_without_the_file_the_yaml_counts(here: Project) -> None:
    assert stage_settings("toy", ARTIFACTS) == load_experiment("toy")
    assert changed_since("toy", ARTIFACTS) is None
    with pytest.raises(UsageError, match="unknown experiment 'tow'"):
        stage_settings("tow", Path("artifacts/tow"))


def test_the_file_counts_and_a_change_since_is_said(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    resolve(here)
    here.write("experiments/toy.yaml", experiment(targets="{clusters: 30}"))
    seen = []

    def run(stage: Stage) -> None:
        seen.append(stage.experiment.targets.clusters)
        (stage.out / "value.txt").write_text("")

    run_stage("targets", run, "toy")
    assert seen == [20]
    assert "experiments/toy.yaml was changed since: targets.clusters" in capsys.readouterr().err
    resolve(here)
    run_stage("targets", run, "toy")
    assert seen == [20, 30]
    assert capsys.readouterr().err == ""


def test_a_yaml_that_became_wrong_stops_no_stage_at_work(here: Project) -> None:
    resolve(here)
    here.write("experiments/toy.yaml", experiment(targets="{clusters: many}"))
    assert stage_settings("toy", ARTIFACTS).targets.clusters == 20
    assert "targets.clusters" in str(changed_since("toy", ARTIFACTS))


def test_a_damaged_file_is_named(here: Project) -> None:
    here.write(settings_file("toy"), "{")
    with pytest.raises(IntegrityError, match=r"artifacts/toy/settings/settings\.json"):
        stage_settings("toy", ARTIFACTS)


def test_a_run_resolves_them_without_a_line_and_a_smoke_run_its_own(project: Project) -> None:
    assert "settings@toy" not in project.quee("run")
    file = settings_file("toy")
    assert json.loads(project.read(file))["exits"]["weight_decay"] == 1.0
    assert "settings@toy" in project.read("dvc.lock")
    project.write(file, "{}")
    project.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    assert "targets.clusters: 20 → 30" in project.quee("run")
    assert json.loads(project.read(file))["targets"]["clusters"] == 30
    project.quee("run", "--limit", "3")
    assert json.loads(project.read(".quee/smoke/toy-3/settings/settings.json")) == json.loads(project.read(file))


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": 1}, {"a": True}, [("a", 1, True)]),
        ({"a": [1, 2]}, {"a": [2, 1]}, [("a", [1, 2], [2, 1])]),
        ({"a": 1}, {"b": None, "c": 2}, [("a", 1, None), ("c", None, 2)]),
    ],
)
def test_differences_are_named_by_key(before: object, now: object, found: list[tuple[str, object, object]]) -> None:
    assert list(differences(before, now)) == found
