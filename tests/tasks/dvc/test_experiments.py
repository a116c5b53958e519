"""The mapping in params.yaml gets data and weights from the YAML files, whatever it held before."""

from pathlib import Path

import pytest
import yaml
from toy_project import experiment

from quee.errors import UsageError
from quee.settings.experiment import load_experiment
from quee.settings.names import experiment_names
from tasks.dvc.experiments import NO_WEIGHTS, listed_experiments, paths_of, put_right, refuse_other_paths

ROOT = Path(__file__).parents[3]
TOY = {"data": "data/digits", "weights": NO_WEIGHTS}
TUNED = {"data": "data/digits", "weights": "data/weights/mine.safetensors"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/toy.yaml").write_text(experiment())
    tuned = experiment(backbone="{name: vit_digits, mode: finetune, weights: mine}", prepare="{dataset: digits}")
    (tmp_path / "experiments/tuned.yaml").write_text(tuned)
    return tmp_path


def written(root: Path, text: str, *names: str) -> tuple[str, list[str]]:
    """Content of params.yaml after an update from `text`, and the messages."""
    (root / "params.yaml").write_text(text)
    said: list[str] = []
    put_right(root, list(names), said.append)
    return (root / "params.yaml").read_text(), said


def test_what_is_committed_is_what_the_experiments_say() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())["experiments"]
    for name in experiment_names(ROOT / "experiments"):
        refuse_other_paths(ROOT, load_experiment(name, ROOT / "experiments"))
    assert content["digits"] == paths_of(load_experiment("digits", ROOT / "experiments"))


def test_a_list_of_names_is_told_with_what_makes_it_a_mapping(root: Path) -> None:
    (root / "params.yaml").write_text("experiments: [toy]\n")
    with pytest.raises(UsageError, match=r"experiments\.toy\.data is None.*`quee plan` puts it right"):
        refuse_other_paths(root, load_experiment("toy", root / "experiments"))


def test_a_list_of_names_becomes_a_mapping_and_comments_stay(root: Path) -> None:
    text, said = written(root, "# which to build\nexperiments: [toy]\n", "tuned")
    assert text.startswith("# which to build\n")
    assert yaml.safe_load(text) == {"experiments": {"toy": TOY, "tuned": TUNED}}
    assert said[0] == "added tuned to params.yaml"
    assert "is a mapping" in said[1]
    assert (root / NO_WEIGHTS).is_file()
    assert written(root, text, "toy", "tuned") == (text, [])


def test_an_entry_that_differs_from_its_yaml_is_refused_by_the_stage_and_put_right_by_a_run(root: Path) -> None:
    text, _ = written(root, "experiments: [toy, tuned]  # both\n")
    (root / "experiments/toy.yaml").write_text(experiment(prepare="{dataset: mnist}"))
    with pytest.raises(UsageError, match=r"experiments\.toy\.data is data/digits, by .* it is data/mnist; `quee plan`"):
        refuse_other_paths(root, load_experiment("toy", root / "experiments"))
    right, said = written(root, text)
    assert yaml.safe_load(right)["experiments"]["toy"] == {**TOY, "data": "data/mnist"}
    assert len(said) == 1 and said[0].endswith("it is data/mnist: put right")
    refuse_other_paths(root, load_experiment("toy", root / "experiments"))


@pytest.mark.parametrize("text", ["experiments:\n", "experiments: []\n", "experiments: [1]\n", "other: 1\n", "a: [\n"])
def test_what_is_no_mapping_is_refused_in_one_line(root: Path, text: str) -> None:
    (root / "params.yaml").write_text(text)
    with pytest.raises(UsageError, match="expected a mapping from names to data and weights|not YAML: line") as error:
        listed_experiments(root)
    assert "\n" not in str(error.value)
