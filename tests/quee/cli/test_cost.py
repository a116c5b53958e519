"""`quee cost` takes experiments, weights and backbones; `--explain` shows exit heads and formats, as named or chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from imported import imported, without

from quee.cli.main import main
from quee.cost import explain, trace_cost
from quee.data.weights import import_weights
from quee.network.architectures import create_backbone
from quee.paths import PathTree, parse_path
from quee.precision import Precision
from quee.settings.experiment import BLOCKS, load_experiment
from quee.trees.settled import Settled
from quee.work.io import write_json


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    return tmp_path / "experiments" / "mine.yaml"


def explained(experiment: Path, path: str, capsys: pytest.CaptureFixture[str], **exits: Any) -> tuple[list[dict], str]:
    """The rows of the exit head, and what was said beside the table."""
    blocks: dict[str, Any] = {block: {} for block in BLOCKS}
    blocks["prepare"] = {"dataset": "digits"}
    blocks |= {"paths": {"precisions": ["w4a4"]}, "quantize": {"mixed": False}}
    blocks["backbone"] = {"name": "vit_digits", "kwargs": {"depth": 4}, "gates": [1, 2, 4]}
    experiment.write_text(yaml.safe_dump({**blocks, "exits": exits}))
    with pytest.raises(SystemExit) as done:
        main(["cost", "mine", "--explain", path, "--json"])
    assert not done.value.code
    out, error = capsys.readouterr()
    return [row for row in json.loads(out)["rows"] if "exit" in row["product"]], error


def test_both_layers_of_a_named_head_are_shown(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = explained(experiment, "w4a4-w3a3", capsys, pooling="cls_mean2x2", head="hidden", hidden=32)
    assert [(row["product"], row["segment"], row["macs"], row["bits"]) for row in rows] == [
        ("exit 2.hidden", 2, 5 * 64 * 32, "8×8"),
        ("exit 2.output", 2, 32 * 10, "8×8"),
    ]
    rows, _ = explained(experiment, "fp32", capsys, pooling="cls", head="linear")
    assert [(row["product"], row["macs"], row["bits"]) for row in rows] == [("exit 1.output", 640, "32×32")]
    assert explained(experiment, "w4a4-w4a4-w4a4", capsys)[0] == []


def test_only_what_the_path_executes_in_floating_point_is_listed(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(path: str) -> dict[str, tuple[int, int]]:
        status, out, _ = said(capsys, "vit_digits", "--set", "depth=4", "--explain", path, "--json")
        assert status == 0
        return {row["kind"]: (row["places"], row["elements"]) for row in json.loads(out)["floating_point"]}

    elements = 17 * 64  # of a state
    assert work("w4a4")["LayerNorm"] == (2, 2 * elements), "two in a block"
    assert work("w4a4-w8a8-w4a4")["residual"] == (3, 6 * elements), "two sums in a block"
    assert work("w4a4-w4a4-w4a4-w4a4")["LayerNorm"] == (9, 8 * elements + 64), "and the one before the head"
    squeezing = ["efficientnet_lite0", "--set", "num_classes=10"]
    assert said(capsys, *squeezing, "--explain", "w4a4", "--json")[0] == 0, "a network of other modules is cut, too"
    _, out, _ = said(capsys, "vit_digits", "--explain", "w4a4")
    assert "these products: " in out and " of the unit" in out


@pytest.mark.parametrize(("dataset", "classes"), [("street_characters", 47), ("cifar100", 1000)])
def test_the_head_is_counted_for_the_classes_of_the_data(
    experiment: Path, capsys: pytest.CaptureFixture[str], dataset: str, classes: int
) -> None:
    blocks: dict[str, Any] = {block: {} for block in BLOCKS}
    blocks["prepare"] = {"dataset": dataset}
    blocks["backbone"] = {"name": "t2t_vit_7", "kwargs": {"img_size": 32}, "gates": [7]}
    experiment.write_text(yaml.safe_dump(blocks))

    def head() -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main(["cost", "mine", "--explain", "w4a4", "--json"])
        assert not done.value.code
        out, error = capsys.readouterr()
        return next(row["macs"] for row in json.loads(out)["rows"] if row["product"] == "head"), error

    macs, said = head()
    assert macs == 256 * classes
    assert ("known once stage backbone has run" in said) == (dataset == "cifar100")
    folder = experiment.parent.parent / "artifacts" / "mine" / "backbone"
    folder.mkdir(parents=True)
    write_json(folder / "backbone.json", {"kwargs": {"num_classes": 12}})
    macs, said = head()
    assert macs == 256 * 12 and "known once" not in said


def test_a_chosen_head_is_shown_once_it_is_chosen(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, said = explained(experiment, "w4a4", capsys)
    assert rows == [] and "without exit head 1" in said and "quee run mine" in said
    folder = experiment.parent.parent / "artifacts" / "mine" / "exits"
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", {"heads": {"1": {"sizes": [1024, 128, 10]}}})
    rows, said = explained(experiment, "w4a4", capsys)
    assert [row["macs"] for row in rows] == [1024 * 128, 128 * 10] and not said


def performer(
    experiment: Path, capsys: pytest.CaptureFixture[str], told: str, path: str = "w4a4"
) -> tuple[set[str], str]:
    """Bits at which the performer's products are counted, and what was said beside the table."""
    blocks: dict[str, Any] = {block: {} for block in BLOCKS}
    blocks["prepare"] = {"dataset": "digits"}
    kwargs = {"depth": 2, "img_size": 16, "in_chans": 1, "num_classes": 10}
    blocks["backbone"] = {"name": "t2t_vit_7", "kwargs": kwargs, "gates": [2]}
    blocks["quantize"] = {"float_products": told, "mixed": False}
    blocks["paths"] = {"precisions": ["w4a4"]}
    experiment.write_text(yaml.safe_dump(blocks))
    with pytest.raises(SystemExit) as done:
        main(["cost", "mine", "--explain", path, "--json"])
    assert not done.value.code
    out, error = capsys.readouterr()
    found = json.loads(out)
    kinds = {work["kind"] for work in found["floating_point"]}
    rows = {row["bits"] for row in found["rows"] if row["kind"] == "float"}
    assert any("32×32" in kind for kind in kinds) == (told == "fp32")
    return rows, error


