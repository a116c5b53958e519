"""The paper's experiments, from the public files to the bundle, in miniature: few images, small sizes, one epoch."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from public_files import cifar_members, write_imagenet, write_svhn, write_tar

from quee.data.importers import import_dataset
from quee.data.splits import split_ids
from quee.data.weights import import_weights
from quee.data.weights_facts import PUBLISHED, weights_path
from quee.network.architectures import create_backbone
from quee.runtime.bundle import load_bundle
from quee.settings.experiment import load_experiment
from quee.settings.names import experiment_names
from quee.work.io import read_json, read_table
from tasks.dvc.session import stage_names
from tasks.stage import run_stage

ROOT = Path(__file__).parents[2]
SPLIT_HERE = {"train": 0.5, "calibration": 16, "predictor": 0.3, "validation": 0.1, "certification": 0.1}
SMALL: dict[str, dict[str, Any]] = {
    "quantize": {"weights": "minmax", "activations": "minmax", "mixed": False},
    "exits": {"draws": 1, "max_samples": None},
    "targets": {"clusters": 3, "sweep": [1, 2, 3]},
    "predictors": {"hidden": 4, "epochs": 3},
    "policies": {"fitted_q": {"folds": 2, "knots": 3}},
    "evaluate": {"points": 100, "bootstrap": 100},
}


def write_cifar(name: str, folder: Path) -> Path:
    folder.mkdir()
    return write_tar(folder / "archive.tar.gz", cifar_members(name, "python", 20 if name == "cifar10" else 100), "w:gz")


def write_svhn_files(folder: Path) -> Path:
    return write_svhn(folder, train=120, test=24)


def write_t2t(name: str, classes: int, folder: Path) -> list[Path]:
    """A checkpoint in the authors' form: averaged weights, keys of parallel training."""
    torch.manual_seed(0)
    state = create_backbone(name, num_classes=classes).state_dict()
    torch.save({"epoch": 300, "state_dict_ema": {f"module.{k}": v for k, v in state.items()}}, folder / "t2t.pth.tar")
    return [folder / "t2t.pth.tar"]


def write_dinov2(classes: int, folder: Path) -> list[Path]:
    """The pretrained backbone at 518 px and its linear head."""
    torch.manual_seed(0)
    backbone = timm.create_model("vit_small_patch14_dinov2.lvd142m").state_dict()
    torch.save({**backbone, "mask_token": torch.zeros(1, 384)}, folder / "pretrain.pth")
    torch.save({"weight": torch.randn(classes, 768) / 30, "bias": torch.zeros(classes)}, folder / "head.pth")
    return [folder / "pretrain.pth", folder / "head.pth"]


CASES: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "cifar10_t2t_vit_7": (
        lambda f: write_cifar("cifar10", f), lambda f: write_t2t("t2t_vit_7", 1000, f), SPLIT_HERE, 32
    ),
    "cifar100_t2t_vit_14": (
        lambda f: write_cifar("cifar100", f), lambda f: write_t2t("t2t_vit_14", 100, f), {"calibration": 16}, 32
    ),
    "svhn_t2t_vit_7": (write_svhn_files, lambda f: write_t2t("t2t_vit_7", 1000, f), SPLIT_HERE, 48),
    "svhn_t2t_vit_7_32px": (write_svhn_files, lambda f: write_t2t("t2t_vit_7", 1000, f), SPLIT_HERE, 32),
    "imagenet_t2t_vit_14": (
        lambda f: write_imagenet(f, 16, 40), lambda f: write_t2t("t2t_vit_14", 3, f), {"train": 1.0, "calibration": 16}, 32
    ),
    "imagenet_dinov2_vit_s14": (
        lambda f: write_imagenet(f, 16, 40), lambda f: write_dinov2(3, f), {"train": 1.0, "calibration": 16}, 28
    ),
}  # fmt: skip
"""Experiment: its files, its weights, splits for so few images, image size."""


