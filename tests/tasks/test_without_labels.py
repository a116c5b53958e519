"""A data set without labels through the whole pipeline: agreement everywhere, accuracy on the labelled images alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_project import Tiny, patch
from tiny_project import tiny as tiny

from quee.data import dataset_called
from quee.data.files import DatasetFiles
from quee.data.splits import split_ids
from quee.data.weights import import_weights
from quee.errors import QueeError, UsageError
from quee.measure import LABELLED
from quee.network.architectures import create_backbone
from quee.runtime import load_bundle
from quee.work.io import read_json, read_table
from tasks.mlflow.headlines import Figures
from tasks.mlflow.values import experiment_metrics, stage_metrics
from tasks.verbs.closing import closing_lines
from tasks.verbs.data import add
from tasks.verbs.results import as_json, chosen_methods, load_results, results_table

KWARGS: dict[str, Any] = {"depth": 2, "embed_dim": 16, "num_heads": 2, "in_chans": 3, "num_classes": 4}
NAMES = ("a", "b", "c", "d")


def weights(name: str = "mine", seed: int = 0, stated: bool = True) -> None:
    """A network that tells patches of four classes apart, with its preprocessing stated or not."""
    torch.manual_seed(seed)
    backbone = create_backbone("vit_digits", (1, 2), **KWARGS)
    x = torch.from_numpy(np.stack([patch(k % 4, k) for k in range(160)])).permute(0, 3, 1, 2).float() / 255
    x, y = backbone.input.normalise(x.expand(-1, 3, -1, -1)), torch.arange(160) % 4
    optimizer = torch.optim.AdamW(backbone.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(backbone(x), y).backward()
        optimizer.step()
    torch.save(backbone.state_dict(), "mine.pt")
    transform = backbone.input
    preprocessing = {"mean": list(transform.mean), "std": list(transform.std)} if stated else {}
    kwargs = {k: v for k, v in KWARGS.items() if k != "num_classes"}
    target = Path("data/weights") / f"{name}.safetensors"
    import_weights(
        "vit_digits",
        Path("mine.pt"),
        target,
        None,
        (),
        {**kwargs, **({"preprocessing": preprocessing} if stated else {})},
    )
    Path("names.txt").write_text("\n".join(NAMES) + "\n")


def images(folder: str, count: int, classes: bool, start: int = 1000) -> None:
    for k in range(count):
        label = k % 4
        place = Path(folder, NAMES[label]) if classes else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(patch(label, start + k), 3, axis=2)).save(place / f"{start + k}.png")


def added(**more: object) -> None:
    add("patches", Path("photos"), **{"answers": "mine", "class_order": "names.txt", **more})  # type: ignore[arg-type]


@pytest.fixture
def unlabelled(tiny: Tiny) -> Tiny:
    for file in (tiny.root / "data" / "patches").iterdir():
        file.unlink()
    weights()
    images("photos", 160, classes=False)
    images("known", 48, classes=True, start=5000)
    settings = yaml.safe_load(Path("experiments/tiny.yaml").read_text())
    settings["backbone"] = {"name": "vit_digits", "mode": "pretrained", "weights": "mine", "gates": [1, 2]}
    Path("experiments/tiny.yaml").write_text(yaml.safe_dump(settings))
    return tiny


def test_the_whole_pipeline_says_agreement_and_tells_accuracy_on_labelled_images_alone(unlabelled: Tiny) -> None:
    added(labelled=Path("known"))
    files = DatasetFiles(Path("data/patches"), dataset_called("patches"))
    assert (files.train_samples, files.evaluation_samples, files.labelled_samples) == (160, 0, 48)
    results = unlabelled.run()
    ids = split_ids(results / "prepare" / "splits.parquet")
    assert ids[LABELLED].tolist() == list(range(160, 208))
    cache = read_table(results / "features" / "part-00000.parquet", ["sample_id", "split", "label"])
    truth = {row["sample_id"]: row["label"] for row in cache.to_pylist() if row["split"] == LABELLED}
    assert [truth[k] for k in sorted(truth)] == files.labels[160:].tolist(), (
        "what people said, not what the network says"
    )

    accuracy = read_json(results / "backbone" / "metrics.json")["accuracy"]
    assert accuracy["test"] == accuracy["validation"] == 1.0, "the network agrees with itself"
    metrics = read_json(results / "evaluate" / "metrics.json")
    assert (metrics["measure"], metrics["labelled_samples"], metrics["fp32_accuracy"]) == ("agreement", 48, 1.0)
    rows = read_table(results / "evaluate" / f"{LABELLED}.parquet").to_pylist()
    float_rows = [row for row in rows if row["method"] == "static_fp32"]
    assert all(row["accuracy"] == pytest.approx(accuracy[LABELLED]) for row in float_rows) and float_rows
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)

    page = (results / "report" / "report.html").read_text()
    assert "Agreement at budgets" in page and "Accuracy on labelled images" in page
    assert "have no labels: agreement is with the answers of mine" in page
    told = page.replace("Accuracy on labelled images", "").replace("Accuracy on 48 images", "")
    told = told.replace("--accuracy-loss", "")  # the name of an option
    assert "ccuracy" not in told.partition('id="lineage"')[0]

    bundle = load_bundle(results / "bundle")
    assert bundle.measure.name == "agreement" and bundle.points[-1].labelled is not None
    found = load_results(Path(), "tiny")
    assert as_json(found)["measure"] == "agreement"
    shown = [str(part) for part in results_table(found, chosen_methods(found)).renderables if isinstance(part, str)]
    assert "agreement on test (%)" in shown[0] and any("Accuracy on 48 labelled images" in part for part in shown)
    first = next(closing_lines(Path(), ["tiny"]))
    assert "grees with the float network on" in first and "of 48 labelled images" in first

    def read(stage: str) -> object:
        file = results / stage / "metrics.json"
        return json.loads(file.read_text()) if file.is_file() else None

    names = experiment_metrics(read, ["prepare", "backbone", "quantize", "exits", "evaluate"])
    assert "fp32_agreement" in names and "backbone/accuracy.labelled" in names and "backbone/agreement.test" in names
    assert [name for name in names if "accuracy" in name] == ["backbone/accuracy.labelled"]
    assert not any("accuracy" in name for name in stage_metrics(read("evaluate")))
    shown_in_lists = Figures(read("evaluate"), "auto", 0.2).metrics()
    assert "float agreement" in shown_in_lists and not any("accuracy" in name for name in shown_in_lists)


def test_without_labelled_images_nothing_is_called_accuracy(unlabelled: Tiny) -> None:
    added()
    unlabelled.run("settings", "prepare", "backbone")
    described = read_json(Path("artifacts/tiny/prepare/dataset.json"))
    assert described["measure"] == "agreement" and described["answers"]["weights"] == "mine"
    assert LABELLED not in described["splits"]
    assert set(unlabelled.metrics("backbone")["accuracy"]) == {"validation", "test"}


def test_the_answers_are_those_of_the_float_network_in_the_backbones_own_preprocessing(unlabelled: Tiny) -> None:
    added()
    files = DatasetFiles(Path("data/patches"), dataset_called("patches"))
    truth = [(int(Path(path).stem) - 1000) % 4 for path in files.paths]
    assert np.mean(files.labels == truth) > 0.9 and files.classes == NAMES
    assert len(set(files.labels.tolist())) == 4


CHANGES = {
    "finetune": (
        {"mode": "finetune"},
        "backbone.mode: 'finetune', but the labels of data set 'patches' are the answers",
    ),
    "probe": ({"mode": "linear_probe"}, "a new head has nothing to learn; valid: 'pretrained'"),
    "other weights": ({"weights": "others"}, "backbone.weights: 'others', but the labels of data set 'patches' are"),
    "other images": (
        {"kwargs": {"preprocessing": {"mean": [0.6, 0.6, 0.6], "std": [0.2, 0.2, 0.2]}}},
        r"of its answers are those of 'mine', which are the labels",
    ),
    "far other images": (
        {"kwargs": {"preprocessing": {"mean": [0.9, 0.9, 0.9], "std": [0.05, 0.05, 0.05]}}},
        "of 'mine''s answers to 72 training images are right, which is not above chance",
    ),
}


@pytest.mark.parametrize("which", CHANGES)
def test_a_network_that_did_not_give_the_answers_is_refused(which: str, unlabelled: Tiny) -> None:
    added()
    weights("others", seed=1)
    change, reason = CHANGES[which]
    settings = yaml.safe_load(Path("experiments/tiny.yaml").read_text())
    settings["backbone"] |= change
    Path("experiments/tiny.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UsageError, match=reason):
        unlabelled.run("settings", "prepare", "backbone")


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no names": ({"class_order": None}, "its 4 outputs have no names; give --class-order FILE"),
    "an order": ({"class_order": "natural"}, "with --answers give a file with a name a line"),
    "weights that are not here": ({"answers": "nothing"}, "missing file: data/weights/nothing.safetensors"),
    "unstated": ({"answers": "unstated"}, "how its images are prepared is not stated, and cannot be measured"),
    "no folder": ({"labelled": Path("nowhere")}, "--labelled nowhere: no folder"),
    "no class folders": ({"labelled": Path("photos")}, "its images must be in class folders: a, b, c, d"),
    "another class": ({"labelled": Path("strange")}, "no class of the training set; its classes: a, b, c, d"),
    "labelled alone": ({"answers": None, "labelled": Path("known")}, "goes with --answers WEIGHTS"),
    "groups": ({"group": "groups.csv"}, "--group does not apply to images without labels"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_answered_is_refused_and_nothing_is_added(which: str, unlabelled: Tiny) -> None:
    weights("unstated", stated=False)
    images("strange/z", 4, classes=False)
    change, reason = REFUSED[which]
    with pytest.raises(QueeError, match=reason):
        added(**change)
    assert not list(Path("data/patches").glob("*.parquet"))


def test_registered_data_sets_have_labels(unlabelled: Tiny) -> None:
    with pytest.raises(UsageError, match="--answers does not apply to mnist, whose images have labels"):
        add("mnist", Path("photos"), answers="mine")
