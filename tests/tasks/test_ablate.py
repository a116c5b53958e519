"""`quee ablate` on the toy project: a stage outside of the pipeline with the same locks and healing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_project import ROOT, Project

from tasks import ablate

DVC_YAML = """
vars: [../params.yaml]
stages:
  ablate:
    foreach: ${experiments}
    do:
      wdir: ..
      cmd: python -m stages.ablate ${key}
      params:
        - artifacts/${key}/settings/settings.json:
            - ablate
      deps: [stages/ablate.py, helpers, "artifacts/${key}/features"]
      outs: ["artifacts/${key}/ablate"]
"""

STAGE = """
from quee.work.io import write_json
from tasks.stage import Stage, main

def run(stage: Stage) -> None:
    points = {"base/as configured": {"auc": 0.9, "validation_auc": 0.9}}
    gain = {"mean": -0.02, "low": -0.025, "high": -0.015, "joint_low": -0.03, "joint_high": -0.01}
    gain = {f"gain.{name}": value for name, value in gain.items()}
    points["clusters/K = 5"] = {"auc": 0.88, "validation_auc": 0.91, **gain}
    rest = {"repetitions": stage.experiment.ablate.seeds, "rows": 1, "test_samples": 9}
    rest["detectable"] = {"median": 0.01, "power": 0.8}
    write_json(stage.out / "metrics.json", {"experiment": stage.experiment.name, "points": points, **rest})

if __name__ == "__main__":
    main(run)
"""


@pytest.fixture
def ablated(project: Project) -> Project:
    project.write("ablations/dvc.yaml", DVC_YAML)
    project.write("stages/ablate.py", STAGE)
    project.write("experiments/toy.yaml", project.read("experiments/toy.yaml") + "ablate: {seeds: 4}\n")
    project.write("artifacts/toy/features/tree.json", "{}")
    return project


@pytest.mark.slow
def test_the_pipeline_leaves_ablations_alone(ablated: Project) -> None:
    for command in (("quee", "run"), ("quee", "plan"), ("dvc", "repro")):
        assert "ablate" not in ablated.do(*command)
    assert not (ablated.root / "artifacts" / "toy" / "ablate").exists()


def test_an_ablation_runs_once_and_its_table_is_shown(ablated: Project) -> None:
    shown = ablated.quee("ablate", "toy")
    assert "ablate@toy: ran" in shown
    assert "-2.00*" in shown
    assert "[-3.00, -1.00]" in shown
    again = ablated.quee("ablate", "toy", "--json")
    assert "ablate@toy: unchanged" in again
    assert json.loads(again[again.index("{") :])["toy"]["repetitions"] == 4
    assert "| clusters | K = 5 | 88.00 | **-2.00** |" in ablated.quee("ablate", "toy", "--markdown")
    ablated.edit("experiments/toy.yaml", "seeds: 4", "seeds: 5")
    assert "ablate@toy: ran" in ablated.quee("ablate", "toy")


@pytest.mark.slow
def test_a_damaged_record_of_ablations_stops_nothing(ablated: Project) -> None:
    ablated.quee("ablate", "toy")
    ablated.write("ablations/dvc.lock", "")
    assert "ablations/dvc.lock was damaged" in ablated.quee("plan")
    assert "ablate@toy: " in ablated.quee("ablate", "toy")


def test_without_features_the_way_to_them_is_named(ablated: Project, told: Callable[..., str]) -> None:
    (ablated.root / "artifacts/toy/features/tree.json").unlink()
    (ablated.root / "artifacts/toy/features").rmdir()
    said = told("ablate", "toy", status=4)
    assert "artifacts/toy/features; `quee run toy` makes it" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{heads: [int8]}", "ablate.heads.0: Input should be 'mixed' or 'float'"),
        ("{seeds: 2}", "ablate.seeds"),
        ("{cluster: [3]}", "unknown key 'cluster'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(ablated: Project, told: Callable[..., str], text: str, said: str) -> None:
    ablated.edit("experiments/toy.yaml", "{seeds: 4}", text)
    assert said in told("ablate", "toy", status=2)


def test_points_computed_by_other_libraries_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree.json").write_text("{}")
    before = ablate.source(ROOT, tmp_path)
    assert ablate.source(ROOT, tmp_path) == before
    known = ablate.versions()
    monkeypatch.setattr(ablate, "versions", lambda: {**known, "scikit-learn": "0.0.1"})
    assert ablate.source(ROOT, tmp_path) != before
