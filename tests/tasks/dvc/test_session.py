"""Running, planning and healing, on a toy project with real git, DVC and processes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest
import yaml
from toy_project import Project, experiment

from tasks.dvc.process import BUSY, dvc_command

VICTIMS = ("stage", "dvc", "quee", "group", "interrupt")
SLOW = {"TOY_SECONDS": "0.4"}


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def did(output: str) -> dict[str, str]:
    """What `quee run` reports for each stage."""
    words = (line.split() for line in output.splitlines() if line.startswith("  "))
    return {line[0].partition("@")[0]: line[1] for line in words if len(line) > 1 and "@" in line[0]}


def planned(project: Project, *arguments: str, status: int = 0) -> dict[str, dict[str, object]]:
    output = project.quee("plan", "--json", *arguments, status=status)
    return {stage["stage"]: stage for stage in json.loads(output[output.index("{") :])["stages"]}


def actions(project: Project) -> list[object]:
    return [stage["action"] for stage in planned(project).values()]


def test_a_second_run_runs_nothing(project: Project) -> None:
    assert did(project.quee("run")) == {"prepare": "ran", "targets": "ran", "evaluate": "ran"}
    assert did(project.quee("run")) == {"prepare": "unchanged", "targets": "unchanged", "evaluate": "unchanged"}
    assert "didn't change, skipping" in project.do("dvc", "repro")


def test_dvc_repro_alone_gives_the_same_results(project: Project) -> None:
    project.do("dvc", "repro")
    alone = project.results()
    project.do("dvc", "repro", "--force")
    assert project.results() == alone
    assert did(project.quee("run", "--force"))["prepare"] == "ran"
    assert project.results() == alone


def test_a_comment_runs_nothing_and_a_setting_only_what_follows(ran: Project) -> None:
    ran.edit("experiments/toy.yaml", "# A toy.", "# Another comment.")
    assert actions(ran) == ["unchanged"] * 3
    ran.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    assert did(ran.quee("run")) == {"prepare": "unchanged", "targets": "ran", "evaluate": "ran"}


def test_plan_says_which_setting_differs_and_carries_on_along_the_graph(ran: Project) -> None:
    ran.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    plan = planned(ran)
    assert [stage["action"] for stage in plan.values()] == ["unchanged", "run", "run"]
    assert plan["targets"]["reasons"] == ["targets.clusters: 20 → 30"]
    assert plan["evaluate"]["reasons"] == ["artifacts/toy/targets: made anew by targets@toy"]
    assert plan["targets"]["seconds"] is not None


@pytest.mark.slow
def test_plan_names_the_dependency_that_differs(ran: Project) -> None:
    ran.edit("helpers/helper.py", "OFFSET = 1", "OFFSET = 2")
    assert planned(ran)["targets"]["reasons"] == ["helpers: modified"]
    ran.edit("stages/prepare.py", "Count", "Sum")
    assert planned(ran)["prepare"]["reasons"] == ["stages/prepare.py: modified"]


@pytest.mark.slow
def test_plan_foresees_what_the_run_cache_restores(ran: Project) -> None:
    ran.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    ran.quee("run")
    ran.edit("experiments/toy.yaml", "clusters: 30", "clusters: 20")
    # the sums are positive either way: `evaluate` sees other targets, but has been run on these before
    assert actions(ran) == ["unchanged", "restore", "restore"]
    assert did(ran.quee("run")) == {"prepare": "unchanged", "targets": "restored", "evaluate": "restored"}


def test_plan_foresees_that_a_lost_result_is_restored(ran: Project) -> None:
    before = ran.results()
    ran.do("rm", "-r", "artifacts/toy/targets")
    assert actions(ran) == ["unchanged", "restore", "unchanged"]
    assert did(ran.quee("run"))["targets"] == "restored"
    assert ran.results() == before
    ran.do("rm", "-r", "artifacts")
    assert actions(ran) == ["restore", "restore", "restore"]
    assert set(did(ran.quee("run")).values()) == {"restored"}
    assert ran.results() == before


def test_plan_check_exits_3_when_work_is_pending(project: Project, ran: Project) -> None:
    project.quee("plan", "--check", status=3)
    ran.quee("plan", "--check")


def stage_results(project: Project) -> dict[str, object]:
    """Results and their entries in dvc.lock, without the settings, which are resolved before a stage begins."""
    found: dict[str, object] = {name: text for name, text in project.results().items() if "/settings/" not in name}
    entries = yaml.safe_load(project.read("dvc.lock"))["stages"]
    return {**found, "dvc.lock": {name: entry for name, entry in entries.items() if not name.startswith("settings@")}}


def test_a_failed_stage_is_named_with_its_log_and_its_earlier_result_stays(ran: Project) -> None:
    before = stage_results(ran)
    ran.write("fail", "")
    ran.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    output = ran.quee("run", status=4)
    assert "stage targets@toy failed: shard 3 is truncated" in output
    log = next(word for word in output.split() if word.endswith(".log"))
    assert "a line from the stage" in ran.read(log)
    assert stage_results(ran) == before


def test_a_failed_stage_says_nothing_of_a_result_that_was_not_here(ran: Project) -> None:
    ran.do("rm", "-r", "artifacts/toy/targets", ".dvc/cache")  # as in a clone: dvc.lock knows it alone
    ran.write("fail", "")
    output = ran.quee("run", "--force", status=4)
    assert "shard 3 is truncated" in output and "brought back" not in output


def test_what_a_stage_prints_decides_nothing(project: Project) -> None:
    words = "Unable to acquire lock: it is busy, it is being blocked by: Stage is cached - skipping run"
    project.edit("stages/targets.py", "a line from the stage", words)
    project.write("fail", "")
    output = project.quee("run", status=4)  # and does not wait for a lock that nobody holds
    assert "stage targets@toy failed: shard 3 is truncated" in output
    project.do("rm", "fail")
    project.edit("stages/evaluate.py", "parts = ", f"print({words!r})\n    parts = ")
    assert did(project.quee("run")) == {"prepare": "unchanged", "targets": "ran", "evaluate": "ran"}


@pytest.mark.slow
def test_another_dvc_at_work_is_told_by_its_status(project: Project) -> None:
    by_hand = project.start("dvc", "repro", **SLOW)
    wait_until(lambda: bool(project.computed()))
    done = subprocess.run(
        dvc_command("repro", "--single-item", "targets@toy"), cwd=project.root, env=project.environment(), check=False
    )
    assert done.returncode == BUSY
    assert by_hand.wait() == 0


def test_settings_are_checked_before_anything_is_created(project: Project) -> None:
    project.write("experiments/toy.yaml", experiment(targets="{clusters: many}"))
    before = sorted(project.root.rglob("*"))
    assert "targets.clusters" in project.quee("run", status=2)
    assert "unknown experiment 'digit'" in project.quee("run", "digit", status=2)
    assert sorted(project.root.rglob("*")) == before


def test_an_experiment_that_is_not_in_params_is_added(project: Project) -> None:
    project.write("experiments/other.yaml", experiment())
    output = project.quee("run", "other")
    assert "added other to params.yaml" in output
    entry = "    data: data/digits\n    weights: data/weights/none\n"
    assert project.read("params.yaml") == f"# which to build\nexperiments:\n  toy:\n{entry}  other:\n{entry}"
    assert (project.root / "artifacts/other/evaluate").is_dir()
    assert not (project.root / "artifacts/toy").exists()


def test_missing_data_is_pulled_and_damaged_data_is_named(project: Project) -> None:
    project.do("rm", "-r", "data/digits", ".dvc/cache")
    project.quee("run")
    project.write("data/digits/train-0.parquet", "imag")
    assert "data/digits/train-0.parquet differs from what data.dvc records" in project.quee("run", status=4)


def test_a_smoke_run_leaves_the_results_alone(project: Project) -> None:
    project.quee("run", "--limit", "3")
    assert json.loads(project.read(".quee/smoke/toy-3/prepare/metrics.json"))["limit"] == 3
    assert not (project.root / "artifacts").exists()
    assert "--limit 0" in project.quee("run", "--limit", "0", status=2)


def test_a_second_run_waits_or_says_busy(project: Project) -> None:
    first = project.start("quee", "run", **SLOW)
    wait_until(lambda: bool(project.computed()))
    assert "this checkout is busy: held by process" in project.quee("run", "--no-wait", status=5)
    second = project.quee("run")
    assert "waiting for it to end" in second
    assert set(did(second).values()) == {"unchanged"}
    assert first.wait() == 0
    assert project.computed() == list("01234")


@pytest.mark.slow
def test_a_run_waits_for_a_dvc_started_by_hand(project: Project) -> None:
    by_hand = project.start("dvc", "repro", **SLOW)
    wait_until(lambda: bool(project.computed()))
    project.quee("run")
    assert by_hand.wait() == 0
    assert project.computed() == list("01234")


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def of(process: "subprocess.Popen[str]", word: str) -> psutil.Process:
    """The innermost process of a run with the word in its command."""
    found = [p for p in [psutil.Process(process.pid), *descendants(process)] if any(word in a for a in p.cmdline())]
    return found[-1]


@pytest.fixture(scope="session")
def undisturbed(ran_template: Project) -> dict[str, str]:
    """The results of an undisturbed run."""
    return ran_template.results()


KILLS = [(victim, emptied) for victim in VICTIMS for emptied in ("", "dvc.lock", ".dvc/tmp/rwlock")]
SOON = {("dvc", ""), ("group", "dvc.lock")}


@pytest.mark.parametrize(
    ("victim", "emptied"), [pytest.param(*kill, marks=[] if kill in SOON else pytest.mark.slow) for kill in KILLS]
)
def test_the_same_command_after_a_kill_ends_as_if_undisturbed(
    project: Project, undisturbed: dict[str, str], victim: str, emptied: str
) -> None:
    run = project.start("quee", "run", **SLOW)
    wait_until(lambda: len(project.computed()) >= 3)
    everyone = descendants(run)
    if victim in ("group", "interrupt"):
        os.killpg(run.pid, signal.SIGKILL if victim == "group" else signal.SIGINT)
    else:
        of(run, {"stage": "stages.targets", "dvc": "tasks.dvc.child", "quee": "run"}[victim]).kill()
    run.wait()
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in everyone), 5)
    if emptied and (project.root / emptied).exists():
        project.write(emptied, "")
    project.quee("run")
    assert project.results() == undisturbed
    assert not list(project.root.glob("artifacts/*/.*"))
    assert project.computed()[:3] == ["0", "1", "2"]
    assert len(project.computed()) <= 6, "finished parts were computed again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_end_ends_in_order_and_leaves_the_earlier_result(
    ran: Project, number: signal.Signals
) -> None:
    before = ran.results()
    ran.do("rm", "computed.log")
    run = ran.start("quee", "run", "--force", **SLOW)
    wait_until(lambda: len(ran.computed()) >= 1)
    everyone = descendants(run)
    if number == signal.SIGINT:  # Ctrl-C reaches the whole group
        os.killpg(run.pid, number)
    else:
        run.terminate()
    said, _ = run.communicate()
    assert run.returncode == 128 + number
    assert "interrupted: finished stages and parts of the last one stay; `quee run` goes on" in said
    assert ran.results() == before
    left = [p for p in everyone if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert number == signal.SIGINT or not left


def test_killing_dvc_alone_leaves_no_second_writer(project: Project) -> None:
    repro = project.start("dvc", "repro", **SLOW)
    wait_until(lambda: bool(project.computed()))
    stage = of(repro, "stages.targets")
    repro.kill()
    repro.wait()
    wait_until(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE, 3)
    project.do("dvc", "repro")
    assert sorted(set(project.computed())) == list("01234")


def test_an_emptied_lock_is_restored_from_the_last_good_copy(ran: Project) -> None:
    good = ran.read("dvc.lock")
    for damaged in ("", good[: len(good) // 2], "{", good.replace("md5: ", "md5: x", 1)):
        ran.write("dvc.lock", damaged)
        assert "restored from the last good copy" in ran.quee("run")
        assert ran.read("dvc.lock") == good


@pytest.mark.slow
def test_what_a_kill_left_of_run_cache_entries_is_removed(ran: Project) -> None:
    before = ran.results()
    entries = sorted((ran.root / ".dvc/cache/runs").glob("*/*/*"))
    for entry, left in zip(entries, ("", ".half.tmp", "0" * 64, "1" * 63), strict=True):
        entry.unlink()
        if left:
            (entry.parent / left).write_text("")
    ran.do("rm", "-r", "dvc.lock", ".quee/last-good")
    assert did(ran.quee("run")) == {"prepare": "ran", "targets": "ran", "evaluate": "ran"}
    assert ran.results() == before


@pytest.mark.slow
def test_a_rwlock_of_dead_processes_is_removed_and_that_of_a_live_one_respected(ran: Project) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()

    def held_by(pid: int) -> str:
        return json.dumps({"write": {str(ran.root / "artifacts/toy/targets"): {"pid": pid, "cmd": "dvc"}}, "read": {}})

    ran.write(".dvc/tmp/rwlock", held_by(dead.pid))
    assert "left by a killed run" in ran.quee("run")
    alive = subprocess.Popen(["sleep", "60"])
    time.sleep(1.1)
    ran.write(".dvc/tmp/rwlock", held_by(alive.pid))
    assert f"process {alive.pid}" in ran.quee("run", "--no-wait", status=5)
    alive.kill()
    alive.wait()