@pytest.mark.parametrize(("told", "bits"), [("fp32", "32×32"), ("bf16", "16×16"), ("int8", "8×8")])
def test_a_named_format_is_shown(experiment: Path, capsys: pytest.CaptureFixture[str], told: str, bits: str) -> None:
    assert performer(experiment, capsys, told) == ({bits}, "")


def test_a_chosen_format_is_shown_once_it_is_chosen(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, said = performer(experiment, capsys, "auto")
    assert rows == {"16×16"} and "counted as bf16" in said and "quee run mine" in said
    assert performer(experiment, capsys, "auto", "fp32")[0] == {"32×32"}
    folder = experiment.parent.parent / "artifacts" / "mine" / "tree"
    folder.mkdir(parents=True)
    tree = PathTree(["w3a3"], 1)
    Settled(tree, (), (2,), {}, {"format": "int8"}).write(folder)
    assert performer(experiment, capsys, "auto") == ({"8×8"}, "")  # at any precision, of the tree or not


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of `quee cost`."""
    with pytest.raises(SystemExit) as done:
        main(["cost", *words])
    return int(done.value.code or 0), *capsys.readouterr()


def test_a_backbone_and_weights_cost_as_they_are_built(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keywords = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 7}
    options = [word for key, value in keywords.items() for word in ("--set", f"{key}={value}")]
    status, out, _ = said(capsys, "vit_digits", *options, "--json")
    model = trace_cost(create_backbone("vit_digits", **keywords))
    assert status == 0 and json.loads(out)["unit_bitflops"] == model.unit
    torch.save(create_backbone("vit_digits", **keywords).state_dict(), experiment.parent / "w.pth")
    target = experiment.parent.parent / "data" / "weights" / "mine.safetensors"
    given = {key: value for key, value in keywords.items() if key != "num_classes"}
    import_weights("vit_digits", experiment.parent / "w.pth", target, kwargs=given)
    assert said(capsys, "mine", "--json")[1] == out  # the classes are those of the head
    status, out, error = said(capsys, "mine", "--explain", "w4a4-w3a3", "--json")
    assert status == 0 and "without exit head 2, which stage exits of an experiment chooses" in " ".join(error.split())
    rows = json.loads(out)["rows"]
    assert sum(row["bitflops"] for row in rows) == sum(row[-1] for row in explain(model, parse_path("w4a4-w3a3")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digts"], "'digts' is no experiment (there are: mine) and no weights (there are: none); unknown backbone"),
        (
            ["mine", "--set", "depth=2"],
            "--set depth: 'mine' is an experiment; its keywords are in experiments/mine.yaml",
        ),
        (
            ["vit_base_patch16_224.mae"],
            "'vit_base_patch16_224.mae' has no head, whose cost counts: give --set num_classes=N",
        ),
        (["vit_digits", "--set", "deep=2"], "backbone 'vit_digits' cannot be built with {'deep': 2}"),
        (["vit_digits", "--explain", "w4a4-" * 9 + "w4a4"], "has 10 segments; the backbone has 4"),
        (["../mine"], "'../mine' is no experiment"),
    ],
)
def test_other_names_are_refused_with_the_valid_ones(
    words: list[str], message: str, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment.write_text("backbone: {name: vit_digits}\n")
    status, _, error = said(capsys, *words)
    assert status == 2 and message in " ".join(error.split()) and "Traceback" not in error


def test_what_stage_quantize_counted_is_shown_without_a_network(
    experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(**backbone: Any) -> list[dict[str, Any]]:
        blocks: dict[str, Any] = {block: {} for block in BLOCKS}
        blocks |= {"prepare": {"dataset": "digits"}, "paths": {"precisions": ["w4a4", "w8a8"]}}
        blocks |= {"quantize": {"mixed": False}}
        blocks["backbone"] = {"name": "vit_digits", "kwargs": {"depth": 4}, "gates": [1, 2, 4], **backbone}
        experiment.write_text(yaml.safe_dump(blocks))
        with pytest.raises(SystemExit) as done:
            main(["cost", "mine", "--json"])
        assert not done.value.code
        return json.loads(capsys.readouterr().out)["rows"]

    traced = rows()
    settings, folder = load_experiment("mine"), experiment.parents[1] / "artifacts" / "mine"
    for stage in ("tree", "backbone", "quantize"):
        (folder / stage).mkdir(parents=True)
    references = tuple(map(Precision, settings.paths.references))
    settled = Settled(PathTree(["w4a4", "w8a8"], 3), references, (1, 2, 4))
    settled.write(folder / "tree")
    kwargs = {"depth": 4, "num_classes": 10}
    write_json(folder / "backbone" / "backbone.json", {"name": "vit_digits", "gates": [1, 2, 4], "kwargs": kwargs})
    configs = {str(p): config.to_json() for p, config in settled.configs(settings.quantize).items()}
    cost = trace_cost(create_backbone("vit_digits", (1, 2, 4), depth=4)).to_json()
    write_json(folder / "quantize" / "quantization.json", {"configs": configs, "cost": cost})
    with monkeypatch.context() as patch:
        patch.setattr("quee.network.architectures.create_backbone", lambda *_, **__: pytest.fail("made a network"))
        assert rows() == traced
    unused = (*without("PIL", "numpy", "safetensors"), "quee.policies.base", "tasks")
    assert imported(["cost", "mine"], experiment.parents[1], unused) == []
    assert rows(kwargs={"depth": 4, "embed_dim": 32}) != traced  # not what the stage counted
