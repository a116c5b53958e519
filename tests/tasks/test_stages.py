"""The list of stages agrees with the dvc.yaml files."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from quee.settings.experiment import BLOCKS
from tasks.dvc.dependencies import used_by
from tasks.stages import FILES, SETTINGS, STAGES, dependencies_of, leading_to, read_by, template


def test_the_list_names_the_stages_of_the_dvc_yaml_files_in_their_order() -> None:
    defined = [name for file in FILES for name in yaml.safe_load(template(file).read_text())["stages"]]
    assert list(STAGES) == defined


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_and_rests_on_stages_before_it(stage: str) -> None:
    assert callable(import_module(f"tasks.{stage}").run)
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    assert set(read_by(stage)) <= set(earlier)
    assert stage == SETTINGS or f"tasks/{stage}.py" in used_by(stage, "vit_digits")


def test_a_stage_that_runs_no_network_rests_on_the_cache() -> None:
    readers = [stage for stage, kind in STAGES.items() if kind.reads_cache]
    assert readers and all("features" in leading_to(stage) for stage in readers)
    assert leading_to("quantize") == {"prepare", "backbone", "tree", "quantize"}


def test_every_block_of_settings_is_a_stages_or_shared() -> None:
    assert {*BLOCKS} - {*STAGES} == {"paths"}  # of stage tree
    assert {*STAGES} - {*BLOCKS} == {SETTINGS, "tree"}


def test_dependencies_are_read_where_stages_are_made_by_foreach(tmp_path: Path) -> None:
    stage = {"cmd": "", "deps": ["quee/x.py", "artifacts/${key}/first"]}
    (tmp_path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"second": {"foreach": "${experiments}", "do": stage}}})
    )
    assert dependencies_of("second", tmp_path) == stage["deps"]
    assert read_by("second", tmp_path) == ["first"]
