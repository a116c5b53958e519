"""A changed default is a changed setting for the stages that use it, in experiments that do not set it, and nowhere else.

Tests use the real dvc.yaml and code with invented results, and check which stages would run, and why.
"""

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from toy_project import ROOT, Project

from quee.settings.experiment import BLOCKS, Experiment, load_experiment, resolved
from quee.settings.quantize import OWN, Quantize
from quee.work.io import json_bytes
from tasks.dvc import dependencies
from tasks.dvc.experiments import put_right
from tasks.dvc.lock import read_lock
from tasks.dvc.plan import Step, make_plan
from tasks.mlflow.values import settings_of
from tasks.resolved import as_text, settings_file
from tasks.stages import SETTINGS

PLAIN = "prepare: {dataset: digits}\nbackbone: {name: vit_digits}\n"
COPIED = ("dvc.yaml", "quee", "tasks", "benchmarks/results", "data/weights/none", ".dvcignore", ".dvc/config")
PIPELINE = {name: stage["do"] for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()}
READ_BY_PIPELINE = [block for block in BLOCKS if block != "ablate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two experiments with results: `plain` uses the defaults, `explicit` sets the same values in full."""
    project = Project(tmp_path_factory.mktemp("defaults") / "project")
    for name in COPIED:
        source, target = ROOT / name, project.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    project.write("params.yaml", "experiments: [plain, explicit]\n")
    project.write("experiments/plain.yaml", PLAIN)
    full = resolved(load_experiment("plain", project.root / "experiments"))
    project.write("experiments/explicit.yaml", yaml.safe_dump({block: full[block] for block in BLOCKS}))
    project.write("data/digits/train-0.parquet", "images")
    project.write(".gitignore", "/artifacts/\n/.quee/\n__pycache__/\n")
    put_right(project.root, [], lambda message: None)
    for name in ("plain", "explicit"):
        experiment = load_experiment(name, project.root / "experiments")
        project.write(settings_file(name), as_text(experiment))
        code = dependencies.code_of(project.root, experiment.backbone.name)
        project.write(dependencies.code_file(name), json_bytes(code).decode())
        for stage in PIPELINE:
            if stage != SETTINGS:
                project.write(f"artifacts/{name}/{stage}/metrics.json", json.dumps({"of": [name, stage]}))
    project.do("git", "init", "-q")
    project.do("dvc", "init", "-q", "-f")
    project.do("dvc", "commit", "-q", "-f")
    return project


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Change a block's default in this process."""
    changed: list[Any] = []

    def change(block: str, key: str, value: Any) -> None:
        model = Experiment.model_fields[block].annotation
        changed.append(model)
        monkeypatch.setattr(model.model_fields[key], "default", value)
        _rebuild(model)

    yield change
    monkeypatch.undo()
    for model in changed:
        _rebuild(model)


def _rebuild(model: Any) -> None:
    for one in (model, Experiment):
        one.model_rebuild(force=True)


def other_default(block: str) -> tuple[str, Any, Any]:
    """A setting of a block, its default, and another valid value; numbers come first, because choices may depend on others."""
    model: Any = Experiment.model_fields[block].annotation
    fields = [item for item in model.model_fields.items() if model is not Quantize or item[0] in OWN]
    for key, field in sorted(fields, key=lambda item: isinstance(item[1].default, str)):
        old = field.default
        if get_origin(field.annotation) is Literal:
            return key, old, next(value for value in get_args(field.annotation) if value != old)
        if isinstance(old, bool):
            return key, old, not old
        if isinstance(old, int):
            return key, old, old + 1
        if isinstance(old, str):
            return key, old, f"{old} other"
        if isinstance(old, float) and old > 0:
            return key, old, old / 2
    raise AssertionError(f"block {block} has no plain setting")


def expected(block: str) -> tuple[set[str], set[str]]:
    """By dvc.yaml, the stages that take a block as parameter, and the stages that only depend on their results."""
    using = {
        stage
        for stage, entry in PIPELINE.items()
        if stage != SETTINGS and block in next(iter(entry["params"][0].values()))
    }
    after: set[str] = set()
    for stage, entry in PIPELINE.items():  # in the order in which they run
        read = {dep.rpartition("/")[2] for dep in entry["deps"] if dep.startswith("artifacts/")}
        if stage not in using and read & (using | after):
            after.add(stage)
    return using, after


def plan(project: Project, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Step]]:
    monkeypatch.chdir(project.root)
    found: dict[str, dict[str, Step]] = {"plain": {}, "explicit": {}}
    for step in make_plan(project.root, list(found)).steps:
        found[step.experiment][step.stage] = step
    return found