def shrink(name: str, splits: dict[str, Any], size: int) -> None:
    """The experiment's own settings, except for sizes and repetitions."""
    settings = yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())
    settings["prepare"]["splits"].update(splits)
    backbone = settings["backbone"]
    backbone["kwargs"] = {**backbone.get("kwargs", {}), "img_size": size}
    backbone.update(batch_size=16, epochs=1)
    if "crop_padding" in backbone.get("augmentation", {}):
        backbone["augmentation"]["crop_padding"] = 2
    for block, values in SMALL.items():
        settings.setdefault(block, {}).update(values)
    Path("experiments").mkdir()
    Path("experiments", f"{name}.yaml").write_text(yaml.safe_dump(settings))


def test_every_experiment_of_the_paper_is_here() -> None:
    assert set(CASES) < set(experiment_names(ROOT / "experiments"))


@pytest.mark.parametrize("name", CASES)
def test_its_header_says_what_to_expect_and_how_to_run_it(name: str) -> None:
    text = (ROOT / "experiments" / f"{name}.yaml").read_text()
    head = text[: text.index("prepare:")]
    for part in ("JEI-DNN" if "32px" in name else "Fig. 3", "# Expected: ", "Run time", "Disk: "):
        assert part in head
    assert "AMD EPYC" in head or "Intel Xeon" in head
    assert f"# Command: quee run {name}\n" in head
    experiment = load_experiment(name, ROOT / "experiments")
    assert experiment.backbone.weights in PUBLISHED
    assert (experiment.backbone.mode == "pretrained") == (experiment.prepare.splits.evaluation_set == "held_out")
    assert experiment.report.title


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_runs_from_the_public_files_to_the_bundle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data, write_weights, splits, size = CASES[name]
    shrink(name, splits, size)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    experiment = load_experiment(name)
    dataset, weights = experiment.prepare.dataset, experiment.backbone.weights
    assert weights is not None
    import_dataset(dataset, write_data(Path("files")), Path("data") / dataset)
    known = PUBLISHED[weights]
    file, *head = write_weights(tmp_path)
    import_weights(known.backbone, file, weights_path(weights), next(iter(head), None), known.trained_on)

    threads = torch.get_num_threads()
    for stage in stage_names(Path()):
        run_stage(stage, import_module(f"tasks.{stage}").run, name)
    torch.set_num_threads(threads)

    out = Path("artifacts") / name
    described = read_json(out / "backbone" / "backbone.json")
    ids = split_ids(out / "prepare" / "splits.parquet")
    if experiment.backbone.mode == "pretrained":
        assert described["fitted_on"] == "official training set"
    else:
        assert described["fitted_on"] == ids["train"].tolist()
        assert read_table(out / "backbone" / "history.parquet").num_rows == 1
    assert described["weights"]["trained_on"] == list(known.trained_on)
    held_out = sum(len(ids[split]) for split in ("predictor", "validation", "certification", "test"))
    tree = read_json(out / "features" / "tree.json")
    parts = [read_table(part, ["split", "node"]) for part in sorted((out / "features").glob("part-*.parquet"))]
    nodes = np.concatenate([part["node"].to_numpy() for part in parts])
    assert len(nodes) == held_out * (nodes.max() + 1)
    assert len(tree["nodes"]) == (48 if "imagenet" in name else 120)
    assert {split for part in parts for split in part["split"].to_pylist()} >= {"predictor", "certification", "test"}
    assert {"quee_plan", "quee_fitted_q", "static_hull", "oracle"} < set(
        read_json(out / "evaluate/metrics.json")["methods"]
    )
    assert (out / "report" / "report.html").stat().st_size > 10_000
    pixels = np.zeros((2, *((40, 50) if dataset == "imagenet" else (32, 32)), 3), np.uint8)
    assert load_bundle(out / "bundle").predict(pixels, budget=0.2).shape == (2,)
