"""`quee weights check`: what is measured is recorded where stages read it, on images that no experiment holds out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner
from unstated_images import Patterns, brightness, trained

from quee.data.source import open_dataset
from quee.data.weights import import_weights
from quee.data.weights_facts import weights_facts, weights_path
from quee.data.writer import Sample, encode_png, write_images
from quee.errors import UsageError
from quee.network.base import SegmentedBackbone
from quee.settings.experiment import BLOCKS, load_experiment
from tasks.backbone import build
from tasks.verbs.data import weights_app
from tasks.verbs.measuring import calibration

SAME = [0.5, 0.5, 0.5]


def quee(*arguments: object) -> str:
    """Output of a command; its error is raised, as the command line's entry point sees it."""
    done = CliRunner().invoke(weights_app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def network() -> SegmentedBackbone:
    """A network that was trained on values from -1 to 1, which its weights do not say."""
    return trained(brightness, {"mean": SAME, "std": SAME})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: SegmentedBackbone) -> Path:
    monkeypatch.chdir(tmp_path)
    greys(Patterns.classes, Patterns.classes)
    add(network.state_dict())
    return tmp_path


def greys(classes: tuple[str, ...], counted: tuple[str, ...]) -> None:
    """Write the data set: labels by `classes`, which the network counts as `counted`."""
    for split, count in (("train", 240), ("test", 60)):
        patterns = Patterns(brightness, count, seed=len(split))
        rows = zip(patterns.images, patterns.labels, strict=True)
        samples = (Sample(encode_png(np.asarray(image)), "x.png", classes.index(counted[k])) for image, k in rows)
        Path("data/greys").mkdir(parents=True, exist_ok=True)
        write_images(Path(f"data/greys/{split}-00000-of-00001.parquet"), samples, classes)


def add(state: dict[str, Any]) -> None:
    torch.save(state, "w.pth")
    kwargs = {"depth": 3, "img_size": 12}
    import_weights("resnet20_cifar", Path("w.pth"), weights_path("mine"), None, ("greys",), kwargs)


def experiment(evaluation_set: str, **preprocessing: Any) -> None:
    content: dict[str, Any] = {block: {} for block in BLOCKS}
    shares = {"train": 0.5, "calibration": 16, "predictor": 0.2, "validation": 0.1, "test": 0.2}
    shares |= {"predictor": 0.4, "validation": 0.3, "test": 0.3} if evaluation_set == "held_out" else {}
    content["prepare"] = {"dataset": "greys", "splits": {**shares, "evaluation_set": evaluation_set}}
    content["backbone"] = {"name": "resnet20_cifar", "gates": [1, 2, 3], "mode": "pretrained", "weights": "mine"}
    content["backbone"]["kwargs"] = {"depth": 3, "img_size": 12, **preprocessing}
    Path("experiments").mkdir(exist_ok=True)
    Path("experiments/own.yaml").write_text(yaml.safe_dump(content))


def test_what_is_found_is_recorded_and_experiments_take_it(project: Path, network: SegmentedBackbone) -> None:
    before = weights_path("mine").read_bytes()
    assert "none held out by an experiment here" in quee("check", "mine", "greys", "--dry-run")
    assert weights_path("mine").read_bytes() == before
    found = json.loads(quee("check", "mine", "greys", "--json"))
    assert found["accuracy_before"] < 0.5 < 0.9 < found["accuracy"]
    assert found["preprocessing"]["mean"] == SAME and found["preprocessing"]["std"] == SAME
    facts = weights_facts(weights_path("mine"))
    assert facts.preprocessing == found["preprocessing"]
    assert facts.measured == f"on 240 training images of greys: accuracy {100 * found['accuracy']:.1f} %"
    assert f"measured {facts.measured}" in quee("list")
    experiment("held_out")
    backbone, kwargs = build(load_experiment("own").backbone, Patterns.classes)
    assert backbone.input.mean == (0.5, 0.5, 0.5) and list(kwargs["preprocessing"]["std"]) == SAME
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in backbone.state_dict().items())
    again = quee("check", "mine", "greys", "--dry-run")
    assert (
        "stated, so not measured (--all does): channel_order, crop_pct, interpolation, mean, resize, size, std" in again
    )


def test_what_the_user_states_is_recorded_and_never_measured(project: Path) -> None:
    given = ("--state", "mean=[0.485, 0.456, 0.406]", "--state", "std=[0.229, 0.224, 0.225]")
    said = quee("check", "mine", "greys", *given, "--all")
    assert (
        "WARNING: mean and deviation: ImageNet's is stated, and 0.5, so values from -1 to 1 is clearly better" in said
    )
    assert weights_facts(weights_path("mine")).preprocessing["mean"] == [0.485, 0.456, 0.406]
    with pytest.raises(UsageError, match="unknown key 'means'"):
        quee("check", "mine", "greys", "--state", "means=1")
    with pytest.raises(UsageError, match="--state 'mean': give KEY=VALUE"):
        quee("check", "mine", "greys", "--state", "mean")
    with pytest.raises(UsageError, match="--images 5: valid are 50 and more"):
        quee("check", "mine", "greys", "--images", 5)


