"""Groups of user data: a column of Parquet files, or a table beside folders."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_files import picture

from quee.data.importers import Options, import_dataset
from quee.data.source import describe, open_dataset
from quee.errors import QueeError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, start: int, **columns: list[object] | pa.Array) -> Path:
    """A Parquet file of six images with these columns, and labels."""
    file = Path("files") / name
    file.parent.mkdir(exist_ok=True)
    images = [{"bytes": picture(start + i), "path": f"{start + i}.png"} for i in range(6)]
    table = {"image": images, "label": ["cat", "dog"] * 3, **columns}
    pq.write_table(pa.table(table), file)
    return file


def groups_of(name: str = "own") -> list[int]:
    found = open_dataset(Path("data") / name, name).groups
    assert found is not None and found.dtype == np.int64
    return found.tolist()


def added(**options: str) -> list[str]:
    return import_dataset("own", Path("files"), Path("data/own"), Options(**options)).lines()


def test_a_column_of_numbers_is_taken_and_one_of_text_is_numbered_over_all_files() -> None:
    write("train.parquet", 0, group=[5, 5, 9, 9, 7, 7], patient=["b", "b", "a", "a", "z", "z"])
    write("test.parquet", 6, group=[1, 1, 1, 2, 2, 2], patient=["c", "c", "b", "d", "d", "d"])
    lines = added()
    assert groups_of() == [5, 5, 9, 9, 7, 7, 1, 1, 1, 2, 2, 2]
    assert "groups: 5 groups in column group; no split divides one" in lines
    assert describe(open_dataset(Path("data/own"), "own"), "own")["groups"] == 5
    report = import_dataset("own", Path("files"), Path("data/own"), Options(group="patient"), replace=True)
    assert groups_of() == [1, 1, 0, 0, 4, 4, 2, 2, 1, 3, 3, 3]
    assert any("1 group in the training set and in the evaluation set" in line for line in report.lines())


def test_files_that_stay_as_they_are_keep_their_column() -> None:
    file = write("train-00000-of-00001.parquet", 0, group=pa.array([3, 3, 1, 1, 2, 2], pa.int32()), label=[0, 1] * 3)
    added()
    assert Path("data/own/train-00000-of-00001.parquet").read_bytes() == file.read_bytes()
    assert groups_of() == [3, 3, 1, 1, 2, 2]


def test_data_without_groups_have_none() -> None:
    write("train.parquet", 0)
    added()
    images = open_dataset(Path("data/own"), "own")
    assert images.groups is None and "groups" not in describe(images, "own")
    assert pq.read_schema(Path("data/own/train-00000-of-00001.parquet")).names == ["image", "label"]


@pytest.mark.parametrize(
    ("columns", "option", "said"),
    [
        ({"group": [1, 2, None, 3, 3, 3]}, None, "no group in column 'group' in 1 row, the first of them 2"),
        ({"patient": ["a", " ", "b", "", "c", "c"]}, "patient", "no group in column 'patient' in 2 rows"),
        ({"group": [0.5] * 6}, None, "column 'group' is double; groups are integers or text"),
        ({}, "patient", "--group patient: no such column in .*train.parquet; it has image, label"),
    ],
)
def test_groups_that_are_not_known_are_refused(columns: dict[str, list[object]], option: str | None, said: str) -> None:
    write("train.parquet", 0, **columns)
    with pytest.raises((QueeError, UsageError), match=said):
        added(**({} if option is None else {"group": option}))
    assert not Path("data").exists()


def test_a_column_in_some_files_alone_is_refused() -> None:
    write("train.parquet", 0, group=[1] * 6)
    write("test.parquet", 6)
    with pytest.raises(UsageError, match="column 'group': no such column in .*test.parquet"):
        added()


def folders() -> list[str]:
    names = []
    for i in range(8):
        file = Path("files") / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(i))
        names.append(file.relative_to("files").as_posix())
    return names


def test_a_table_gives_the_groups_of_folders() -> None:
    names = folders()
    for table in (Path("groups.csv"), Path("files/groups.csv")):
        table.write_text("image,group\n" + "".join(f"{name},video {i // 4}\n" for i, name in enumerate(names)))
        import_dataset("own", Path("files"), Path("data/own"), Options(group=str(table)), replace=True)
        images = open_dataset(Path("data/own"), "own")
        assert images.groups is not None
        assert [names.index(path) // 4 for path in images.paths] == images.groups.tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,group\ncat/0.png,1\n", "7 images have no group in groups.csv"),
        ("file,group\ncat/0.png,1\n", "groups.csv has no column 'image'; it has file, group"),
        ("image,group\ncat/0.png,1\ncat/0.png,2\n", "cat/0.png is in two groups, 1 and 2"),
        (None, "--group groups.csv: no such file"),
    ],
)
def test_a_table_that_leaves_images_without_a_group_is_refused(text: str | None, said: str) -> None:
    folders()
    if text is not None:
        Path("groups.csv").write_text(text)
    with pytest.raises((QueeError, UsageError), match=said):
        added(group="groups.csv")
    assert not Path("data").exists()


def test_other_formats_take_no_groups() -> None:
    with pytest.raises(UsageError, match="--group does not apply to digits"):
        import_dataset("digits", None, Path("data/digits"), Options(group="x"))
