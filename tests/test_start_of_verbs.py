"""What verbs that only read import: everything else would delay their answer.

`quee cost` is tested in tests/quee/cli/test_cost.py, the verbs of bundles in tests/quee/runtime/test_light.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_project import write_evaluation
from imported import HEAVY, imported, without

UNUSED = {
    "--version": (*HEAVY, "importlib.metadata", "pydantic", "rich", "tasks"),
    "--help": (*HEAVY, "pydantic", "rich"),
    "cost --help": (*HEAVY, "tasks"),
    "verify --help": (*HEAVY, "tasks"),
    "plan --help": HEAVY,
    "experiments list": (*HEAVY, "quee.policies", "quee.settings.experiment", "ruamel"),
    "results digits": (
        *without("numpy", "pyarrow"),  # results are Parquet
        "filelock", "quee.evaluation.curves", "quee.policies.base", "quee.policies.sweep", "quee.settings.experiment", "ruamel",
        "tasks.mlflow.describe", "tasks.mlflow.store",
    ),
}  # fmt: skip
"""Modules that a verb must not import, with all below them."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "experiments").mkdir()
    (root / "experiments/digits.yaml").write_text("# Digits.\n")
    (root / "params.yaml").write_text("experiments: {digits: {data: data/digits, weights: none}}\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    write_evaluation(root / "artifacts/digits/evaluate")
    (root / "artifacts/digits/settings").mkdir()
    (root / "artifacts/digits/settings/settings.json").write_text('{"bundle": {"policy": "plan", "budget": 0.2}}')
    return root


@pytest.mark.parametrize("words", UNUSED)
def test_a_verb_imports_no_more_than_its_answer_takes(project: Path, words: str) -> None:
    assert imported(words.split(), project, UNUSED[words]) == []


def test_two_results_are_compared_without_what_draws_or_stores() -> None:
    program = "import json, sys, tasks.mlflow.compare, tasks.verbs.comparison\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    unused = {"dvc", "matplotlib", "mlflow", "prefect", "sklearn", "torch"}
    assert unused & set(json.loads(done.stdout)) == set()
