"""`quee init` and `quee start`, outside of a clone: from images and a checkpoint to an experiment that is ready to run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import tasks.verbs.measuring
from quee.cli.main import main
from quee.data.weights_facts import weights_facts, weights_path
from quee.errors import UsageError
from quee.network.architectures import create_backbone
from quee.settings.experiment import load_experiment
from tasks.verbs.unlabelled import network_given

CLASSES = ("blue", "green", "red")
SMALL = {"depth": 2, "embed_dim": 16, "num_heads": 2, "in_chans": 3}
NETWORK = ["--backbone", "vit_digits", *(word for key, value in SMALL.items() for word in ("--set", f"{key}={value}"))]

Call = Callable[..., tuple[int, str, str]]


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Class folders of so many images of each colour."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(reversed(CLASSES)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def write_weights(file: Path, classes: int = 3, photos: Path | None = None) -> Path:
    """A checkpoint with random weights, or trained until it knows the colours of `photos`."""
    torch.manual_seed(0)
    network = create_backbone("vit_digits", num_classes=classes, **SMALL)
    if photos is not None:
        files = sorted(photos.rglob("*.png"))
        pixels = np.stack([np.asarray(Image.open(path)) for path in files])
        x = network.input.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        y = torch.tensor([CLASSES.index(path.parent.name) for path in files])
        optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        assert (network(x).argmax(1) == y).float().mean() > 0.95
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with `photos/`, `sets/train`, `sets/test`, and checkpoints: `net.pth`, `random.pth`, `other.pth` of 5 classes."""
    write_images(tmp_path / "inputs" / "photos", 40)
    write_images(tmp_path / "inputs" / "sets" / "train", 24)
    write_images(tmp_path / "inputs" / "sets" / "test", 24, seed=1)
    write_weights(tmp_path / "inputs" / "net.pth", photos=tmp_path / "inputs" / "photos")
    write_weights(tmp_path / "inputs" / "random.pth")
    write_weights(tmp_path / "inputs" / "other.pth", classes=5)
    return tmp_path / "inputs"


@pytest.fixture
def quee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command in an empty folder; returns status, output and errors."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


def test_images_and_weights_become_an_experiment_with_a_comment_on_each_choice(inputs: Path, quee: Call) -> None:
    status, out, _ = quee(
        "start", inputs / "photos", "--weights", inputs / "net.pth", *NETWORK, "--not-trained-on-these"
    )
    assert status == 0 and out.splitlines()[-1] == "wrote experiments/photos.yaml; next: quee run photos"
    rows = {line.partition(" ")[0]: line for line in out.splitlines()}
    assert "120 for training, 0 for evaluation; 8×8 pixels, RGB" in rows["images"]
    assert "3, in this order: blue, green, red" in rows["classes"] and "vit_digits" in rows["network"]
    assert "mean 0.305" in rows["preprocessing"] and "54 training images" in rows["measured"]
    assert "minutes" in rows["estimate"] and "MB" in rows["estimate"]
    experiment = load_experiment("photos")
    assert experiment.backbone.mode == "pretrained" and experiment.backbone.gates == (1, 2)
    assert experiment.backbone.kwargs == {**SMALL, "num_classes": 3}
    assert experiment.prepare.splits.evaluation_set == "pooled" and experiment.prepare.splits.calibration == 54
    assert weights_facts(weights_path("photos")).trained_on == ()
    listed = yaml.safe_load(Path("params.yaml").read_text())["experiments"]
    assert listed == {"photos": {"data": "data/photos", "weights": "data/weights/photos.safetensors"}}
    lines = Path("experiments/photos.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(" ") and not line.lstrip().startswith(
            ("#", "splits:", "dataset:", "name:", "weights:", "title:", "budget:")
        ):
            assert "#" in line or lines[number - 1].lstrip().startswith("#"), line
    again = quee("start", inputs / "photos", "--weights", inputs / "net.pth", *NETWORK, "--not-trained-on-these")
    assert again[0] == 2 and "experiments/photos.yaml is there already" in again[2]
    status, out, _ = quee("start", "photos", "--weights", "photos", "--name", "second")
    assert status == 0 and load_experiment("second").prepare.dataset == "photos"
    assert list(yaml.safe_load(Path("params.yaml").read_text())["experiments"]) == ["photos", "second"]


