"""The known data sets: the registered ones, and those in a project's folder of data."""

from pathlib import Path

import pytest

from quee.data import DATASETS, dataset_called, facts, known_dataset, names_in
from quee.errors import UsageError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one data set that is here, and one that is tracked and not pulled."""
    for file in (
        "birds/train-00000-of-00001.parquet",
        "flowers.dvc",
        ".hidden/train-0.parquet",
        "empty/test-0.parquet",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    return tmp_path


def test_a_folder_adds_its_own_to_the_registered_ones(data: Path) -> None:
    assert names_in(data) == sorted({*DATASETS, "birds", "flowers"})
    assert names_in(data / "nowhere") == sorted(DATASETS)


def test_an_unknown_name_is_answered_with_those_of_the_folder(data: Path) -> None:
    assert known_dataset("birds", data).title == "birds"
    with pytest.raises(UsageError, match=r"unknown dataset 'bird' \(did you mean 'birds'\?\); valid: birds, cifar10, "):
        known_dataset("bird", data)
    with pytest.raises(UsageError, match="unknown dataset 'birds'"):
        known_dataset("birds", data / "nowhere")


@pytest.mark.parametrize("name", [*DATASETS, "birds"])
def test_facts_are_what_decides_how_files_are_read(name: str) -> None:
    known = dataset_called(name)
    assert facts(name) == {
        "name": name,
        "size": list(known.size),
        "channels": known.channels,
        "classes": list(known.classes),
        "image": known.image,
        "label": known.label,
        "evaluation": list(known.evaluation),
    }
