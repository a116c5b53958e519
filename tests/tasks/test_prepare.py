import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from quee.data.importers import import_dataset
from quee.errors import IntegrityError, UsageError
from quee.settings.experiment import BLOCKS
from quee.work.io import file_digest, read_json
from tasks.prepare import run
from tasks.stage import run_stage
from tasks.work.place import FILES


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_dataset("digits", None, Path("data/digits"))
    write_experiment()
    return tmp_path


def write_experiment(**prepare):
    content = {block: {} for block in BLOCKS}
    content["prepare"] = {"dataset": "digits", **prepare}
    content["backbone"] = {"name": "vit_digits"}
    Path("experiments").mkdir(exist_ok=True)
    Path("experiments/small.yaml").write_text(yaml.safe_dump(content))


def test_it_writes_splits_and_what_is_known_of_the_images(project):
    run_stage("prepare", run, "small")
    out = Path("artifacts/small/prepare")
    table = pq.read_table(out / "splits.parquet")
    assert table.schema.names == ["sample_id", "split", "calibration"]
    assert table["sample_id"].to_pylist() == list(range(1797))
    assert sum(table["calibration"].to_pylist()) == 256
    described = read_json(out / "dataset.json")
    assert described["splits"] == {"train": 809, "predictor": 449, "validation": 180, "test": 359}
    assert described["image"] == {"height": 8, "width": 8, "channels": 1}
    assert described["samples"] == 1797
    assert len(described["classes"]) == 10
    (file,) = Path("data/digits").iterdir()
    assert described["files"] == {file.name: file_digest(file)}


def test_it_writes_the_same_bytes_each_time(project):
    digests = []
    for _ in range(2):
        run_stage("prepare", run, "small")
        digests.append([file_digest(path) for path in sorted(Path("artifacts/small/prepare").iterdir())])
    assert digests[0] == digests[1]


def test_the_smaller_limit_counts(project):
    write_experiment(limit=600)
    run_stage("prepare", run, "small")
    assert sum(read_json(Path("artifacts/small/prepare/dataset.json"))["splits"].values()) == 600
    run_stage("prepare", run, "small", limit=100)
    assert sum(read_json(Path(".quee/smoke/small-100/prepare/dataset.json"))["splits"].values()) == 100


def test_missing_data_is_named_with_the_command_that_adds_it(project):
    (file,) = Path("data/digits").iterdir()
    file.unlink()
    with pytest.raises(IntegrityError, match=r"data/digits/train-\*.parquet \(`quee data add digits"):
        run_stage("prepare", run, "small")


def test_splits_that_cannot_be_made_are_refused(project):
    write_experiment(splits={"evaluation_set": "held_out"})
    with pytest.raises(UsageError, match="no official evaluation set"):
        run_stage("prepare", run, "small")
    assert not Path("artifacts/small/prepare").exists()


def test_a_truncated_file_ends_the_command_with_status_4(project):
    (file,) = Path("data/digits").iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    root = Path(__file__).parents[2]
    for name in FILES:
        Path(name).write_text((root / name).read_text())
    command = [sys.executable, "-m", "tasks.prepare", "small"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(root)}, check=False)
    assert done.returncode == 4
    assert file.name in done.stderr
    assert "Traceback" not in done.stderr
