import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from quee.data.source import open_dataset
from quee.data.weights_facts import seen_samples, weights_facts, weights_path
from quee.data.writer import encode_png
from quee.errors import IntegrityError, QueeError, UsageError
from quee.network.architectures import create_backbone
from quee.network.files import save_backbone
from quee.work.io import write_json
from tasks.dvc.lock import ignored_by
from tasks.verbs.data import data_app, describe, weights_app


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quee(app, *arguments):
    """Output of a command; its error is raised, as the command line's entry point sees it."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def write_folders(folder, count=6):
    for index in range(count):
        path = folder / "train" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        path.write_bytes(encode_png(pixels.numpy()))


def test_add_list_and_check(project):
    write_folders(Path("files"))
    assert "added data/birds: 6 images, 2 classes" in quee(data_app, "add", "birds", "files")
    rows = {row["name"]: row for row in json.loads(quee(data_app, "list", "--json"))}
    assert rows["birds"]["samples"] == 6
    assert rows["birds"]["classes"] == ["a", "b"]
    assert len(rows["birds"]["digest"]) == 64
    assert not rows["cifar10"]["present"]
    assert "cifar-10-python.tar.gz" in rows["cifar10"]["source"]
    listed = quee(data_app, "list")
    assert "birds" in listed
    assert "not there" in listed
    assert quee(data_app, "check", "birds").strip() == "data/birds: 6 images can be decoded"


def test_long_names_keep_their_columns(project):
    write_folders(Path("files"))
    name = "birds_of_a_name_that_is_longer_than_others"
    quee(data_app, "add", name, "files")
    places = {
        line.index(word)
        for line in quee(data_app, "list").splitlines()
        for word in ("6 + 0", "not there")
        if word in line
    }
    assert places == {len(name) + 1}
    Path("data/weights").mkdir(exist_ok=True)
    Path(f"data/weights/{name}.dvc").touch()
    assert {line.index("not there") for line in quee(weights_app, "list").splitlines()} == {len(name) + 1}


@pytest.mark.parametrize("rule", ["/data/birds*", "*.dvc", "/data/"])
def test_a_dvc_file_that_git_ignores_is_refused_before_anything_is_imported(project, rule):
    write_folders(Path("files"))
    subprocess.run(["git", "init", "-q"], check=True)
    Path(".dvc").mkdir()
    Path(".gitignore").write_text(f"# own\n{rule}\n")
    for app, name in ((data_app, "birds"), (weights_app, "birds_of_mine")):
        with pytest.raises(UsageError) as refused:
            quee(app, "add", name, "files", *(["--backbone", "vit_digits"] if app is weights_app else []))
        said = str(refused.value)
        assert "would not be tracked: git ignores data/" in said and f"{rule!r} (.gitignore, line 2)" in said
        if rule == "/data/birds*":
            break
    assert not Path("data").exists() and not Path(".quee").exists()


def test_what_data_are_from_is_kept_in_their_dvc_file(project):
    file = Path("birds.dvc")
    file.write_text("# kept\nouts:\n- md5: 0a1b.dir\n  size: 5\n  hash: md5\n  path: birds\n")
    describe(file, "from Debian's package birds 1.0")
    text = file.read_text()
    assert text.startswith("# kept\nouts:\n- md5: 0a1b.dir\n") and "desc: from Debian's package birds 1.0\n" in text
    describe(Path("none.dvc"), "nothing")
    assert not Path("none.dvc").exists()


def test_a_rule_that_is_taken_back_refuses_nothing(project):
    subprocess.run(["git", "init", "-q"], check=True)
    Path(".gitignore").write_text("/data/*\n!/data/*.dvc\n")
    assert ignored_by(Path(), Path("data/birds.dvc")) is None
    assert ignored_by(Path(), Path("data/birds")) == "the rule '/data/*' (.gitignore, line 1)"


def test_of_what_is_tracked_and_not_here_the_command_that_brings_it_is_told(project):
    Path("data/weights").mkdir(parents=True)
    for pointer, path in {
        "data.dvc": "data/digits",
        "data/birds.dvc": "birds",
        "data/weights/own.dvc": "own.safetensors",
    }.items():
        Path(pointer).write_text(f"outs:\n- path: {path}\n")
    listed = quee(data_app, "list")
    for name, pointer in (("digits", "data.dvc"), ("birds", "data/birds.dvc")):
        assert f"not there: `dvc pull {pointer}`" in next(line for line in listed.splitlines() if line.startswith(name))
        with pytest.raises(IntegrityError, match=f"data/{name} is not here yet: `dvc pull {pointer}`"):
            quee(data_app, "check", name)
    assert "`dvc pull data/weights/own.dvc`" in quee(weights_app, "list")
    with pytest.raises(
        IntegrityError, match="missing file: data/weights/own.safetensors; `dvc pull data/weights/own.dvc`"
    ):
        weights_facts(weights_path("own"))


def test_what_is_left_out_is_in_the_closing_lines_and_in_the_json(project):
    write_folders(Path("files"))
    for name in ("train/a/x.tif", "train/b/.DS_Store", "train/zebra/y.tif"):
        path = Path("files") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    lines = quee(data_app, "add", "birds", "files").splitlines()
    assert lines[0].startswith("added data/birds: 6 images, 3 classes (a, b, zebra), digest ")
    assert lines[1] == "left out: 2 .tif, 1 hidden file; no image of class zebra"
    facts = json.loads(quee(data_app, "add", "birds", "files", "--replace", "--json"))
    assert facts["samples"] == 6
    assert [item["what"] for item in facts["report"]["left_out"]] == ["2 .tif", "1 hidden file"]
    assert facts["report"]["without_image"] == ["zebra"]


def test_files_that_are_of_no_set_in_use_are_listed(project):
    write_folders(Path("files"))
    quee(data_app, "add", "birds", "files")
    assert "not used" not in quee(data_app, "list")
    made = Path("data/birds/train-00000-of-00001.parquet").read_bytes()
    for name in ("test-0.parquet", "validation-0.parquet"):
        (Path("data/birds") / name).write_bytes(made)
    assert "not used: validation-0.parquet" in quee(data_app, "list")


def test_bad_images_stop_an_import_or_are_left_out_of_it(project):
    write_folders(Path("files"), 8)
    for i in range(2):
        Path(f"files/train/a/bad{i}.png").write_bytes(b"no image")
    with pytest.raises(QueeError, match="2 of 10 images cannot be used; --skip-bad"):
        quee(data_app, "add", "birds", "files")
    said = quee(data_app, "add", "birds", "files", "--skip-bad")
    assert "added data/birds: 8 images" in said
    assert "skipped 2 images that cannot be used:" in said
    assert "files/train/a/bad0.png: not a readable" in said


def test_the_evaluation_set_and_the_configuration_are_chosen(project):
    write_folders(Path("files"))
    for name in ("valid", "test"):
        shutil.copytree("files/train", f"files/{name}")
    assert "evaluation set: test/" in quee(data_app, "add", "birds", "files")
    said = quee(data_app, "add", "birds", "files", "--evaluation", "valid", "--replace")
    assert "evaluation set: valid/" in said
    assert "folder test/ (6 images; --evaluation test takes it)" in said
    assert "6 evaluation images that are in the training set too" in said
    with pytest.raises(UsageError, match="--config does not apply to class folders"):
        quee(data_app, "add", "birds", "files", "--config", "fine", "--replace")


def test_check_reports_bad_images_by_id(project):
    write_folders(Path("files"))
    quee(data_app, "add", "birds", "files")
    images = open_dataset(Path("data/birds"), "birds")
    from quee.data.writer import Sample, write_images

    samples = [Sample(*images.encoded[i], int(images.labels[i])) for i in range(6)]
    samples[4] = samples[4]._replace(data=samples[4].data[:300])
    write_images(images.files[0], samples, images.classes)
    with pytest.raises(QueeError, match="1 of 6 images cannot be decoded"):
        quee(data_app, "check", "birds")
    done = CliRunner().invoke(data_app, ["check", "birds", "--json"])
    (fault,) = json.loads(done.stdout)["bad"]
    assert fault.startswith(f"data/birds: sample 4 ({samples[4].path}): does not decode")


def test_added_data_is_tracked_by_dvc_and_replaced_only_when_asked(project):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    write_folders(Path("files"))
    quee(data_app, "add", "birds", "files")
    before = Path("data/birds.dvc").read_text()
    assert "path: birds" in before
    assert "/birds" in Path("data/.gitignore").read_text()
    write_folders(Path("files"), 8)
    with pytest.raises(UsageError, match="data/birds is there already"):
        quee(data_app, "add", "birds", "files")
    assert "8 images" in quee(data_app, "add", "birds", "files", "--replace")
    assert Path("data/birds.dvc").read_text() != before
    shutil.rmtree("data/birds")
    rows = {row["name"]: row for row in json.loads(quee(data_app, "list", "--json"))}
    assert not rows["birds"]["present"]


def test_weights_are_checked_against_their_backbone(project):
    backbone = create_backbone("vit_digits", num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in backbone.state_dict().items()}}, "w.pth.tar")
    said = quee(weights_app, "add", "mine", "w.pth.tar", "--backbone", "vit_digits")
    assert "added data/weights/mine.safetensors" in said
    kept = load_file("data/weights/mine.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in backbone.state_dict().items())
    (row,) = json.loads(quee(weights_app, "list", "--json"))
    assert row["name"] == "mine"
    assert row["bytes"] > 1000
    with pytest.raises(UsageError, match="is there already"):
        quee(weights_app, "add", "mine", "w.pth.tar", "--backbone", "vit_digits")


def test_weights_that_do_not_fit_are_refused(project):
    state = dict(create_backbone("vit_digits").state_dict())
    removed = next(iter(state))
    torch.save({key: value for key, value in state.items() if key != removed} | {"other": torch.zeros(1)}, "w.pth")
    with pytest.raises(QueeError, match=f"missing keys: {removed}; left-over keys: other"):
        quee(weights_app, "add", "vit_digits", "w.pth")
    with pytest.raises(UsageError, match="does not tell its backbone: give --backbone NAME"):
        quee(weights_app, "add", "vit_digit", "w.pth")
    assert not Path("data").exists()


def test_weights_say_what_they_were_read_as_and_take_the_backbones_keywords(project):
    backbone = create_backbone("vit_digits", num_classes=3, depth=2, in_chans=3)
    torch.save(
        {"state_dict": {f"model.{k}": v.bfloat16() for k, v in backbone.state_dict().items()}, "epoch": 1}, "w.ckpt"
    )
    options = ("--set", "depth=2", "--set", "in_chans=3")
    said = quee(weights_app, "add", "mine", "w.ckpt", "--backbone", "vit_digits", *options)
    assert "parameters of vit_digits depth=2 in_chans=3, trained on unknown data" in said
    assert "read as: timm ViT; of 'state_dict'; without the prefix 'model.'; bfloat16 as float32" in said
    assert (
        "images are prepared with mean 0.305, 0.305, 0.305, std 0.376, 0.376, 0.376, bicubic, crop 1; the backbone's own"
        in said
    )
    (row,) = json.loads(quee(weights_app, "list", "--json"))
    assert row["kwargs"] == {"depth": 2, "in_chans": 3}
    assert row["read_as"].startswith("timm ViT; ")
    with pytest.raises(UsageError, match="in_chans 4; images are decoded to 1 channel"):
        quee(weights_app, "add", "other", "w.ckpt", "--backbone", "vit_digits", "--set", "in_chans=4")
    with pytest.raises(UsageError, match="colour"):
        quee(weights_app, "add", "other", "w.ckpt", "--backbone", "vit_digits", "--set", "colour=red")
    assert [row["name"] for row in json.loads(quee(weights_app, "list", "--json"))] == ["mine"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("CIFAR-10,mine", "--trained-on CIFAR-10: the data set is called cifar10 here"),
        ("imagenet,Fashion MNIST", "the data set is called fashion_mnist here"),
        ("cifar10,none", "--trained-on none: stands alone"),
    ],
)
def test_data_sets_that_weights_have_seen_go_by_their_names_here(project, names, reason):
    torch.save(dict(create_backbone("vit_digits").state_dict()), "w.pth")
    with pytest.raises(UsageError, match=reason):
        quee(weights_app, "add", "own", "w.pth", "--backbone", "vit_digits", "--trained-on", names)
    said = quee(weights_app, "add", "own", "w.pth", "--backbone", "vit_digits", "--trained-on", "imagenet,laion")
    assert "trained on imagenet, laion" in said and "no data set is called laion here;" in said


def test_the_samples_that_weights_have_seen_are_stated_by_their_original_names(project):
    write_folders(Path("files"), 40)
    quee(data_app, "add", "birds", "files")
    torch.save(create_backbone("vit_digits").state_dict(), "w.pth")
    add = ("add", "own", "w.pth", "--backbone", "vit_digits", "--replace")
    said = quee(weights_app, *add, "--trained-on", "birds,imagenet")
    assert "trained on birds (40 images, known one by one), imagenet" in said
    Path("names.txt").write_text("0.png\n7.png\n")
    for option, count in (("--never-seen", 38), ("--seen", 2)):
        said = quee(weights_app, *add, "--trained-on", "birds", option, "names.txt")
        assert f"trained on birds ({count} images, known one by one)" in said
    images = open_dataset(Path("data/birds"), "birds")
    assert {images.paths[i] for i in seen_samples("own", images, "birds").nonzero()[0]} == {"a/0.png", "b/7.png"}
    with pytest.raises(UsageError, match="--seen names.txt: names images of one data set .* there are 0: none"):
        quee(weights_app, *add, "--trained-on", "imagenet", "--seen", "names.txt")
    with pytest.raises(UsageError, match="--seen and --never-seen: give one of them"):
        quee(weights_app, *add, "--trained-on", "birds", "--seen", "names.txt", "--never-seen", "names.txt")


def test_weights_are_taken_from_an_experiment_or_a_file_and_never_from_both(project):
    (project / "experiments").mkdir()
    (project / "experiments" / "mine.yaml").write_text(
        "prepare: {dataset: digits}\nbackbone: {name: vit_digits}\n", encoding="utf-8"
    )
    for arguments in ((), ("w.pth", "--from", "mine")):
        with pytest.raises(UsageError, match="give FILE, or --from EXPERIMENT"):
            quee(weights_app, "add", "own", *arguments)
    with pytest.raises(UsageError, match="--trained-on goes with FILE; --from mine knows it"):
        quee(weights_app, "add", "own", "--from", "mine", "--trained-on", "none")
    with pytest.raises(UsageError, match="missing folder: artifacts/mine/prepare; `quee run mine` makes it"):
        quee(weights_app, "add", "own", "--from", "mine")
    with pytest.raises(UsageError, match="unknown experiment 'yours'"):
        quee(weights_app, "add", "own", "--from", "yours")
    backbone, prepared = (project / "artifacts/mine" / stage for stage in ("backbone", "prepare"))
    for folder in (backbone, prepared):
        folder.mkdir(parents=True)
    save_backbone(backbone, create_backbone("vit_digits"), {}, fitted_on=[0, 1, 2, 9], mode="train")
    quee(data_app, "add", "digits")
    files = open_dataset(Path("data/digits"), "digits").digests
    write_json(prepared / "dataset.json", {"dataset": "digits", "files": files})
    said = quee(weights_app, "add", "own", "--from", "mine")
    assert "trained on digits (4 images, known one by one)" in said
    (row,) = json.loads(quee(weights_app, "list", "--json"))
    assert row["seen"] == {"digits": 4} and row["backbone"] == "vit_digits"
