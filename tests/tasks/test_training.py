"""Training within stage `backbone`: kills, sizes, images that are drawn, and what is recorded of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import drawn_files
import pytest
import torch
from drawn_files import write_garments
from tiny_project import Tiny
from tiny_project import tiny as tiny

from quee.data.identity import sample_keys
from quee.data.importers import import_dataset
from quee.data.source import open_dataset
from quee.data.weights import take_weights
from quee.data.weights_facts import seen_samples, weights_facts, weights_path
from quee.errors import IntegrityError, UsageError
from quee.network import training
from quee.network.checkpoint import NAME
from quee.settings.experiment import load_experiment
from quee.work.io import file_digest, read_json, read_metadata, read_table
from tasks.dvc.inputs import refuse_missing

T2T = {"dim": 16, "heads": 2, "depth": 2, "img_size": 32, "preprocessing": {"crop_pct": 1.0}}
SMALL_FIRST = {"name": "t2t_vit_7", "kwargs": {**T2T, "in_chans": 1}, "gates": [1, 2], "sizes": {16: 0.5, 32: 0.5}}
MIXED = {"flip": True, "crop_padding": 4, "colour": 0.2, "mixup": 1.0, "cutmix": 1.0, "mixed": 0.7}


def checkpoints(root: Path) -> list[Path]:
    return sorted(root.glob(f".quee/partial/backbone/*/*/{NAME}"))


def killed_after(root: Path, stretches: int) -> None:
    """Run stage `backbone` in a process of its own and kill it once so many stretches are saved."""
    command = [sys.executable, "-m", "tasks.backbone", "tiny"]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    limit = time.monotonic() + 300
    while not any(int(read_metadata(file)["done"]) >= stretches for file in checkpoints(root)):
        assert process.poll() is None and time.monotonic() < limit, "training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def test_a_killed_training_goes_on_to_the_same_bytes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write(backbone={**SMALL_FIRST, "epochs": 12, "batch_size": 32, "ema": 0.9, "augmentation": MIXED})
    out = tiny.run("prepare", "backbone") / "backbone"
    digests = {file.name: file_digest(file) for file in out.iterdir()}
    history = read_table(out / "history.parquet").to_pydict()
    assert history["side"] == [16.0] * 6 + [32.0] * 6
    for file in out.iterdir():
        file.unlink()
    out.rmdir()
    Path("params.yaml").write_text("experiments: {}\n")
    killed_after(tiny.root, 7)
    assert not out.exists() and 7 <= int(read_metadata(checkpoints(tiny.root)[0])["done"]) < 12
    begun: list[int] = []
    through = training._Run.through

    def noted(run: Any, stretch: Any, *rest: Any) -> float:
        begun.append(stretch.epoch)
        return through(run, stretch, *rest)

    monkeypatch.setattr(training._Run, "through", noted)
    tiny.run("backbone")
    assert {file.name: file_digest(file) for file in out.iterdir()} == digests
    assert begun and begun[0] >= 7 and begun == list(range(begun[0], 12)), "what was saved was trained again"
    assert checkpoints(tiny.root) == []


@pytest.mark.parametrize("mixed_precision", ["bf16", "none", "auto"])
def test_the_format_of_products_is_recorded(tiny: Tiny, mixed_precision: str) -> None:
    tiny.write(backbone={"mixed_precision": mixed_precision, "images": 100, "epochs": None})
    out = tiny.run("prepare", "backbone") / "backbone"
    told = read_json(out / "backbone.json")["training"]
    products = "bf16" if mixed_precision == "bf16" else "fp32"  # so small a network stays in fp32
    assert told == {"device": "cpu", "drawn": False, "images": 108, "products": products}  # two epochs of 32 and 22


def test_a_smoke_run_trains_on_no_more_images_than_it_has(tiny: Tiny) -> None:
    tiny.write(backbone={"images": 10**9, "epochs": None})
    out = tiny.run("prepare", "backbone", limit=100) / "backbone"
    assert read_json(out / "backbone.json")["training"]["images"] < 100


DRAWN = {
    "prepare": {
        "dataset": "cluttered_fashion",
        "splits": {
            "train": 1.0,
            "calibration": 16,
            "predictor": 0.4,
            "validation": 0.2,
            "test": 0.3,
            "evaluation_set": "held_out",
        },
    },
    "backbone": {**SMALL_FIRST, "drawn": True, "images": 96, "epochs": None, "batch_size": 16, "seed": 3},
}


@pytest.fixture
def garments(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A small Cluttered Fashion, and the garments it is drawn from."""
    monkeypatch.setattr(drawn_files, "TRAIN", 160)
    monkeypatch.setattr(drawn_files, "TEST", 200)
    folder = write_garments(Path("files"))
    import_dataset("cluttered_fashion", folder, Path("data/cluttered_fashion"))
    import_dataset("fashion_mnist", folder, Path("data/fashion_mnist"))
    tiny.write(**DRAWN)
    return tiny


