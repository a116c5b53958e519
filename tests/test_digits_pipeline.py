"""The digits pipeline itself, in fresh clones with fewer epochs: kills, determinism, staleness, and MLflow's memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from loopback import dask_cluster, s3_server
from toy_project import ROOT, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
FASTER = {
    "draws: 8": "draws: 2",
    "resplits: 20": "resplits: 2",
    "bootstrap: 1000": "bootstrap: 100",
    "targets:\n": "targets:\n  sweep: [5, 20]\n",
}


def clone(target: Path) -> Project:
    """The working tree's tracked and trackable files as a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        source, copy = ROOT / name, target / name
        if os.path.lexists(source) and not name.startswith("data/fashion"):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    project = Project(target)
    for old, new in FASTER.items():
        project.edit("experiments/digits.yaml", old, new)
    project.do("git", "init", "-q")
    project.do("git", "add", "-A")
    project.do("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "clone")
    return project


def outputs(project: Project) -> dict[str, str]:
    """Digest of every stage's output, as DVC recorded it."""
    import yaml

    stages = yaml.safe_load(project.read("dvc.lock"))["stages"]
    return {name: entry["outs"][0]["md5"] for name, entry in stages.items() if name.endswith("@digits")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = clone(tmp_path_factory.mktemp("undisturbed") / "project")
    assert run_to_the_end(project) == 0
    return project


def run_to_the_end(project: Project, **environment: str) -> int:
    process = project.start("quee", "run", **environment)
    output, _ = process.communicate(timeout=1200)
    assert "Traceback" not in output, output
    return process.returncode


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    limit = time.monotonic() + 600
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, "nothing to kill came up"
        time.sleep(0.05)


def running(project: Project, module: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if module in process.cmdline() and Path(process.cwd()) == project.root:
                found.append(process)
        except psutil.Error:
            continue
    return found


def shards(project: Project) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in project.root.glob(".quee/partial/features/*/*/shard-*")}


def test_kills_other_shards_and_workers_leave_the_same_bytes(undisturbed: Project, tmp_path: Path) -> None:
    project = clone(tmp_path / "project")
    other = {"QUEE_SHARD_SIZE": "50", "QUEE_WORKERS": "2"}

    training = project.start("quee", "run", **other)
    wait_until(lambda: any(project.root.glob(".quee/partial/backbone/*/*/checkpoint.safetensors")), training)
    running(project, "tasks.backbone")[0].kill()
    assert training.wait(60) != 0

    caching = project.start("quee", "run", **other)
    wait_until(lambda: len(shards(project)) >= 3, caching)
    stage = running(project, "tasks.features")
    stage += [worker for process in stage for worker in process.children(recursive=True)]
    running(project, "tasks.dvc.child")[0].kill()  # dvc alone: the stage must not live on
    assert caching.wait(60) != 0
    assert psutil.wait_procs(stage, timeout=10)[1] == []
    project.write("dvc.lock", "")

    again = project.start("quee", "run", **other)
    before = shards(project)
    wait_until(lambda: len(shards(project)) > len(before), again)
    os.killpg(again.pid, signal.SIGKILL)
    again.wait(60)
    assert before.items() <= shards(project).items(), "finished shards were computed again"
    project.write(".dvc/tmp/rwlock", "")

    clustering = project.start("quee", "run", **other)
    wait_until(lambda: bool(running(project, "tasks.targets")), clustering)
    time.sleep(1)
    os.killpg(clustering.pid, signal.SIGINT)
    assert clustering.wait(60) == 130

    assert run_to_the_end(project, **other) == 0
    assert outputs(project) == outputs(undisturbed)
    assert project.read("dvc.lock") == undisturbed.read("dvc.lock")


def test_dask_workers_one_of_them_killed_and_shards_on_s3_leave_the_same_bytes(
    undisturbed: Project, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    pytest.importorskip("moto")
    import fsspec

    expected = {file.name: file.read_bytes() for file in (undisturbed.root / "artifacts/digits/features").iterdir()}
    shutil.copytree(undisturbed.root, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    shutil.rmtree(project.root / "artifacts/digits/features")
    with s3_server(tmp_path) as s3, dask_cluster(2, tmp_path / "dask", project.root, **s3) as cluster:
        store = fsspec.filesystem("s3", key="test", secret="test", endpoint_url=s3["AWS_ENDPOINT_URL"])

        def there() -> list[str]:
            store.invalidate_cache()
            return [name for name in store.find("quee/shards") if "/shard-" in name]

        scale = {"QUEE_EXECUTOR": "dask", "QUEE_DASK": cluster.address, "QUEE_SHARDS": "s3://quee/shards"}
        stage = project.start(sys.executable, "-m", "tasks.features", "digits", QUEE_SHARD_SIZE="40", **scale, **s3)
        wait_until(lambda: len(there()) >= 4, stage)
        cluster.workers[0].kill()
        output, _ = stage.communicate(timeout=600)
        assert stage.returncode == 0, output
        assert there() == [], "shards are removed when the stage has succeeded"
    made = {file.name: file.read_bytes() for file in (project.root / "artifacts/digits/features").iterdir()}
    assert made == expected


def test_forcing_every_stage_again_gives_the_same_lock(undisturbed: Project) -> None:
    before = undisturbed.read("dvc.lock")
    process = undisturbed.start("dvc", "repro", "-f", "-q")
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    assert undisturbed.read("dvc.lock") == before


def stale(project: Project) -> list[str]:
    plan = json.loads(project.quee("plan", "--json"))
    return [step["stage"] for step in plan["stages"] if step["action"] != "unchanged"]


def test_only_what_depends_on_a_change_is_stale(undisturbed: Project) -> None:
    assert stale(undisturbed) == []
    settings, code = undisturbed.read("experiments/digits.yaml"), undisturbed.read("quee/policies/plan.py")
    try:
        undisturbed.write("experiments/digits.yaml", "# a comment\n" + settings)
        assert stale(undisturbed) == []
        undisturbed.edit("experiments/digits.yaml", "clusters: 20", "clusters: 30")
        told = undisturbed.quee("plan")
        assert "targets.clusters: 20 → 30" in told
        after = ["targets", "predictors", "policies", "evaluate", "report", "bundle"]
        assert stale(undisturbed) == after
        undisturbed.write("experiments/digits.yaml", settings)
        undisturbed.write("quee/policies/plan.py", code + "\n# changed\n")
        assert "quee/policies/plan.py" in undisturbed.quee("plan")
        assert stale(undisturbed) == ["policies", "evaluate", "report", "bundle"]
    finally:
        undisturbed.write("experiments/digits.yaml", settings)
        undisturbed.write("quee/policies/plan.py", code)


def test_mlflow_holds_each_result_once_however_it_came_about(undisturbed: Project) -> None:
    for _ in range(2):
        undisturbed.quee("run")
        undisturbed.quee("track")
    undisturbed.do("dvc", "repro", "-q")
    two = [undisturbed.start("quee", "track") for _ in range(2)]
    assert [process.wait(120) for process in two] == [0, 0]
    count = (
        "import collections, mlflow; c = mlflow.MlflowClient('sqlite:///mlflow.db', 'sqlite:///mlflow.db');"
        "runs = c.search_runs([e.experiment_id for e in c.search_experiments()]);"
        "print(collections.Counter(r.data.tags['quee.digest'] for r in runs).most_common(1)[0][1], len(runs),"
        "len(c.search_model_versions()))"
    )
    assert undisturbed.do(sys.executable, "-c", count).split()[-3:] == ["1", "13", "1"]
