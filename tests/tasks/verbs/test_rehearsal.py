"""`quee plan EXPERIMENT --measure N`: what an experiment will take, from a few synthetic images."""

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from quee.cli.main import main
from quee.errors import UsageError
from quee.settings.experiment import load_experiment, parse_experiment
from quee.settings.names import experiment_names
from quee.settings.sets import HELD_OUT
from quee.work.threads import cores
from tasks.verbs import rehearsal
from tasks.verbs.rehearsal import Rehearsal, Run, cloud, projected, rehearse, shrunk, units

ROOT = Path(__file__).parents[3]
EXPERIMENTS = ROOT / "experiments"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiments of this project, without data and weights."""
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, name)
    shutil.copytree(EXPERIMENTS, "experiments")
    return tmp_path


def quee(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def run(units: float, cpu: float, **others: float) -> Run:
    return Run(units, **{"seconds": cpu, "cpu": cpu, "bytes": 100 * units, "memory": 1e9, **others})


def test_what_grows_grows_on_and_the_start_stays() -> None:
    """5 s of start and 0.1 s per unit: 1,000 units take 105 s of a core."""
    few, many = run(10, 6.0), run(50, 10.0)
    alone = projected("evaluate", few, many, 1000)
    assert (alone.core_seconds, alone.seconds, alone.bytes) == pytest.approx((105, 105, 100_000))
    shared = projected("features", few, many, 1000)
    assert shared.core_seconds == pytest.approx(105) and shared.seconds == pytest.approx(10 + 95 / cores())


def test_what_does_not_grow_is_projected_as_measured() -> None:
    for stage, few in (("bundle", run(10, 6.0)), ("evaluate", run(50, 6.0))):
        assert projected(stage, few, run(50, 10.0), 1000).core_seconds == 10
    held = projected("evaluate", run(10, 6.0), run(50, 10.0), 1000, held=1e8)
    assert held.memory == pytest.approx(1e9 + rehearsal.COPIES * 1e8)
    assert projected("features", run(10, 6.0), run(50, 10.0), 1000, held=1e8).memory == 1e9


def test_a_stage_that_took_no_longer_on_more_images_is_said_to_be_unknown() -> None:
    """On a busy machine the noise may be larger than what grows."""
    stages = [
        projected("features", run(10, 11.0), run(50, 10.0), 1000),
        projected("targets", run(10, 6.0), run(50, 10.0), 90),
    ]
    *rows, unknown, end = Rehearsal("mine", 64, 1000, stages).lines()
    assert stages[0].core_seconds is None and rows[3].split()[3:5] == ["?", "?"]
    assert (
        rows[-1].split()[3] == f"{14 / 3600:.2f}"
        and "nothing can be said: features." in unknown
        and "not in the sum" in end
    )
    assert all(len(line) <= 80 for line in rows[2:])


@pytest.mark.parametrize("name", experiment_names(EXPERIMENTS))
def test_every_experiment_can_be_shrunk_and_its_stages_have_work(name: str) -> None:
    experiment = load_experiment(name, EXPERIMENTS)
    blocks = shrunk(yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text()), experiment, 64)
    small = parse_experiment(name, yaml.safe_dump(blocks), name, ROOT / "data")
    assert small.prepare.splits.calibration <= 64 and small.backbone.drawn is False
    assert small.evaluate == experiment.evaluate and small.paths == experiment.paths  # what is repeated stays
    one = {**dict.fromkeys(("train", *HELD_OUT), 1000), "calibration": 100, "images": 3000}
    two = {split: 2 * count for split, count in one.items()}
    for stage in ("prepare", "backbone", "tree", "quantize", "exits", "features", "predictors", "evaluate"):
        assert 0 < units(stage, experiment, one) <= units(stage, experiment, two)


def test_a_cloud_is_a_jpeg_of_the_size_and_of_the_bytes_of_a_photograph() -> None:
    data = cloud(np.random.default_rng(0), (375, 500), 3)
    image = Image.open(BytesIO(data))
    assert (image.format, image.size, image.mode) == ("JPEG", (500, 375), "RGB")
    assert 60_000 < len(data) < 200_000
    assert Image.open(BytesIO(cloud(np.random.default_rng(0), (28, 28), 1))).mode == "L"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--measure", "64"], "--measure: name the experiments"),
        (["digits", "--measure", "64", "--check"], "without --check and --force"),
        (["digits", "--measure", "63"], "--measure 63: digits needs at least 64 images of each set"),
        (["digit", "--measure", "64"], "digit"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    project: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quee("plan", *arguments) == 2
    assert why in capsys.readouterr().err


def test_a_data_set_of_unknown_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    blocks: dict[str, Any] = yaml.safe_load((EXPERIMENTS / "digits.yaml").read_text())
    blocks["prepare"]["dataset"] = "street_characters"
    (tmp_path / "experiments" / "mine.yaml").write_text(yaml.safe_dump(blocks))
    with pytest.raises(UsageError, match="data set 'street_characters' is not here, and how large it is is not known"):
        rehearse(tmp_path, "mine", 1000, print)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_an_experiment_of_the_paper_is_measured_without_its_data_and_weights(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quee("plan", "svhn_t2t_vit_7_32px", "--measure", "64", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    stages = {row["stage"]: row for row in found["stages"]}
    assert found["whole"] == 99_289 and {"prepare", "backbone", "features", "bundle"} < set(stages)
    assert all(
        row["measured"] > 0 and (row["core_seconds"] is None or row["core_seconds"] > 0) for row in stages.values()
    )
    assert not list((project / ".quee" / "rehearsal").iterdir())