@pytest.mark.slow
def test_with_sets_nothing_that_is_measured_was_seen_and_json_says_what_was_chosen(inputs: Path, quee: Call) -> None:
    status, out, err = quee("start", inputs / "sets", "--weights", inputs / "net.pth", *NETWORK, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["command"] == "quee run sets"
    assert found["splits"]["value"] == "held_out" and "nobody said" in found["splits"]["why"]
    splits = load_experiment("sets").prepare.splits
    assert splits.folds == 5 and found["samples"]["train"] == 72 and found["samples"]["test"] == 12
    assert any("accuracy: " in line for line in found["measured"])
    assert found["experiment"] == Path("experiments/sets.yaml").read_text()
    status, out, _ = quee("start", "sets", "--weights", inputs / "other.pth", *NETWORK, "--name", "probe", "--json")
    found = json.loads(out)
    assert (found["mode"]["value"], found["splits"]["value"]) == ("linear_probe", "test")
    assert "head for 5 classes" in found["mode"]["why"] and found["samples"]["test"] == 72
    status, out, _ = quee("start", "sets", "--backbone", "vit_digits", "--name", "new", "--json")
    assert json.loads(out)["mode"]["value"] == "train" and load_experiment("new").backbone.weights is None
    assert load_experiment("new").backbone.kwargs == {"num_classes": 3, "in_chans": 3}  # the images are in colour


def test_a_network_that_only_guesses_is_refused_with_what_stays_and_how_to_go_on(inputs: Path, quee: Call) -> None:
    arguments = ["--weights", inputs / "random.pth", *NETWORK, "--not-trained-on-these"]
    status, _, err = quee("start", inputs / "photos", *arguments)
    assert status in (1, 2) and "chance" in err
    assert (
        "data/photos and data/weights/photos.safetensors stay here: go on with `quee start data/photos --weights photos …`"
        in err
    )
    assert not Path("experiments/photos.yaml").exists()
    assert yaml.safe_load(Path("params.yaml").read_text())["experiments"] == {}


def test_bad_images_are_refused_before_anything_is_added_and_the_same_call_goes_on_without_them(
    inputs: Path, quee: Call
) -> None:
    (inputs / "photos" / "red" / "odd.png").write_bytes(b"no image")
    arguments = ["start", inputs / "photos", "--weights", inputs / "net.pth", *NETWORK, "--not-trained-on-these"]
    status, _, err = quee(*arguments)
    assert status == 4 and "--skip-bad" in err and "here" not in err.splitlines()[-1]
    assert not weights_path("photos").exists() and not list(Path("experiments").iterdir())
    status, out, err = quee(*arguments, "--skip-bad")
    assert status == 0 and "wrote experiments/photos.yaml" in out, err


def test_no_experiment_is_there_until_all_is_measured(inputs: Path, quee: Call) -> None:
    """A killed call leaves none."""
    written: list[bool] = []

    def check(request: Any) -> Any:
        written.append(Path("experiments/photos.yaml").exists())
        (planned,) = request.planned
        assert planned.name == "photos"
        raise UsageError("killed here")

    arguments = ["start", inputs / "photos", "--weights", inputs / "net.pth", *NETWORK, "--not-trained-on-these"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.verbs.measuring, "check", check)
        assert quee(*arguments)[0] == 2 and written == [False]
    assert quee(*arguments)[0] == 0


def test_going_on_works_beside_a_folder_of_the_same_name(inputs: Path, quee: Call) -> None:
    shutil.copytree(inputs / "photos", "photos")
    assert quee("start", "photos", "--weights", inputs / "random.pth", *NETWORK, "--not-trained-on-these")[0] in (1, 2)
    again = ["start", "data/photos", "--weights", "photos"]
    status, _, err = quee(*again, "--set", "depth=2")
    assert status == 2 and "--set goes with a checkpoint file" in err
    keywords = [*NETWORK, "--trained-on", "none", "--replace"]
    assert quee("weights", "add", "photos", inputs / "net.pth", *keywords)[0] == 0
    assert quee(*again)[0] == 0 and Path("experiments/photos.yaml").exists()


def test_images_that_are_enlarged_are_warned_of_where_nothing_can_measure_the_size(inputs: Path, quee: Call) -> None:
    torch.manual_seed(0)
    torch.save(create_backbone("resnet20_cifar", num_classes=5, depth=3).state_dict(), inputs / "convolutions.pth")
    network = ["--backbone", "resnet20_cifar", "--set", "depth=3", "--not-trained-on-these"]
    _, _, err = quee("start", inputs / "photos", "--weights", inputs / "convolutions.pth", *network)
    assert "warning: the images have 8 pixels a side at most and are enlarged to 32" in err
    assert "--set img_size=8 --trained-on none --replace`" in err
    _, _, err = quee(
        *("start", inputs / "photos", "--weights", inputs / "convolutions.pth", *network),
        *("--set", "img_size=8", "--name", "small"),
    )
    assert "warning" not in err


def test_the_same_command_goes_on_after_a_refusal_and_adds_nothing_twice(inputs: Path, quee: Call) -> None:
    command = ["start", inputs / "photos", "--weights", inputs / "random.pth", *NETWORK, "--not-trained-on-these"]
    assert quee(*command)[0] in (1, 2)
    added = [Path("data/photos/train-00000-of-00001.parquet"), weights_path("photos")]
    times = [path.stat().st_mtime_ns for path in added]
    status, _, err = quee(*command)
    assert status in (1, 2) and "chance" in err and [path.stat().st_mtime_ns for path in added] == times
    write_weights(inputs / "random.pth", photos=inputs / "photos")
    status, _, err = quee(*command)  # another file of that name is another call
    assert status == 2 and "data/weights/photos.safetensors is there already" in err


def test_the_order_of_the_outputs_can_be_stated(inputs: Path, quee: Call) -> None:
    state = torch.load(inputs / "net.pth")
    turned = {key: value[[2, 0, 1]] if key.startswith("head.") else value for key, value in state.items()}
    torch.save(turned, inputs / "turned.pth")
    (inputs / "order.txt").write_text("red\nblue\ngreen\n")
    order = ["--class-order", inputs / "order.txt"]
    status, out, err = quee("start", inputs / "photos", "--weights", inputs / "turned.pth", *NETWORK, SEEN, *order)
    assert status == 0, err
    assert "3, in this order: red, blue, green" in out
    assert weights_facts(weights_path("photos")).classes == ("red", "blue", "green")


def damaged(inputs: Path) -> Path:
    (inputs / "bad.pth").write_bytes(b"PK not a file of torch")
    return inputs / "bad.pth"


def flat(inputs: Path) -> Path:
    (inputs / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(inputs / "flat" / "a.png")
    return inputs / "flat"


def named(inputs: Path) -> Path:
    """A folder of transformers whose outputs are called otherwise than the class folders."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    words = dict(enumerate(("cyan", "green", "red")))
    config = ViTConfig(**sizes, image_size=8, patch_size=4, id2label=words, label2id={v: k for k, v in words.items()})
    ViTForImageClassification(config).save_pretrained(inputs / "named")
    return inputs / "named"


def thin(inputs: Path) -> Path:
    """Class folders, one of them with a single image."""
    for file in sorted((inputs / "photos" / "red").iterdir())[1:]:
        file.unlink()
    return inputs / "photos"


def listed(inputs: Path) -> Path:
    (inputs / "order.txt").write_text("red\ngreen\ncyan\n")
    return inputs / "order.txt"


SEEN = "--not-trained-on-these"
PHOTOS: Callable[[Path], list[Any]] = lambda inputs: [inputs / "photos", "--weights", inputs / "net.pth", *NETWORK]  # noqa: E731
REFUSED: dict[str, tuple[Callable[[Path], list[Any]], int, str]] = {
    "no network": (lambda i: [i / "photos"], 2, "give your network: --weights FILE, or --backbone NAME"),
    "an unknown backbone": (lambda i: [i / "photos", "--backbone", "vit_digit"], 2, "did you mean 'vit_digits'"),
    "no folder": (lambda i: [i / "fotos", "--backbone", "vit_digits"], 2, "no folder"),
    "neither folder nor network": (lambda i: [i / "fotos"], 2, "no folder"),
    "no file of weights": (lambda i: [i / "photos", "--weights", i / "no.pth"], 2, "no file"),
    "images without classes": (lambda i: [flat(i), "--backbone", "vit_digits"], 2, "flat"),
    "a damaged checkpoint": (lambda i: [i / "photos", "--weights", damaged(i)], 4, "bad.pth"),
    "weights of another network": (lambda i: [i / "photos", "--weights", i / "net.pth", "--backbone", "vit_digits"], 1, "fit"),
    "nobody said what was seen": (PHOTOS, 2, "Give --trained-on-these, or --not-trained-on-these"),
    "all was seen": (lambda i: [*PHOTOS(i), "--trained-on-these"], 2, "accuracy cannot be measured on them"),
    "seen by nothing": (lambda i: [i / "photos", "--backbone", "vit_digits", "--trained-on-these"], 2, "about --weights"),
    "outputs of other names": (lambda i: [i / "photos", "--weights", named(i), SEEN], 2, "without blue and with cyan; the data"),
    "too few images of a class": (lambda i: [thin(i), *PHOTOS(i)[1:], SEEN], 2, "too few images of 1 of 3 classes (red: 1)"),
    "a class order of other names": (lambda i: [*PHOTOS(i), SEEN, "--class-order", listed(i)], 2, "without blue and with cyan"),
    "a bad name": (lambda i: [i / "photos", "--backbone", "vit_digits", "--name", "A b"], 2, "give --name NAME"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_what_leads_nowhere_is_refused_before_anything_is_made(which: str, inputs: Path, quee: Call) -> None:
    arguments, wanted, reason = REFUSED[which]
    status, _, err = quee("start", *arguments(inputs))
    assert (status, reason in err) == (wanted, True), err
    assert len(err.splitlines()) <= 2 and [path for path in Path().iterdir() if path.name != ".quee"] == []


def test_init_says_what_it_made_and_what_comes_next(quee: Call) -> None:
    status, out, _ = quee("init", "new", "--no-git")
    assert status == 0 and "dvc.yaml" in out and out.endswith("next: cd new && quee start IMAGES\n")
    status, out, _ = quee("init", "new", "--json")
    assert status == 0 and ".git" in json.loads(out)["made"][0]
    assert quee("plan")[0] == 2  # this folder is no project


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_an_empty_folder_to_a_classifier(inputs: Path, quee: Call) -> None:
    assert quee("start", inputs / "photos", "--weights", inputs / "net.pth", *NETWORK, "--not-trained-on-these")[0] == 0
    status, out, err = quee("run", "photos")
    assert status == 0 and "12 ran" in out, err
    assert quee("plan", "--check")[0] == 0 and quee("doctor")[0] == 0 and quee("track")[0] == 0
    status, out, _ = quee("predict", "artifacts/photos/bundle", inputs / "photos" / "red", "--budget", "1", "--json")
    assert status == 0
    Path("installed.json").write_text('{"digest": "of an older version"}')
    assert quee("plan", "--check")[0] == 0  # the code of no stage changed


def test_images_without_labels_are_answered_by_the_network(inputs: Path, quee: Call) -> None:
    """Weights and images are added, the experiment is written, and the same command again finds what is here."""
    loose = inputs / "loose"
    loose.mkdir()
    for number, file in enumerate(sorted((inputs / "photos").rglob("*.png"))):
        shutil.copy(file, loose / f"{number}.png")
    (inputs / "names.txt").write_text("\n".join(CLASSES) + "\n")
    network = create_backbone("vit_digits", num_classes=3, **SMALL).input
    stated = f"preprocessing={{mean: {list(network.mean)}, std: {list(network.std)}}}"
    words = [
        "start",
        str(loose),
        "--class-order",
        str(inputs / "names.txt"),
        "--labelled",
        str(inputs / "sets" / "test"),
    ]
    status, _, error = quee(*words)
    assert status == 2 and "so that its images have no labels: give a trained network" in error
    words += ["--weights", str(inputs / "net.pth"), *NETWORK, "--set", stated, "--not-trained-on-these"]
    status, output, error = quee(*words)
    assert status == 0, error
    assert "labels are the answers of loose" in output and "72 images" in output
    experiment = load_experiment("loose")
    assert (experiment.backbone.mode, experiment.backbone.weights) == ("pretrained", "loose")
    status, _, error = quee(*words)
    assert status == 2 and "experiments/loose.yaml is there already" in error


@pytest.mark.parametrize("weights", ["/nowhere/net.pth", "net.pth", "nothing"])
def test_images_without_labels_and_a_checkpoint_that_is_not_there_are_refused_before_anything_is_made(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"no file '{weights}', and no weights of that name here"):
        network_given("photos", tmp_path / "photos", weights, False)
    assert list(tmp_path.iterdir()) == []
