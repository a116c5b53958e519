"""Pretrained weights as inputs of experiments: tracked, pulled, named when missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_project import Project, experiment

from quee.data.weights import import_weights
from quee.data.writer import encode_png
from quee.network.architectures import create_backbone
from quee.work.reach import may_pass
from tasks.dvc.inputs import NotPulledError, ensure_inputs

WITH_WEIGHTS = experiment(
    prepare="{dataset: digits, seed: 1}", backbone="{name: vit_digits, mode: finetune, weights: mine}"
)


@pytest.fixture
def with_weights(project: Project) -> Project:
    """The toy project, its first stage depending on weights; `tuned` has some, `toy` has none."""
    project.edit("dvc.yaml", '"${item.data}"]', '"${item.data}", "${item.weights}"]')
    project.write("experiments/tuned.yaml", "# With weights.\n" + WITH_WEIGHTS)
    return project


def add_weights(project: Project, seed: int, *options: str) -> None:
    torch.manual_seed(seed)
    torch.save(create_backbone("vit_digits").state_dict(), project.root / "w.pth")
    project.quee("weights", "add", "mine", "w.pth", "--backbone", "vit_digits", "--trained-on", "none", *options)


def reasons(project: Project, name: str) -> list[str]:
    output = project.quee("plan", "--json", name)
    stages = json.loads(output[output.index("{") :])["stages"]
    return [reason for stage in stages if stage["stage"] == "prepare" for reason in stage["reasons"]]


def test_missing_inputs_are_named_with_the_way_to_get_them_and_nothing_is_made(with_weights: Project) -> None:
    project = with_weights
    before = sorted(path.name for path in (project.root / "experiments").iterdir()), project.read("params.yaml")
    said = project.quee("run", "tuned", status=4)
    assert "missing file: data/weights/mine.safetensors; `quee weights add mine FILE --backbone BACKBONE`" in said
    project.edit("experiments/tuned.yaml", "weights: mine", "weights: t2t_vit_7")
    project.edit("experiments/tuned.yaml", "dataset: digits", "dataset: cifar10")
    for limit in ([], ["--limit", "9"]):
        said = project.quee("run", "tuned", *limit, status=4)
        assert "missing folder: data/cifar10; get cifar-10-python.tar.gz" in said
        assert "then `quee data add cifar10 cifar-10-python.tar.gz`" in said
        assert "get 71.7_T2T_ViT_7.pth.tar from" in said
        assert "then `quee weights add t2t_vit_7 71.7_T2T_ViT_7.pth.tar`" in said
    assert (
        sorted(path.name for path in (project.root / "experiments").iterdir()),
        project.read("params.yaml"),
    ) == before


@pytest.mark.slow
def test_weights_are_a_dependency_and_other_weights_run_it_again(with_weights: Project) -> None:
    project = with_weights
    add_weights(project, 0)
    assert "path: mine.safetensors" in project.read("data/weights/mine.dvc")
    assert not (project.root / "data/weights/mine.safetensors.dvc").exists()
    project.quee("run", "toy", "tuned")
    assert "    weights: data/weights/mine.safetensors\n" in project.read("params.yaml")
    assert "didn't change, skipping" in project.do("dvc", "repro")
    add_weights(project, 1, "--replace")
    assert reasons(project, "tuned") == ["data/weights/mine.safetensors: modified"]
    assert reasons(project, "toy") == []
    assert "Running stage 'prepare@tuned'" in project.do("dvc", "repro")
    project.edit("experiments/tuned.yaml", "mode: finetune, weights: mine", "mode: train")
    assert "experiments.tuned.weights is data/weights/mine.safetensors" in project.quee("run", "tuned")
    assert "mine" not in project.read("params.yaml")


@pytest.mark.slow
def test_a_fresh_clone_pulls_weights_and_altered_ones_are_named(with_weights: Project, tmp_path: Path) -> None:
    project = with_weights
    add_weights(project, 0)
    project.quee("run", "tuned")
    project.do("dvc", "push", "-q")
    (project.root / ".dvc/config.local").unlink(missing_ok=True)
    project.do("git", "add", "-A")
    project.do("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "with weights")
    clone = Project(tmp_path / "clone")
    project.do("git", "clone", "-q", str(project.root), str(clone.root))
    if not (clone.root / "remote").exists():
        shutil.copytree(project.root / "remote", clone.root / "remote")
    assert not (clone.root / "data/weights/mine.safetensors").exists()
    said = clone.quee("run", "tuned")
    assert "pulling data/weights/mine.safetensors" in said
    assert (clone.root / "data/weights/mine.safetensors").is_file()
    weights = clone.root / "data/weights/mine.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # DVC's own copy may be a link to it
    weights.write_bytes(content[:-4] + b"abcd")
    said = clone.quee("run", "tuned", status=4)
    assert "data/weights/mine.safetensors differs from what data/weights/mine.dvc records" in said


def test_weights_that_have_seen_what_is_held_out_are_refused_first(with_weights: Project) -> None:
    project = with_weights
    torch.save(create_backbone("vit_digits").state_dict(), project.root / "w.pth")
    path = project.root / "data/weights/mine.safetensors"
    import_weights("vit_digits", project.root / "w.pth", path, trained_on=("digits", "mnist"))
    said = project.quee("run", "tuned", status=2)
    assert "experiments/tuned.yaml: backbone.weights: 'mine' have seen the official training set of digits" in said
    assert "tuned" not in project.read("params.yaml")


NOBODY = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "aws",
    "AWS_SHARED_CREDENTIALS_FILE": "aws",
}
SOMEBODY = {**NOBODY, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
REMOTES = {
    "a folder that is gone": ({"url": "../nowhere"}, {}, "do not exist neither locally nor on remote"),
    "a bucket without credentials": ({"url": "s3://bucket-of-nobody/x"}, NOBODY, "Unable to locate credentials"),
    "a bucket that does not answer": (
        {"url": "s3://bucket/x", "endpointurl": "http://127.0.0.1:9"}, SOMEBODY, "Could not connect to the endpoint URL",
    ),
    "a kind that is not installed": ({"url": "ssh://127.0.0.1:9/x"}, {}, "requires 'dvc-ssh' to be installed"),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if "bucket" in n else []) for n in REMOTES])
def test_dvcs_own_words_say_why_data_are_not_to_be_had_and_each_try_says_the_same(project: Project, name: str) -> None:
    settings, environment, words = REMOTES[name]
    for key, value in settings.items():
        project.do("dvc", "remote", "modify", "--local", "embedded", key, value)
    project.do("rm", "-r", "data/digits", ".dvc/cache")
    project.write("aws", "")  # nobody's credentials
    first = project.quee("run", status=4, **environment)
    assert words in first
    assert "data/digits is neither here nor to be pulled from a remote: " in first
    assert "Traceback" not in first
    assert not (project.root / "data/digits").exists()
    assert project.quee("run", status=4, **environment) == first


def test_a_remote_that_does_not_answer_is_tried_again_and_one_without_credentials_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.do("rm", "-r", "data/digits", ".dvc/cache")
    project.write("aws", "")
    monkeypatch.setenv("PYTHONPATH", str(project.root))
    for name, passes in (("a bucket that does not answer", True), ("a bucket without credentials", False)):
        settings, environment, _ = REMOTES[name]
        for key, value in settings.items():
            project.do("dvc", "remote", "modify", "--local", "embedded", key, value)
        for key in SOMEBODY:
            monkeypatch.delenv(key, raising=False)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(NotPulledError) as raised:
            ensure_inputs(project.root, ["toy"], lambda message: None)
        assert may_pass(raised.value) == passes, str(raised.value)


def images(folder: Path) -> Path:
    for index in range(8):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        path.write_bytes(encode_png(pixels.numpy()))
    return folder


def test_data_behind_a_link_is_refused_before_anything_is_imported(project: Project, tmp_path: Path) -> None:
    source = images(tmp_path / "two")
    (project.root / "data").rename(tmp_path / "disk")
    (project.root / "data").symlink_to(tmp_path / "disk")
    first = project.quee("data", "add", "two", str(source), status=2)
    assert f"data is a link to {tmp_path / 'disk'}, and DVC takes no files inside symlinked directories" in first
    assert project.quee("data", "add", "two", str(source), status=2) == first
    assert not (tmp_path / "disk" / "two").exists()


def test_what_dvc_does_not_take_is_not_left_half_made(project: Project, tmp_path: Path) -> None:
    source = images(tmp_path / "two")
    project.write(".dvc/config.local", "[cache]\n    dir = /proc/nowhere\n")  # where nothing can be kept
    first = project.quee("data", "add", "two", str(source), status=1)
    assert "data/two was not kept: DVC did not take it: " in first
    assert not (project.root / "data/two").exists()
    assert project.quee("data", "add", "two", str(source), status=1) == first
