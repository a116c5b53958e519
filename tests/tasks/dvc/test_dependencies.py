"""The code that stages depend on: the files, the changes that digests show, and dvc.yaml's parameters for all settings."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from quee.settings.experiment import BLOCKS
from quee.settings.sets import DATASET
from tasks.ablate import POINTS, code
from tasks.dvc.dependencies import EXEMPT, FILES, NAME, ROOT, code_of, digest, used_by

STAGES = {
    name: stage["do"] for file in FILES for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items()
}
COMPUTING = [stage for stage in STAGES if stage != "settings"]
PREFIX = "artifacts/${key}/"

SOURCE = """
import os
LIMIT = 3

def area(width, height):
    text = f"{width!r:>{height}} # {os.sep}"
    return width * height + LIMIT
"""
EQUAL = {
    "a comment": SOURCE.replace("LIMIT = 3", "LIMIT = 3  # metres"),
    "docstrings": SOURCE.replace("LIMIT = 3", 'LIMIT = 3\n"""Metres."""').replace("):\n", '):\n    """Square."""\n'),
    "layout": SOURCE.replace("(width, height)", "(\n    width,\n\n    height\n)").replace("    ", "  "),
}
OTHER = {
    "a number": SOURCE.replace("= 3", "= 4"),
    "a formatted string": SOURCE.replace("!r", "!s"),
    "text that looks like a comment": SOURCE.replace("} # {", "} {"),
    "a level of indentation": SOURCE.replace("    return", "return"),
    "a string that is used": SOURCE.replace("text =", 'text = "x" "y"; z ='),
}


@pytest.mark.parametrize("change", [*EQUAL, *OTHER])
def test_comments_docstrings_and_layout_change_no_digest_and_all_else_does(change: str, tmp_path: Path) -> None:
    digests = []
    for name, text in (("before.py", SOURCE), ("after.py", {**EQUAL, **OTHER}[change])):
        assert name == "before.py" or text != SOURCE
        (tmp_path / name).write_text(text)
        digests.append(digest(tmp_path, name))
    assert (digests[0] == digests[1]) == (change in EQUAL)


def test_digests_are_the_same_whatever_python_computes_them(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(SOURCE)
    assert digest(tmp_path, "file.py") == "14413fd5edb69584"


def test_every_stage_that_computes_takes_its_code_as_a_parameter() -> None:
    for name in COMPUTING:
        assert {f"{PREFIX}settings/{NAME}": [name]} in STAGES[name]["params"]
    assert set(code_of(ROOT, "vit_digits")) == set(COMPUTING)
    assert STAGES["settings"]["deps"] == ["quee", "tasks"]  # so that DVC alone writes the digests anew


def test_an_experiment_depends_on_its_own_architecture() -> None:
    folder = "quee/network/architectures"
    for name, own, others in (
        ("vit_digits", "timm_vit", {"t2t_vit", "dinov2", "__init__"}),
        ("t2t_vit_7", "t2t_vit", {"timm_vit", "dinov2", "__init__"}),
        ("vit_small_patch14_dinov2.lvd142m", "dinov2", {"t2t_vit", "__init__"}),  # it may build on timm's
    ):
        for stage in ("backbone", "tree", "quantize", "exits", "features", "bundle"):
            used = {Path(file).stem for file in used_by(stage, name) if file.startswith(f"{folder}/")}
            assert own in used and not used & others


def test_stages_use_the_code_of_their_own_part_of_the_method() -> None:
    used = {stage: used_by(stage, "vit_digits") for stage in COMPUTING}
    for stage in ("targets", "predictors", "policies"):
        assert not any(
            file.startswith(("quee/network/architectures", "quee/data", "quee/report")) for file in used[stage]
        )
    for stage in ("exits", "features", "predictors"):
        assert "quee/quantization/layers.py" in used[stage]
        assert "quee/quantization/calibration.py" not in used[stage]
    for stage in ("prepare", "backbone", "tree", "quantize", "exits", "features", "targets"):
        assert not any(file.startswith(("quee/policies", "quee/evaluation")) for file in used[stage])


def test_every_exception_is_there() -> None:
    for path, reason in EXEMPT.items():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()
        assert reason


def test_points_of_an_ablation_are_known_by_all_the_code_that_decides_them() -> None:
    assert set(code()) < used_by("evaluate", "vit_digits", start=POINTS)  # which reads caches and runs no network
    assert {POINTS, "quee/policies/fitted_q.py", "quee/_perceptron.py", "quee/cost.py"} <= set(code())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_result_it_reads(stage: str) -> None:
    listed = {dep.removeprefix(PREFIX) for dep in STAGES[stage]["deps"] if dep.startswith(PREFIX)}
    read = {
        node.args[0].value
        for file in used_by(stage, "vit_digits")
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "input"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }
    assert read <= listed


def blocks_of(stage: str) -> set[str]:
    """Parts of the resolved settings that a stage takes as parameters."""
    return set(STAGES[stage]["params"][0][f"{PREFIX}settings/settings.json"])


@pytest.mark.parametrize("stage", COMPUTING)
def test_a_stage_takes_the_settings_it_reads_as_parameters(stage: str) -> None:
    used = used_by(stage, "vit_digits")
    code = "\n".join((ROOT / file).read_text() for file in used if file.startswith("tasks/"))
    read = set(re.findall(r"experiment\.([a-z]+)(?!\w)", code)) & set(BLOCKS)
    dataset = {"dataset"} if "quee/data/source.py" in used else set()
    # later stages read the result of `prepare`, not its settings; they take the data set's name with its facts
    assert (read - {"prepare"} if stage != "prepare" else read) | dataset <= blocks_of(stage)


def test_every_block_is_a_parameter_of_some_stage() -> None:
    assert set().union(*(blocks_of(stage) for stage in COMPUTING)) == {*BLOCKS, DATASET}


def test_a_stage_writes_its_own_folder_alone() -> None:
    for name, stage in STAGES.items():
        assert stage["outs"] == [f"{PREFIX}{name}"]
        assert stage["cmd"] == f"python -m tasks.{name} ${{key}}"
