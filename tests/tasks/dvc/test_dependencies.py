"""Every stage of dvc.yaml, and of ablations/dvc.yaml, depends on exactly the code its module imports."""

import ast
import re

import pytest
import yaml

from quee.settings.experiment import BLOCKS
from quee.settings.sets import DATASET
from tasks.ablate import POINTS, code
from tasks.dvc.dependencies import FILES, ROOT, listed, rewritten, stages, used_by, wanted

STAGES = {name: stage for file in FILES for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items()}


@pytest.mark.parametrize("file", FILES)
def test_a_stage_depends_on_exactly_the_code_it_uses(file: str) -> None:
    text = (ROOT / file).read_text()
    for stage in stages(file):
        assert listed(text, stage) == wanted(stage), f"{stage}: `make dependencies` writes them"
    assert rewritten(text, stages(file)) == text


def test_lists_that_somebody_changed_are_written_anew_and_nothing_else() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    broken = re.sub(r"      - quee/paths\.py\n", "      - quee/old.py\n", text)
    assert broken != text and rewritten(broken, stages("dvc.yaml")) == text


def test_points_of_an_ablation_are_known_by_all_the_code_that_decides_them() -> None:
    assert set(code()) < used_by("evaluate", POINTS)  # which reads caches and runs no network
    assert {POINTS, "quee/policies/fitted_q.py", "quee/_perceptron.py", "quee/cost.py"} <= set(code())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_result_it_reads(stage: str) -> None:
    prefix = "artifacts/${item.experiment}/"
    listed = {dep.removeprefix(prefix) for dep in STAGES[stage]["deps"] if dep.startswith(prefix)}
    read = {
        node.args[0].value
        for file in used_by(stage)
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
    (params,) = STAGES[stage]["params"]
    ((file, blocks),) = params.items()
    assert file == "artifacts/${item.experiment}/settings/settings.json"
    return set(blocks)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "settings"])
def test_a_stage_takes_the_settings_it_reads_as_parameters(stage: str) -> None:
    code = "\n".join((ROOT / file).read_text() for file in used_by(stage) if file.startswith("tasks/"))
    read = set(re.findall(r"experiment\.([a-z]+)(?!\w)", code)) & set(BLOCKS)
    dataset = {"dataset"} if "quee/data/source.py" in used_by(stage) else set()
    # what `prepare` says reaches later stages as its result; they take the name of the data set with what is known of it
    assert (read - {"prepare"} if stage != "prepare" else read) | dataset <= blocks_of(stage)


def test_every_block_is_a_parameter_of_some_stage() -> None:
    assert set().union(*(blocks_of(stage) for stage in STAGES if stage != "settings")) == {*BLOCKS, DATASET}


def test_a_stage_writes_its_own_folder_alone() -> None:
    for name, stage in STAGES.items():
        assert stage["outs"] == [f"artifacts/${{item.experiment}}/{name}"]
        assert stage["cmd"] == f"python -m tasks.{name} ${{item.experiment}}"
