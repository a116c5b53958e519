"""`prepare` refuses, within seconds, settings that later stages could not use, with the key or class and advice."""

from typing import Any

import numpy as np
import pytest
import yaml
from tiny_project import Tiny
from tiny_project import tiny as tiny

from quee.errors import UsageError
from quee.network.device import gpus
from quee.settings.experiment import load_experiment, parse_experiment
from quee.settings.paths import Paths
from quee.work.io import read_json, read_table
from tasks.dvc.plan import Step
from tasks.requirements import refuse_unworkable

EVEN = {"a": 60, "b": 60}
FEW = {"train": 0.45, "calibration": 16}
Case = tuple[dict[str, int], dict[str, Any], str]
REFUSED: dict[str, Case] = {
    "one class": ({"a": 100}, {}, "data/patches: 1 class; a classifier needs two"),
    "one picture alone": ({**EVEN, "rare": 1}, {}, r"too few images of 1 of 3 classes \(rare: 1\); each class needs 2"),
    "an empty class": ({**EVEN, "void": 0}, {}, r"1 of 3 classes \(void: 0\).*add images"),
    "labels from 1": ({"0": 0, **EVEN}, {}, r"1 of 3 classes \(0: 0\)"),
    "many empty": ({**EVEN, **{f"v{i}": 0 for i in range(9)}}, {}, r"9 of 11 classes \(v0: 0, .*v4: 0 and 4 more\)"),
    "more classes than training samples": (
        {f"c{i}": 2 for i in range(60)}, {"prepare": {"splits": {**FEW, "train": 0.3}}},
        r"prepare\.splits\.train: 0\.3 of 120 samples are 36, for 60 classes",
    ),
    "classes lost to exits.max_samples": (
        {f"c{i}": 6 for i in range(40)}, {"exits": {"max_samples": 45}}, r"exits\.max_samples: 45 training samples have none of",
    ),
    "calibration above training": (EVEN, {"prepare": {"splits": {"calibration": 100}}}, "100 samples out of 54 in train"),
    "an empty test split": (EVEN, {"prepare": {"splits": {**FEW, "test": 0.001}}}, "too few samples for split 'test'"),
    "a single test sample": (
        EVEN, {"prepare": {"splits": {**FEW, "test": 0.01}}}, r"prepare\.splits\.test: 0\.01 is 1 of .* at least 2 are needed",
    ),
    "no certification sample": (
        EVEN, {"prepare": {"splits": {**FEW, "test": 0.1, "certification": 0.001}}}, "split 'certification'",
    ),
    "more clusters than samples": (EVEN, {"targets": {"clusters": 31}}, r"targets\.clusters: 31 .* there are 30"),
    "more folds than samples": (
        {"a": 20, "b": 20}, {"policies": {"fitted_q": {"folds": 11}}}, r"policies\.fitted_q\.folds: 11 .* there are 10",
    ),
    "more components than states": (
        {"a": 20, "b": 20}, {"exits": {"embedding": 20}}, r"exits\.embedding: 20 .* there are 18",
    ),
    "more components than the state is wide": (EVEN, {"exits": {"embedding": 33}}, r"33 components of a state 32 wide"),
    "a pooling that is not one": (EVEN, {"exits": {"pooling": "grid4"}}, r"exits\.pooling: unknown pooling 'grid4'; valid"),
    "a class token that is not there": (
        EVEN, {"exits": {"pooling": "cls"}, "backbone": {"name": "resnet20_cifar", "kwargs": {"depth": 3}, "gates": [1, 3]}},
        r"exits\.pooling: pooling 'cls' reads a class token, and resnet20_cifar has none",
    ),
    "a policy that cannot be deployed": (
        EVEN, {"bundle": {"policy": "oracle"}}, r"bundle\.policy: unknown policy 'oracle'.*valid: auto, confidence_by_gate",
    ),
    "a policy that needs the numbers of more classes than are kept": (
        {f"c{i}": 9 for i in range(101)}, {"bundle": {"policy": "ztw"}},
        r"bundle\.policy: 'ztw' mixes .* of at most 100 classes, and the data set has 101; valid: auto, .*static_mixture$",
    ),
    "gates beyond the depth": (EVEN, {"backbone": {"gates": [1, 3]}}, r"backbone\.gates: gates \[1, 3\]: the last .* be 2, "),
    "more measured gates than blocks": (EVEN, {"backbone": {"gates": {"auto": 3}}}, r"gates: auto: 3 gates; .* 2 blocks"),
    "gates before the end": (EVEN, {"backbone": {"gates": [1]}}, r"backbone\.gates: gates \[1\]"),
    "kwargs nobody takes": (EVEN, {"backbone": {"kwargs": {"colour": 3}}}, "backbone 'vit_digits' cannot be built"),
    "other classes in kwargs": (
        EVEN, {"backbone": {"kwargs": {"num_classes": 7, "depth": 2}}}, r"num_classes: 7; the data set has 2 classes",
    ),
    "a format of products that are not there": (
        EVEN, {"quantize": {"float_products": "int8"}}, r"quantize: float_products: int8 is for .* has none: leave it out",
    ),
    "a layer that is not there": (EVEN, {"quantize": {"layers": {"block.*": "w8a8"}}}, r"quantize: no layer is called 'block"),
    "a file in kwargs": (EVEN, {"backbone": {"kwargs": {"checkpoint_path": "x"}}}, r"backbone\.kwargs\.checkpoint_path"),
    "small images that end with others than the network's": (
        EVEN, {"backbone": {"sizes": {4: 0.5, 6: 0.5}}}, r"backbone\.sizes: 6 is the last side, and vit_digits takes images of 8",
    ),
    "small images for another table of positions": (
        EVEN, {"backbone": {"sizes": {4: 0.5, 8: 0.5}}}, r"sizes: vit_digits cannot be trained on images of 4 .* 'pos_embed'",
    ),
    "small images of a size that there is not": (
        EVEN, {"backbone": {"name": "t2t_vit_7", "kwargs": {"depth": 2, "img_size": 32}, "sizes": {24: 0.5, 32: 0.5}}},
        r"backbone\.sizes: t2t_vit_7 takes no images of 24 pixels: .* must be a multiple of 16",
    ),
    "drawn images of a data set that is not drawn": (
        EVEN, {"backbone": {"drawn": True}}, r"backbone\.drawn: patches is not drawn; valid with cluttered_fashion, street_char",
    ),
    "drawn images of sources that are held out": (
        EVEN, {"prepare": {"dataset": "cluttered_fashion"}, "backbone": {"drawn": True}},
        r"backbone\.drawn: .* prepare\.splits\.evaluation_set must be 'held_out'; got 'pooled'",
    ),
    "too many nodes": (EVEN, {"paths": {"max_nodes": 5}}, r"paths\.max_nodes is 5, but 2 precisions over 2 segments make 6"),
    "no training share": (EVEN, {"prepare": {"splits": {"train": 0.0}}}, "train, predictor, validation and test must each be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_later_stage_could_not_make_is_refused_at_the_start(tiny: Tiny, case: str) -> None:
    counts, blocks, message = REFUSED[case]
    tiny.data(counts)
    tiny.write(**blocks)
    for limit in (None, 200):  # a smoke run refuses what the whole run would
        with pytest.raises(UsageError, match=message):
            tiny.run("prepare", limit=limit)
    assert not (tiny.root / "artifacts/tiny/prepare").exists()


def test_faults_are_told_together_with_the_file(tiny: Tiny) -> None:
    tiny.data({**EVEN, "void": 0})
    tiny.write(targets={"clusters": 300})
    with pytest.raises(UsageError) as raised:
        tiny.run("prepare")
    data, clusters = str(raised.value).splitlines()
    assert data.startswith("data/patches: too few images")
    assert clusters.startswith("experiments/tiny.yaml: targets.clusters: 300")


def test_equal_calibration_images_are_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_project.patch", lambda label, number: np.full((8, 8, 1), 9, np.uint8))
    tiny.data(EVEN)
    with pytest.raises(UsageError, match="data/patches: all 16 calibration images are equal"):
        tiny.run("prepare")


def test_pictures_of_the_training_set_alone_must_have_every_class(tiny: Tiny) -> None:
    splits = {**FEW, "evaluation_set": "held_out"}
    tiny.write(prepare={"splits": splits})
    tiny.data({**EVEN, "once": 1}, {"a": 60, "b": 60, "once": 0})
    tiny.run("prepare")
    tiny.data({**EVEN, "never": 0}, {"a": 60, "b": 60, "never": 9})
    with pytest.raises(UsageError, match=r"1 of 3 classes \(never: 0\); each class needs 1, in the training set"):
        tiny.run("prepare")


@pytest.mark.parametrize(("limit", "classes"), [(200, 100), (40, 20), (1000, 300)])
def test_a_smoke_run_draws_from_as_many_classes_as_get_two_each_and_says_so(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], limit: int, classes: int
) -> None:
    tiny.data({f"c{i:03d}": 3 for i in range(300)})
    out = tiny.run("prepare", limit=limit) / "prepare"
    drawn = min(limit, 900)
    assert f"smoke run: {drawn} images of {classes} of 300 classes" in capsys.readouterr().out
    described = read_json(out / "dataset.json")
    assert (len(described["classes"]), len(described["left_out"])) == (300, 300 - classes)
    assert sum(described["splits"].values()) == drawn == read_table(out / "splits.parquet").num_rows


def test_a_smoke_run_of_held_out_data_draws_from_the_same_classes_in_both_sets(tiny: Tiny) -> None:
    tiny.data({f"c{i:03d}": 30 for i in range(300)}, {f"c{i:03d}": 5 for i in range(300)})
    tiny.write(prepare={"splits": {**FEW, "train": 0.08, "evaluation_set": "held_out"}})
    described = read_json(tiny.run("prepare", limit=200) / "prepare" / "dataset.json")
    assert len(described["left_out"]) == 200
    assert described["splits"]["train"] == 200
    assert sum(described["splits"].values()) == 400


def test_precisions_are_taken_in_any_order_and_sorted_by_their_bits() -> None:
    base = {"prepare": {"dataset": "digits"}, "backbone": {"name": "vit_digits"}}
    blocks = ["quantize", "exits", "features", "targets", "predictors", "policies", "evaluate", "report", "bundle"]
    for given in (["w8a8", "w3a3", "w4a4"], ["w4a4", "w8a8", "w3a3"]):
        paths = {"precisions": given, "references": ["fp32", "w2a4"]}
        text = yaml.safe_dump({**base, **{block: {} for block in blocks}, "paths": paths})
        found = parse_experiment("x", text, "experiments/x.yaml").paths
        assert (found.precisions, found.references) == (("w3a3", "w4a4", "w8a8"), ("w2a4", "fp32"))


@pytest.mark.parametrize(
    ("precisions", "references"),
    [
        ("auto", ("w8a8", "fp32")),
        (["w3a3", "w4a4"], ("w8a8", "fp32")),
        (["w4a4", "w8a8"], ("fp32",)),
        (["w8a8", "fp32"], ()),
    ],
)
def test_the_network_that_costs_1_and_the_float_one_are_references_unless_in_the_tree(
    precisions: str | list[str], references: tuple[str, ...]
) -> None:
    found = Paths.model_validate({"precisions": precisions})
    assert found.references == references
    again = Paths.model_validate_json(found.model_dump_json())
    assert again.references == references, "as stages read it"


def steps(*running: str) -> list[Step]:
    return [
        Step("tiny", stage, "run" if stage in running else "unchanged") for stage in ("prepare", "backbone", "targets")
    ]


def test_settings_changed_behind_prepare_are_refused_before_anything_runs(tiny: Tiny) -> None:
    tiny.run("prepare")
    tiny.write(targets={"clusters": 300})
    refuse_unworkable(tiny.root, steps())
    with pytest.raises(UsageError, match=r"experiments/tiny\.yaml: targets\.clusters: 300"):
        refuse_unworkable(tiny.root, steps("targets"))
    tiny.write(backbone={"gates": [1, 3]})
    refuse_unworkable(tiny.root, steps("targets"))
    with pytest.raises(UsageError, match=r"experiments/tiny\.yaml: backbone\.gates"):
        refuse_unworkable(tiny.root, steps("backbone", "targets"))


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_settings_of_the_machine_are_refused_before_anything_runs(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEE_DEVICE", "cuda")
    refuse_unworkable(tiny.root, steps())
    with pytest.raises(UsageError, match="QUEE_DEVICE: cuda, but PyTorch finds no GPU here; valid: auto, cpu"):
        refuse_unworkable(tiny.root, steps("prepare"))
    monkeypatch.setenv("QUEE_DEVICE", "tpu")
    with pytest.raises(UsageError, match="QUEE_DEVICE='tpu'; valid: auto, cpu, cuda"):
        refuse_unworkable(tiny.root, steps("prepare"))
    monkeypatch.setenv("QUEE_WORKERS", "none")
    with pytest.raises(UsageError, match="QUEE_WORKERS='none': give a whole number"):
        refuse_unworkable(tiny.root, steps("prepare"))


def test_experiments_of_this_project_fit_their_networks() -> None:
    from pathlib import Path

    from quee.settings.names import experiment_names
    from quee.settings.requirements import check_network

    folder = Path(__file__).parents[3] / "experiments"
    for name in experiment_names(folder):
        check_network(load_experiment(name, folder))