@pytest.mark.slow
def test_training_on_drawn_images_is_the_same_in_any_number_of_processes(
    garments: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = garments.run("prepare", "backbone") / "backbone"
    digests = {file.name: file_digest(file) for file in out.iterdir()}
    told = read_json(out / "backbone.json")
    assert told["training"] == {"device": "cpu", "drawn": True, "images": 96, "products": "fp32"}
    assert read_table(out / "history.parquet")["side"].to_pylist() == [16.0, 32.0]
    monkeypatch.setenv("QUEE_WORKERS", "2")
    garments.run("backbone")
    assert {file.name: file_digest(file) for file in out.iterdir()} == digests
    garments.write(**{**DRAWN, "backbone": {**DRAWN["backbone"], "seed": 4}})
    garments.run("backbone")
    assert file_digest(out / "model.safetensors") != digests["model.safetensors"]


def test_weights_from_drawn_images_have_seen_the_training_set_and_may_be_halved(garments: Tiny) -> None:
    out = garments.run("prepare", "backbone")
    assert read_json(out / "backbone/backbone.json")["fitted_on"] == "official training set"
    images = open_dataset(Path("data/cluttered_fashion"), "cluttered_fashion")
    sizes = []
    for half in (False, True):
        take_weights(out / "backbone", out / "prepare", weights_path("own"), images, half)
        sizes.append(weights_path("own").stat().st_size)
        seen = seen_samples("own", images, "cluttered_fashion")
        assert seen is not None and seen.sum() == images.train_samples and seen[: images.train_samples].all()
        assert weights_facts(weights_path("own")).trained_on == ("cluttered_fashion",)
    assert len(sample_keys(images)) == 360 and sizes[1] < 0.75 * sizes[0]
    pretrained = {"name": "t2t_vit_7", "kwargs": {}, "gates": [1, 2], "mode": "pretrained", "weights": "own"}
    garments.write(**{**DRAWN, "backbone": pretrained, "prepare": {"dataset": "cluttered_fashion"}})
    with pytest.raises(UsageError, match="'own' was fitted on samples that are held out here"):
        garments.run("prepare", "backbone")


def test_what_images_are_drawn_from_is_an_input_that_is_missed_at_the_start(garments: Tiny) -> None:
    garments.write(**DRAWN)
    Path("data/fashion_mnist").rename("elsewhere")
    with pytest.raises(
        IntegrityError, match=r"missing folder: data/fashion_mnist; get .* `quee data add fashion_mnist FOLDER`"
    ):
        refuse_missing(Path(), ["tiny"])
    garments.write(**{**DRAWN, "prepare": {**DRAWN["prepare"], "dataset": "street_characters"}})
    Path("data/street_characters").mkdir()
    with pytest.raises(IntegrityError, match=r"missing file: data/sources/street_glyphs.npz; `dvc pull .*npz.dvc`"):
        refuse_missing(Path(), ["tiny"])
    assert load_experiment("tiny").backbone.drawn and torch.get_num_threads() >= 1