def test_an_order_of_its_own_is_written_and_stated_by_the_user(project: Path, network: SegmentedBackbone) -> None:
    state = network.state_dict()
    add({key: value.roll(2, 0) if key.startswith("head.") else value for key, value in state.items()})
    with pytest.raises(UsageError, match=r"order of classes: of no known kind.*--write FILE.*Nothing was recorded"):
        quee("check", "mine", "greys")
    with pytest.raises(UsageError, match="order.txt has the order of the outputs; if it is right, state it"):
        quee("check", "mine", "greys", "--write", "order.txt")
    assert Path("order.txt").read_text().split() == ["e", "f", "a", "b", "c", "d"]
    assert weights_facts(weights_path("mine")).measured == ""
    quee("check", "mine", "greys", "--class-order", "order.txt")
    assert weights_facts(weights_path("mine")).classes == ("e", "f", "a", "b", "c", "d")
    experiment("held_out")
    backbone, _ = build(load_experiment("own").backbone, Patterns.classes)
    assert torch.equal(backbone.get_submodule("head").weight, state["head.weight"])


def test_a_known_order_is_recorded(project: Path, network: SegmentedBackbone) -> None:
    counted = ("1", "2", "3", "4", "5", "10")
    greys(tuple(sorted(counted)), counted)
    said = quee("check", "mine", "greys", "--state", f"mean={SAME}", "--state", f"std={SAME}", "--images", 150)
    assert "order of classes: the outputs are sorted by number (timm) (1, 2, 3, 4, and 2 more)" in said
    facts = weights_facts(weights_path("mine"))
    assert facts.classes == counted and facts.preprocessing["mean"] == SAME


def test_images_that_an_experiment_holds_out_take_no_part(project: Path) -> None:
    images = open_dataset(Path("data/greys"), "greys")
    assert calibration(images, "greys").tolist() == list(range(240))
    experiment("held_out")
    assert calibration(images, "greys").tolist() == list(range(240))
    experiment("pooled")
    free = calibration(images, "greys")
    assert 90 < len(free) < 180 and free.max() < 240
    Path("experiments/broken.yaml").write_text("prepare: [")
    assert np.array_equal(calibration(images, "greys"), free)


def test_weights_for_other_classes_are_refused(project: Path, network: SegmentedBackbone) -> None:
    state = network.state_dict()
    add({key: value[:5] if key.startswith("head.") else value for key, value in state.items()})
    with pytest.raises(UsageError, match="'mine' has a head for 5 classes, the data set 6 classes"):
        quee("check", "mine", "greys")
    with pytest.raises(UsageError, match="unknown dataset 'grays' .did you mean 'greys'"):
        quee("check", "mine", "grays")


def test_a_head_with_other_names_is_refused_with_whose_names_they_are(project: Path) -> None:
    Path("names.txt").write_text("a\nb\nc\nd\ne\nz\n")
    with pytest.raises(
        UsageError, match="--class-order names.txt has 6 names, without f and with z; the data set's: a, b, c, d, e"
    ):
        quee("check", "mine", "greys", "--classes", "names.txt")


def test_a_size_that_shapes_do_not_tell_is_measured_recorded_and_then_stated(project: Path) -> None:
    import_weights("resnet20_cifar", Path("w.pth"), weights_path("mine"), None, ("greys",), {"depth": 3})
    found = json.loads(quee("check", "mine", "greys", "--images", 100, "--json"))
    sizes = {row["value"]: row["verdict"] for row in found["rows"] if row["unknown"] == "size of images"}
    assert {"12×12", "32×32"} <= set(sizes)  # the images' own, and the backbone's usual one
    side = found["img_size"]
    assert sizes[f"{side}×{side}"] == ("kept" if side == 32 else "taken")
    assert weights_facts(weights_path("mine")).kwargs["img_size"] == side  # type: ignore[index]
    again = json.loads(quee("check", "mine", "greys", "--images", 100, "--set", "img_size=12", "--json"))
    assert "size" in again["stated"] and again["img_size"] == 12
    assert weights_facts(weights_path("mine")).kwargs["img_size"] == 12  # type: ignore[index]


def test_the_order_of_the_outputs_may_be_a_kind_of_order(project: Path) -> None:
    counted = ("1", "2", "3", "4", "5", "10")
    greys(tuple(sorted(counted)), counted)
    quee("check", "mine", "greys", "--class-order", "natural", "--images", 100)
    assert weights_facts(weights_path("mine")).classes == counted
