"""Pretrained weights as inputs of experiments: linked, tracked, pulled, named when missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_project import Project, experiment

from quee.backbones import create_backbone
from quee.data.weights import import_weights

WITH_WEIGHTS = experiment(
    prepare="{dataset: digits, seed: 1}", backbone="{name: vit_digits, mode: finetune, weights: mine}"
)


@pytest.fixture
def with_weights(project: Project) -> Project:
    """The toy project, its first stage depending on weights; `tuned` has some, `toy` has none."""
    project.edit("dvc.yaml", '"experiments/${item.experiment}.data"]', LINKS)
    project.write("experiments/toy.weights", "no pretrained weights\n")
    project.write("experiments/tuned.yaml", "# With weights.\n" + WITH_WEIGHTS)
    return project


LINKS = '"experiments/${item.experiment}.data", "experiments/${item.experiment}.weights"]'


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
    link = project.root / "experiments/tuned.weights"
    assert link.is_symlink()
    assert link.resolve() == project.root / "data/weights/mine.safetensors"
    assert "didn't change, skipping" in project.do("dvc", "repro")
    add_weights(project, 1, "--replace")
    assert reasons(project, "tuned") == ["experiments/tuned.weights: modified"]
    assert reasons(project, "toy") == []
    assert "Running stage 'prepare@tuned'" in project.do("dvc", "repro")
    project.edit("experiments/tuned.yaml", "mode: finetune, weights: mine", "mode: train")
    project.quee("run", "tuned")
    assert not link.is_symlink()
    assert link.read_text() == "no pretrained weights\n"


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
    assert (clone.root / "experiments/tuned.weights").is_symlink()
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
    assert project.read("params.yaml").endswith("[toy]\n")
