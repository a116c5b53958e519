"""Where the heavy stages compute: settings of the machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from emulated_gpu import emulated_gpu
from shard_work import seen_gpu

from quee.errors import UsageError
from quee.work.threads import cores
from quee.work.workers import Dask, Inline, Processes, Workers, visible
from tasks import scale as scales
from tasks.scale import MACS_PER_SECOND, PER_GPU, START_SECONDS, Scale, affordable, read_scale
from tasks.stage import Stage

MUCH, LITTLE = 100 * START_SECONDS * MACS_PER_SECOND, 0.5 * START_SECONDS * MACS_PER_SECOND


def test_every_core_is_used_by_default_where_the_work_is_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = tmp_path / "scale.yaml"
    monkeypatch.setattr(scales, "cores", lambda: 6)
    monkeypatch.setattr(scales, "free_memory", lambda: 1 << 40)
    scale = read_scale({}, none)
    assert scale == Scale("processes", 6, None, None, 64, given=False)
    lanes = scale.lanes(MUCH)
    assert isinstance(lanes, Processes)
    assert lanes.workers.count == 6
    assert isinstance(scale.lanes(LITTLE), Inline)
    monkeypatch.setattr(scales, "cores", lambda: 1)
    assert isinstance(read_scale({}, none).lanes(MUCH), Inline)


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"QUEE_WORKERS": "2"}, Processes),
        ({"QUEE_WORKERS": "1"}, Inline),
        ({"QUEE_EXECUTOR": "inline"}, Inline),
        ({"QUEE_EXECUTOR": "inline", "QUEE_WORKERS": "3"}, Inline),
        ({"QUEE_EXECUTOR": "processes", "QUEE_WORKERS": "1"}, Processes),
    ],
)
@pytest.mark.parametrize("macs", [0.0, LITTLE, MUCH])
def test_what_was_asked_for_is_done_whatever_the_work(
    tmp_path: Path, environment: dict[str, str], kind: type, macs: float
) -> None:
    assert isinstance(read_scale(environment, tmp_path / "none").lanes(macs), kind)


def test_workers_are_as_many_as_memory_holds_which_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for free, workers in ((64 << 30, 16), (9 << 30, 4), (1 << 20, 1), (None, 16)):
        monkeypatch.setattr(scales, "free_memory", lambda free=free: free)
        assert affordable(16) == workers
        said = capsys.readouterr().err
        assert (f"{workers} of 16 cores are used" in said) == (workers < 16)


def test_cores_are_those_of_the_processs_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from quee.work.threads import cores; print(cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert 1 <= cores() <= len(os.sched_getaffinity(0))


def test_workers_end_with_the_process_that_started_them_even_under_nohup(tmp_path: Path) -> None:
    work = Path(__file__).parents[1] / "support"
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from pathlib import Path\n"
        "from shard_work import wait\n"
        "from quee.work.shards import Shard, run_shards\n"
        "from quee.work.store import Store\n"
        "from tasks.scale import read_scale\n"
        "if __name__ == '__main__':\n"
        "    shards = [Shard(f's-{n}', wait, (sys.argv[1], n)) for n in range(2)]\n"
        "    lanes = read_scale({'QUEE_WORKERS': '2'}, Path('none')).lanes(0)\n"
        "    run_shards(shards, Store(sys.argv[1] + '/store'), lanes, 'waiting')\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    path = os.pathsep.join([str(work), str(work.parent.parent)])
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    try:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob("pid-*"))) < 2 and time.monotonic() < until:
            assert parent.poll() is None
            time.sleep(0.1)
        workers = [int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")]
        assert len(workers) == 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_a_variable_wins_over_the_file_and_the_file_over_dasks_own(tmp_path: Path) -> None:
    file = tmp_path / "scale.yaml"
    file.write_text("executor: dask\ndask: tcp://a:8786\nshard_size: 32\nshards: s3://bucket/quee\n")
    scale = read_scale({"QUEE_SHARD_SIZE": "16", "DASK_SCHEDULER_ADDRESS": "tcp://c:8786"}, file)
    assert scale == Scale("dask", 1, "tcp://a:8786", "s3://bucket/quee", 16)
    assert read_scale({"QUEE_DASK": "tcp://b:8786"}, file).dask == "tcp://b:8786"
    assert read_scale({"DASK_SCHEDULER_ADDRESS": "tcp://c:8786"}, tmp_path / "none").dask == "tcp://c:8786"
    pytest.importorskip("distributed")
    assert isinstance(scale.lanes(0), Dask)


@pytest.mark.parametrize(
    ("setting", "gpus", "turns"),
    [(None, 2, ["0", "1"]), ("", 1, ["0"]), ("3,5", 2, ["3", "5"]), (" GPU-a , GPU-b ", 2, ["GPU-a", "GPU-b"])],
)
def test_local_workers_take_gpus_in_turn(setting: str | None, gpus: int, turns: list[str]) -> None:
    assert visible(setting, gpus) == turns


def test_stages_without_networks_ask_for_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "partial", property(lambda stage: tmp_path / stage.name))
    absent = Scale("inline", 1, None, None, 64, wanted=("cuda", "QUEE_DEVICE"))
    here = Scale("inline", 1, None, None, 64, wanted=("cpu", "QUEE_DEVICE"))
    for name in ("evaluate", "features"):
        (tmp_path / name).mkdir()
    stages = {name: Stage(name, cast(Any, None), tmp_path, tmp_path) for name in ("evaluate", "features")}
    assert absent.store(stages["evaluate"]).url == str(tmp_path / "evaluate")
    assert here.store(stages["features"]).url == str(tmp_path / "features" / "cpu")


def test_each_process_sees_the_gpu_whose_turn_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with Processes(Workers(2, gpus=2)).open() as pool:
        assert {job.result() for job in [pool.submit(seen_gpu, tmp_path) for _ in range(2)]} == {"4", "7"}


def test_work_for_a_gpu_gets_few_workers_and_a_store_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scales, "cores", lambda: 16)
    monkeypatch.setattr(scales, "free_memory", lambda: 1 << 40)
    with emulated_gpu():
        scale = read_scale({}, tmp_path / "none")
        assert scale.device == "cuda"
        lanes = scale.lanes(1e15)
        assert isinstance(lanes, Processes) and (lanes.workers.count, lanes.workers.gpus) == (PER_GPU, 1)
        assert isinstance(scale.lanes(1e12), Inline)
        assert isinstance(own := scale.lanes_for(1e4), Processes) and own.workers.gpus == 0
        assert read_scale({"QUEE_DEVICE": "cpu"}, tmp_path / "none").device == "cpu"


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("workers: many", {}, "scale.yaml: workers='many': give a whole number"),
        ("worker: 2", {}, "unknown key 'worker'; valid: executor, workers, dask, shards, shard_size, device"),
        ("- dask", {}, "expected lines such as"),
        ("", {"QUEE_SHARD_SIZE": "0"}, "QUEE_SHARD_SIZE='0': give a whole number from 1"),
        ("", {"QUEE_DEVICE": "gpu"}, "QUEE_DEVICE='gpu'; valid: auto, cpu, cuda"),
        ("device: gpu", {}, "scale.yaml: device='gpu'; valid: auto, cpu, cuda"),
        ("executor: dusk", {}, "unknown executor 'dusk'"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, text: str, environment: dict[str, str], message: str) -> None:
    file = tmp_path / "scale.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_scale(environment, file).lanes(0)
