"""Experiments are checked before anything runs; a refusal names the place, the value and the valid values."""

import json
from pathlib import Path

import pytest
import yaml

from quee.errors import IntegrityError, UsageError
from quee.settings.evaluate import Certification
from quee.settings.experiment import (
    BLOCKS,
    Experiment,
    is_given,
    load_experiment,
    parse_experiment,
    parse_resolved,
    read_content,
    resolved,
)
from quee.settings.paths import Searched

SOURCE = "experiments/x.yaml"
TEXT = "prepare: {dataset: digits}\nbackbone: {name: vit_digits}\n" + "".join(f"{b}: {{}}\n" for b in BLOCKS[2:])


def parse(text: str) -> Experiment:
    return parse_experiment("x", text, SOURCE)


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert raised.value.exit_status == 2
    message = str(raised.value)
    assert message.startswith(f"{SOURCE}: ")
    assert "\n" not in message
    return message


def with_block(block: str, value: str) -> str:
    content = yaml.safe_load(TEXT)
    content[block] = {**content[block], **yaml.safe_load(value)}
    return yaml.safe_dump(content)


def test_defaults() -> None:
    experiment = parse(TEXT)
    assert experiment.name == "x"
    assert experiment.paths.precisions == Searched(auto=3) and experiment.quantize.mixed == "auto"
    assert experiment.backbone.gates == (2, 4, 6, 8)


@pytest.mark.parametrize(("given", "number"), [("auto", 4), ("{auto: 4}", 4), ("{auto: 7}", 7)])
def test_gates_by_measurement_are_a_number_of_gates_and_survive_resolving(given: str, number: int) -> None:
    paths = "{precisions: [w4a4], references: [fp32]}"
    content = {**yaml.safe_load(TEXT), "paths": yaml.safe_load(paths)}
    content["backbone"] = {**content["backbone"], "gates": yaml.safe_load(given)}
    experiment = parse(yaml.safe_dump(content))
    assert experiment.backbone.segments == number and experiment.backbone.fixed_gates is None
    values = resolved(experiment)
    assert values["backbone"]["gates"] == {"auto": number}
    again = parse_resolved("x", json.dumps(values), SOURCE)
    assert again == experiment


@pytest.mark.parametrize(("given", "number"), [("auto", 3), ("{auto: 3}", 3), ("{auto: 4}", 4)])
def test_precisions_by_measurement_are_a_number_and_survive_resolving(given: str, number: int) -> None:
    experiment = parse(with_block("paths", f"{{precisions: {given}}}"))
    assert experiment.paths.precisions == Searched(auto=number) and experiment.paths.named == ()
    values = resolved(experiment)
    assert values["paths"]["precisions"] == {"auto": number}
    assert parse_resolved("x", json.dumps(values), SOURCE) == experiment


def test_the_tree_of_measured_gates_is_checked_by_their_number() -> None:
    content = yaml.safe_load(with_block("backbone", "{gates: {auto: 9}}"))
    message = refusal(yaml.safe_dump({**content, "paths": {"precisions": ["w3a3", "w4a4", "w8a8"]}}))
    assert "paths.max_nodes is 500, but 3 precisions over 9 segments make 29523 nodes" in message


def test_settings_are_read() -> None:
    text = with_block("backbone", "{gates: [1, 3], learning_rate: 1, kwargs: {depth: 3}, augmentation: {flip: true}}")
    backbone = parse(text).backbone
    assert backbone.gates == (1, 3)
    assert backbone.kwargs == {"depth": 3}
    assert backbone.learning_rate == 1.0
    assert backbone.augmentation.flip


def test_sizes_of_training_images_survive_resolving_in_their_order() -> None:
    experiment = parse(with_block("backbone", "{images: 1000, sizes: {112: 0.25, 8: 0.25, 16: 0.5}, weights: w}"))
    assert list((experiment.backbone.sizes or {}).items()) == [(8, 0.25), (16, 0.5), (112, 0.25)]
    assert (experiment.backbone.images, experiment.backbone.epochs) == (1000, None)
    again = parse_resolved("x", json.dumps(resolved(experiment), sort_keys=True), SOURCE)
    assert again == experiment and list(again.backbone.sizes or {}) == [8, 16, 112]
    plain = parse(TEXT).backbone
    assert (plain.images, plain.epochs, plain.sizes) == (None, 100, None)


