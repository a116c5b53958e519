"""Where the heavy stages compute: settings of the machine."""

from pathlib import Path

import pytest

from quee.errors import UsageError
from quee.executors import Dask, Inline, Processes
from tasks.scale import Scale, read_scale


def test_one_process_is_the_default_and_more_workers_are_processes(tmp_path: Path) -> None:
    none = tmp_path / "scale.yaml"
    assert read_scale({}, none) == Scale("inline", 1, None, None, 64)
    assert isinstance(read_scale({}, none).lanes(), Inline)
    assert isinstance(read_scale({"QUEE_WORKERS": "2"}, none).lanes(), Processes)


def test_a_variable_wins_over_the_file_and_the_file_over_dasks_own(tmp_path: Path) -> None:
    file = tmp_path / "scale.yaml"
    file.write_text("executor: dask\ndask: tcp://a:8786\nshard_size: 32\nshards: s3://bucket/quee\n")
    scale = read_scale({"QUEE_SHARD_SIZE": "16", "DASK_SCHEDULER_ADDRESS": "tcp://c:8786"}, file)
    assert scale == Scale("dask", 1, "tcp://a:8786", "s3://bucket/quee", 16)
    assert read_scale({"QUEE_DASK": "tcp://b:8786"}, file).dask == "tcp://b:8786"
    assert read_scale({"DASK_SCHEDULER_ADDRESS": "tcp://c:8786"}, tmp_path / "none").dask == "tcp://c:8786"
    pytest.importorskip("distributed")
    assert isinstance(scale.lanes(), Dask)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("workers: many", {}, "scale.yaml: workers='many': give a whole number"),
        ("worker: 2", {}, "unknown key 'worker'; valid: executor, workers, dask, shards, shard_size"),
        ("- dask", {}, "expected lines such as"),
        ("", {"QUEE_SHARD_SIZE": "0"}, "QUEE_SHARD_SIZE='0': give a whole number from 1"),
        ("executor: dusk", {}, "unknown executor 'dusk'"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, text: str, environment: dict[str, str], message: str) -> None:
    file = tmp_path / "scale.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_scale(environment, file).lanes()
