"""What can be removed and what must stay, on the toy project with real DVC and MLflow; disk space before the heavy stage."""

import json
import shutil
from pathlib import Path

import psutil
import pytest
from toy_project import Project, experiment

from quee.errors import BusyError, QueeError
from quee.paths import PathTree
from quee.precision import Precision
from quee.settings.experiment import parse_experiment
from quee.trees.settled import Settled
from tasks.dvc.lock import dvc_digest
from tasks.mlflow.memory import Memory
from tasks.mlflow.tracking import track
from tasks.stage import Stage
from tasks.verbs.waste import smoke_waste, waste
from tasks.work import space
from tasks.work.locks import exclusive


def places(project: Project, remove: bool = False) -> dict[str, int]:
    with waste(project.root) as found:
        if remove:
            for place in found:
                place.remove()
        return {place.place: place.count for place in found}


def test_what_a_failed_measurement_left_goes_with_the_smoke_runs(tmp_path: Path) -> None:
    for name in (".quee/smoke/toy-20", ".quee/rehearsal/toy-64"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    found = smoke_waste(tmp_path)
    assert (found.count, found.bytes) == (2, 2)


def test_a_run_is_not_waited_for_where_that_is_not_wanted(tmp_path: Path) -> None:
    held = exclusive("run", "this checkout", root=tmp_path)
    with held, pytest.raises(BusyError, match="this checkout is busy"), waste(tmp_path, wait=False):
        pass


def cached(project: Project) -> set[str]:
    return {file.name for file in (project.root / ".dvc/cache/files/md5").rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_what_no_current_or_tracked_result_needs_goes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    project.quee("run")
    track(project.root)
    folder = project.root / "artifacts/toy/settings"  # every result records its settings itself
    first = cached(project) - {dvc_digest(path)[2:] for path in (folder, folder / "settings.json")}
    assert places(project) == {"DVC's cache": 0, "unfinished work": 0, "smoke runs": 0, "MLflow": 0}
    project.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    project.quee("run")  # never tracked
    second = cached(project)
    project.edit("experiments/toy.yaml", "clusters: 30", "clusters: 40")
    project.quee("run")
    track(project.root)
    third = cached(project)
    (project.root / ".quee/partial/targets/0123").mkdir(parents=True)
    (project.root / ".quee/partial/targets/0123/0.json").write_text("0")
    (project.root / "mlruns/quee-stages" / ("a" * 32) / "artifacts").mkdir(parents=True)
    client = Memory(project.root).client
    run = next(run for run in client.search_runs(["1"]) if run.data.tags["quee.kind"] == "stage")
    model = client.create_logged_model("1", "cut-short", run.info.run_id)
    client.delete_logged_model(model.model_id)
    cut_short = client.create_run("1")
    client.log_text(cut_short.info.run_id, "half", "half.txt")

    found = places(project)
    assert found["unfinished work"] == 1
    assert found["MLflow"] == 2  # the run cut short, the folder that belongs to none
    assert "MB can go" in project.quee("gc")
    assert cached(project) == third
    assert json.loads(project.quee("gc", "--yes", "--json"))["bytes"] > 0
    left = cached(project)
    assert first <= left
    assert not (second - first) & left
    assert third - second <= left
    assert places(project) == {"DVC's cache": 0, "unfinished work": 0, "smoke runs": 0, "MLflow": 0}
    assert not (project.root / "mlruns/quee-stages" / cut_short.info.run_id).exists()
    project.do("dvc", "status")
    assert "unchanged" in project.quee("run")
    assert track(project.root).known == 4
    shutil.rmtree(project.root / "artifacts")
    assert "restored" in project.quee("run")


def test_unfinished_work_that_a_run_would_go_on_with_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    run = project.start("quee", "run", TOY_SECONDS="1")
    while len(project.computed()) < 2:
        assert run.poll() is None
    behind = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    psutil.wait_procs(behind, timeout=30)  # they die with it, but not in the same instant
    assert places(project)["unfinished work"] == 0
    project.edit("helpers/helper.py", "OFFSET = 1", "OFFSET = 2")
    assert places(project)["unfinished work"] == 1


def features(root: Path, samples: int) -> Stage:
    for stage, name, content in (
        ("prepare", "dataset.json", {"classes": ["a"] * 10, "splits": {"train": 10, "test": samples}}),
        ("backbone", "backbone.json", {"gates": [2, 4, 6, 8]}),
    ):
        (root / stage).mkdir(exist_ok=True)
        (root / stage / name).write_text(json.dumps(content))
    toy = parse_experiment("toy", experiment(), "toy.yaml")
    (root / "tree").mkdir(exist_ok=True)
    Settled(PathTree(["w3a3", "w4a4", "w8a8"], 4), (Precision("fp32"),), (2, 4, 6, 8)).write(root / "tree")
    return Stage("features", toy, root, root)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    stage = features(tmp_path, 100)
    size, how = space.features_bytes(stage)
    # 3 precisions over 4 segments and fp32 beside; ten classes and, of digits' kind, twelve features
    assert size == 100 * 124 * (29 + 2 * 10 + 4 * 12)
    assert how == "100 samples × 124 nodes × 97 bytes"
    space.check_space(stage)
    with pytest.raises(QueeError, match=r"needs about [\d.]+ GB on disk .* are free in .*quee gc"):
        space.check_space(features(tmp_path, 10**12))