COURSES = {
    "{epochs: 3, images: 5}": "backbone: epochs: 3 and images: 5; give one of them",
    "{sizes: {}}": "backbone.sizes: sides of images in pixels, each with its share",
    "{sizes: {32: 0.5, a: 0.5}}": "backbone.sizes: sides of images in pixels, each with its share",
    "{sizes: {32: 1.5, 64: -0.5}}": "backbone.sizes: sides of images in pixels, each with its share",
    "{sizes: [32, 64]}": "backbone.sizes: sides of images in pixels, each with its share",
    "{sizes: {32: 0.5, 64: 0.4}}": "backbone.sizes: shares sum to 0.9; they must sum to 1",
    "{sizes: {64: 1}, mode: pretrained, weights: w}": "sizes is for modes train and finetune; mode is pretrained",
    "{drawn: true, mode: linear_probe, weights: w}": "drawn is for modes train and finetune; mode is linear_probe",
    "{augmentation: {mixup: 1.0}, mode: pretrained, weights: w}": "augmentation.mixup is for modes train and finetune",
    "{augmentation: {cutmix: 1.0}, mode: linear_probe, weights: w}": "augmentation.cutmix is for modes train and finetune",
    "{augmentation: {mixed: 0.5}}": "augmentation.mixed: 0.5, but neither mixup nor cutmix is on",
}


@pytest.mark.parametrize("given", COURSES)
def test_a_course_of_training_that_cannot_be_is_refused(given: str) -> None:
    assert COURSES[given] in refusal(with_block("backbone", given))


def test_comments_layout_and_empty_blocks_change_nothing() -> None:
    content = yaml.safe_load(TEXT)
    rewritten = "# a comment\n" + yaml.safe_dump(dict(reversed(content.items())), default_flow_style=False)
    assert parse(rewritten.replace("exits: {}", "exits:")) == parse(TEXT)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(TEXT).prepare.seed = 3