def test_nothing_is_to_be_done_before_a_default_changes(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(made, monkeypatch)
    assert {step.action for steps in found.values() for step in steps.values()} == {"unchanged"}
    assert make_plan(made.root, ["plain"]).settings == []


@pytest.mark.parametrize("block", READ_BY_PIPELINE)
def test_a_changed_default_runs_the_stages_that_use_it_and_says_why(
    made: Project, block: str, defaults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, old, new = other_default(block)
    before = settings_of(read_lock(made.root)["plain"].settings)
    defaults(block, key, new)
    found = plan(made, monkeypatch)
    using, after = expected(block)
    reason = f"{block}.{key}: {json.dumps(old)} → {json.dumps(new)} (default)"
    assert using
    for stage, step in found["plain"].items():
        assert step.action == ("run" if stage in using | after else "unchanged"), stage
        assert (reason in step.reasons) == (stage in using)
        assert all("made anew by" in other for other in step.reasons if other != reason)
    assert {step.action for step in found["explicit"].values()} == {"unchanged"}
    # the recorded settings are those of the earlier result, whatever the code has now
    assert settings_of(read_lock(made.root)["plain"].settings) == before
    assert before[f"{block}.{key}"] == (old if isinstance(old, str) else json.dumps(old))


def test_a_default_that_is_changed_and_set_runs_nothing(
    made: Project, defaults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults("exits", "weight_decay", 0.5)
    text = made.read("experiments/plain.yaml")
    made.write("experiments/plain.yaml", PLAIN + "exits: {weight_decay: 1.0}\n")
    try:
        assert {step.action for step in plan(made, monkeypatch)["plain"].values()} == {"unchanged"}
    finally:
        made.write("experiments/plain.yaml", text)


def edited_default(text: str, model: str, key: str, new: str) -> str:
    """The source of a block with another default of one setting."""
    (block,) = [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == model]
    (field,) = [n for n in block.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == key]
    assert field.value is not None
    lines = text.splitlines(keepends=True)
    at = field.value.lineno - 1
    lines[at] = lines[at][: field.value.col_offset] + new + lines[at][field.value.end_col_offset :]
    return "".join(lines)


EDITS = [
    ("exits", "Exits", "weight_decay", "0.5", "exits.weight_decay: 1.0 → 0.5 (default)", {"exits"}),
    ("prepare", "Splits", "train", "0.40", "prepare.splits.train: 0.45 → 0.4 (default)", {"prepare"}),
    ("policies", "FittedQ", "knots", "13", "policies.fitted_q.knots: 12 → 13 (default)", {"policies", "evaluate"}),
]


@pytest.mark.slow
def test_dvc_alone_sees_defaults_that_were_edited_in_the_code(made: Project, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    for block, model, key, new, _, _ in EDITS:
        file = f"quee/settings/{block}.py"
        project.write(file, edited_default(project.read(file), model, key, new))
    output = project.quee("plan", "--json")
    steps = json.loads(output[output.index("{") :])["stages"]
    for *_, reason, using in EDITS:
        named = {(step["experiment"], step["stage"]) for step in steps if reason in step["reasons"]}
        assert named == {("plain", stage) for stage in using}
    # DVC alone resolves the settings anew and then finds the same stages changed
    project.do("dvc", "repro", "-q", "--single-item", "settings@plain", "settings@explicit")
    changed = json.loads(project.do("dvc", "status", "--json"))
    own = {name: f"artifacts/{name.partition('@')[2]}/settings" for name in changed}
    found = {name for name, states in changed.items() if own[name] in json.dumps(states)}
    assert found == {f"{stage}@plain" for *_, using in EDITS for stage in using}


TOUCHED = {
    "a policy": ("quee/policies/patience.py", "MORE = 1\n", {"policies", "evaluate", "report", "bundle"}),
    "the experiment's own architecture": (
        "quee/network/architectures/timm_vit.py", "MORE = 1\n", {"backbone", "tree", "quantize", "exits", "features", "bundle"},
    ),
    "calibration": ("quee/quantization/calibration.py", "MORE = 1\n", {"tree", "quantize"}),
    "another architecture": ("quee/network/architectures/t2t_vit.py", "MORE = 1\n", set()),
    "the registry of architectures": ("quee/network/architectures/__init__.py", "MORE = 1\n", set()),
    "a layout of checkpoints": ("quee/network/checkpoints/layouts/timm.py", "MORE = 1\n", set()),
    "a docstring": ("quee/cost.py", '"""More."""  # and a comment\n', set()),
    "a new file": ("quee/policies/new.py", "MORE = 1\n", set()),
}  # fmt: skip


@pytest.mark.parametrize("what", TOUCHED)
def test_touched_code_runs_the_stages_that_import_it(made: Project, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, more, using = TOUCHED[what]
    path = made.root / file
    text = path.read_text() if path.is_file() else None
    path.write_text(f"{text or ''}{more}")
    try:
        found = plan(made, monkeypatch)["plain"]
    finally:
        path.unlink() if text is None else path.write_text(text)
    assert {stage for stage, step in found.items() if f"{file}: modified" in step.reasons} == using
    for stage, step in found.items():
        assert all("made anew by" in reason or reason == f"{file}: modified" for reason in step.reasons), stage


def test_a_comment_and_another_layout_change_no_settings(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    text = made.read("experiments/plain.yaml")
    made.write("experiments/plain.yaml", "# Said.\nbackbone:\n  name: vit_digits\nprepare:\n  dataset: digits\n")
    try:
        monkeypatch.chdir(made.root)
        assert make_plan(made.root, ["plain"]).settings == []
        status = subprocess.run(
            ["dvc", "status", "settings@plain"], cwd=made.root, env=made.environment(), capture_output=True, text=True
        )
        assert "up to date" in status.stdout
    finally:
        made.write("experiments/plain.yaml", text)