WRONG = {
    "true for an integer": ("exits", "{draws: true}", ["exits.draws", "give a whole number; got True"]),
    "true for a number": ("exits", "{weight_decay: true}", ["exits.weight_decay", "give a number; got True"]),
    "a float for an integer": ("exits", "{draws: 3.0}", ["exits.draws", "give a whole number; got 3.0"]),
    "text for a number": ("exits", "{draws: many}", ["exits.draws", "give a whole number; got 'many'"]),
    "a number for a switch": ("exits", "{augment: 1}", ["exits.augment", "give true or false; got 1"]),
    "a number for text": ("report", "{title: 1}", ["report.title", "give a text; got 1"]),
    "below the least": ("exits", "{draws: 0}", ["exits.draws", "greater than or equal to 1", "0"]),
    "above the most": ("targets", "{clusters: 1001}", ["targets.clusters", "less than or equal to 1000", "1001"]),
    "not a number": ("exits", "{weight_decay: .nan}", ["exits.weight_decay", "give a finite number; got nan"]),
    "text in a list of numbers": (
        "evaluate",
        "{budgets: [0.2, nan]}",
        ["evaluate.budgets.1", "give a number; got 'nan'"],
    ),
    "no budget": ("evaluate", "{budgets: []}", ["evaluate.budgets", "give at least 1 entry; got []"]),
    "a number for a list": ("evaluate", "{budgets: 3}", ["evaluate.budgets", "give a list; got 3"]),
    "infinite": ("exits", "{weight_decay: .inf}", ["exits.weight_decay", "finite", "inf"]),
    "a setting of former training": (
        "exits",
        "{epochs: 60}",
        ["exits", "epochs", "fitted to the optimum", "leave it out"],
    ),
    "two settings of former training": (
        "exits",
        "{learning_rate: 1, epochs: 2}",
        ["exits", "epochs and learning_rate"],
    ),
    "none of the choices": ("exits", "{head: deep}", ["exits.head", "'auto', 'linear' or 'hidden'", "'deep'"]),
    "unknown key": (
        "exits",
        "{draw: 3}",
        ["exits.draw", "unknown key 'draw'", "'draws'", "valid: pooling, head, hidden, prefixes, draws"],
    ),
    "unknown inner key": (
        "prepare",
        "{splits: {tran: 0.4}}",
        ["prepare.splits.tran", "unknown key 'tran'", "did you mean 'train'", "valid: train, calibration, "],
    ),
    "key that is not text": ("exits", "{1: 2}", ["exits.1", "strings"]),
    "unknown precision": ("paths", "{precisions: [w4a4, w9a9]}", ["paths.precisions.1", "'w9a9'", "X in 2–8"]),
    "number for a precision": ("paths", "{precisions: [8]}", ["paths.precisions.0", "give a text; got 8"]),
    "precisions in another word": ("paths", "{precisions: best}", ["paths.precisions", "auto, or {auto: 3}", "'best'"]),
    "no precision chosen": ("paths", "{precisions: {auto: 0}}", ["paths.precisions", "from 1 to 6", "0"]),
    "precisions by another key": ("paths", "{precisions: {most: 3}}", ["paths.precisions", "auto, or {auto: 3}"]),
    "a float candidate": ("paths", "{candidates: [w4a4, fp32]}", ["paths", "fp32 is no integer precision"]),
    "bits by layer in another word": ("quantize", "{mixed: best}", ["quantize.mixed", "'best'"]),
    "no precision": ("paths", "{precisions: []}", ["paths.precisions", "give at least 1 entry; got []"]),
    "precision named twice": (
        "paths",
        "{precisions: [w3a3, w8a8], references: [w3a3]}",
        ["paths", "named twice", "w3a3, w8a8, w3a3"],
    ),
    "unknown dataset": (
        "prepare",
        "{dataset: digitz}",
        ["prepare.dataset", "'digitz'", "'digits'", "cifar10, cifar100"],
    ),
    "unknown backbone": (
        "backbone",
        "{name: vit_digitz}",
        ["backbone.name", "'vit_digitz'", "'vit_digits'", "t2t_vit_7"],
    ),
    "gates that are no numbers": ("backbone", "{gates: [2, four]}", ["backbone.gates", "auto, or {auto: 4}", "'four'"]),
    "no gates": ("backbone", "{gates: []}", ["backbone.gates", "rise strictly"]),
    "gates in another word": ("backbone", "{gates: best}", ["backbone.gates", "auto, or {auto: 4}", "'best'"]),
    "no measured gate": ("backbone", "{gates: {auto: 0}}", ["backbone.gates", "1 to 64", "0"]),
    "measured gates in words": ("backbone", "{gates: {auto: four}}", ["backbone.gates", "1 to 64", "four"]),
    "gates that fall": ("backbone", "{gates: [4, 2]}", ["backbone.gates", "rise strictly", "[4, 2]"]),
    "shares above 1": ("prepare", "{splits: {train: 0.9}}", ["prepare.splits", "sum to 1.45", "at most 1"]),
    "an empty split": ("prepare", "{splits: {test: 0.0}}", ["prepare.splits", "must each be above 0"]),
    "an unsafe seed": ("prepare", "{seed: -1}", ["prepare.seed", "-1"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_with_key_value_and_what_is_valid(case: str) -> None:
    block, value, parts = WRONG[case]
    message = refusal(with_block(block, value))
    assert message.startswith(f"{SOURCE}: {parts[0]}: ")
    for part in parts[1:]:
        assert part in message


def test_blocks_left_out_mean_their_defaults() -> None:
    assert parse("prepare: {dataset: digits}\nbackbone: {name: vit_digits}\n") == parse(TEXT)


@pytest.mark.parametrize("left", ["empty", "out"])
@pytest.mark.parametrize("block", ["prepare", "backbone"])
def test_a_missing_key_is_named(block: str, left: str) -> None:
    key = {"prepare": "prepare.dataset", "backbone": "backbone.name"}[block]
    content = yaml.safe_load(TEXT)
    content[block] = None
    if left == "out":
        del content[block]
    assert refusal(yaml.safe_dump(content)) == f"{SOURCE}: {key}: give a value; it has no default"


@pytest.mark.parametrize("line", ["exit: {}", "name: y", "1: 2", "true: {}"])
def test_an_unknown_block_is_refused_with_the_valid_ones(line: str) -> None:
    message = refusal(TEXT + line + "\n")
    assert "unknown block" in message
    assert f"valid: {', '.join(BLOCKS)}" in message


def test_a_block_that_is_no_mapping_is_refused() -> None:
    assert f"{SOURCE}: exits: give keys with values; got [1]" in refusal(TEXT.replace("exits: {}", "exits: [1]"))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_file_without_blocks_is_refused(text: str) -> None:
    assert "expected blocks such as `prepare:`" in refusal(text)


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object/apply:os.getcwd []", "a: b: c"])
def test_a_file_that_is_no_safe_yaml_is_refused(text: str) -> None:
    assert "not YAML" in refusal(text)


def test_numbers_are_read_as_dvc_reads_them() -> None:
    assert (
        parse(with_block("backbone", "{epochs: 3}").replace("epochs: 3", "learning_rate: 3e-3")).backbone.learning_rate
        == 0.003
    )


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    assert 'line 1: found duplicate key "seed"' in refusal(TEXT.replace("{dataset", "{seed: 0, seed: 1, dataset", 1))
    assert 'found duplicate key "exits"' in refusal(TEXT + "exits: {}\n")


def test_experiments_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(TEXT)
    (tmp_path / "other.yaml").write_text(TEXT)
    assert load_experiment("x", tmp_path) == parse(TEXT)
    with pytest.raises(UsageError) as raised:
        load_experiment("othre", tmp_path)
    assert str(raised.value) == "unknown experiment 'othre' (did you mean 'other'?); valid: other, x"


EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[3] / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_resolved_settings_are_whole_and_say_the_same(name: str) -> None:
    experiment = load_experiment(name, Path(__file__).parents[3] / "experiments")
    values = resolved(experiment)
    assert list(values) == [*BLOCKS, "dataset"]
    for block in BLOCKS:
        assert list(values[block]) == list(type(getattr(experiment, block)).model_fields), "a key is missing"
    assert parse_resolved(name, json.dumps(values), "settings.json") == experiment


ODD = {
    "numbers": ("exits", "{weight_decay: 1.0e-07, draws: 1}"),
    "text like a number": ("report", "{title: '1e3'}"),
    "lists of blocks": ("ablate", "{considered: [{sample: 3}, {monotone: up}], blend: [auto, 0.25]}"),
    "patterns": ("quantize", "{layers: {'blocks.*.fc2': w8a8, 'blocks.*': w4a8}}"),
    "any kwargs": (
        "backbone",
        "{name: vit_digits, kwargs: {depth: 3, ratio: 4.0, name: é, deep: {list: [1, null, true]}}}",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_settings_survive_being_resolved(case: str) -> None:
    block, value = ODD[case]
    experiment = parse(
        "".join(f"{line}\n" for line in TEXT.splitlines() if not line.startswith(f"{block}: ")) + f"{block}: {value}"
    )
    again = parse_resolved("x", json.dumps(resolved(experiment)), "settings.json")
    assert again == experiment
    assert repr(again) == repr(experiment), "types or order differ"


def test_the_order_of_patterns_is_part_of_resolved_settings() -> None:
    one, other = (
        resolved(parse(TEXT.replace("quantize: {}", f"quantize: {{layers: {{{layers}}}}}")))
        for layers in ("'blocks.*.fc2': w8a8, 'blocks.*': w4a8", "'blocks.*': w4a8, 'blocks.*.fc2': w8a8")
    )
    assert one != other


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_damaged_resolved_settings_are_named(text: str) -> None:
    with pytest.raises(IntegrityError, match="^settings.json: not the settings of an experiment"):
        parse_resolved("x", text, "settings.json")


def test_what_the_yaml_says_itself_is_known() -> None:
    content = read_content(with_block("prepare", "{splits: {train: 0.4}}"), SOURCE)
    assert is_given(content, "prepare.splits.train")
    assert not is_given(content, "prepare.splits.test")
    assert not is_given(content, "exits.weight_decay")


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(TEXT.replace("exits: {}", "exits: {draws: 0}"))
    with pytest.raises(UsageError, match=f"^{tmp_path}/x.yaml: exits.draws: "):
        load_experiment("x", tmp_path)


def test_an_unknown_key_in_a_list_of_blocks_is_named_with_the_valid_ones() -> None:
    message = refusal(with_block("ablate", "{considered: [{sample: 3}, {switches: 1}]}"))
    assert message.startswith(f"{SOURCE}: ablate.considered.1.switches: unknown key")
    assert "max_switches, monotone, sample, seed" in message


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_the_file_of_its_name(block: str) -> None:
    assert Experiment.model_fields[block].annotation.__module__ == f"quee.settings.{block}"


def test_an_accuracy_loss_that_is_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="0.005 points of accuracy; valid: from 0.05 on, half a point is 0.5"):
        Certification(accuracy_losses=(0.005,))
    assert Certification(accuracy_losses=(0.5, 100.0)).accuracy_losses == (0.5, 100.0)
