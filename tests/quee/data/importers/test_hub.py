"""Parquet files of the hub: labels by name in every file, one configuration, whole splits, chosen splits."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_files import Own, add, labels_of, picture, put, write_hub

from quee.data.importers import Options, import_dataset
from quee.data.source import open_dataset
from quee.errors import QueeError, UsageError

NAMES = ["ant", "bee", "cat"]


def refused(reason, error=QueeError, name="own", source="files", **options):
    with pytest.raises(error, match=reason) as raised:
        import_dataset(name, Path(source), Path("data") / name, Options(**options))
    assert not Path("data").exists()
    assert ".quee" not in str(raised.value)
    return str(raised.value)


def only(own: Own) -> dict[bytes, tuple[str, str]]:
    return {data: where for data, where in own.known.items() if where[0] != "nowhere"}


LAYOUTS = {
    "data": "data/{split}-{i:05d}-of-{n:05d}.parquet",
    "hash": "data/{split}-{i:05d}-of-{n:05d}-0a1b2c3d4e5f6a7b.parquet",
    "convert": "default/{split}/{i:04d}.parquet",
    "folder": "{split}/part-{i}.parquet",
    "top": "{split}_{i}.parquet",
    "prefix": "pets-{split}-{i:05d}-of-{n:05d}.parquet",
}


@given(
    layout=st.sampled_from(list(LAYOUTS)),
    splits=st.sampled_from([("train", "test"), ("train", "validation", "test"), ("Train", "dev"), ("training", "val")]),
    files=st.integers(1, 2),
    orders=st.lists(st.permutations(NAMES), min_size=6, max_size=6),
    kinds=st.lists(st.sampled_from(["names", "text"]), min_size=6, max_size=6),
    column=st.sampled_from(["label", "labels", "fine_label"]),
)
def test_every_image_has_the_class_that_its_own_file_names(
    tmp_path_factory, monkeypatch_class, layout, splits, files, orders, kinds, column
):
    monkeypatch_class.chdir(tmp_path_factory.mktemp("hub"))
    own, chosen = Own(), splits[-1]
    for s, split in enumerate(splits):
        where = "train" if s == 0 else "evaluation" if split == chosen else "nowhere"
        for i in range(files):
            path = Path("files") / LAYOUTS[layout].format(split=split, i=i, n=files)
            place = 2 * s + i
            own.parquet(path, where, labels_of(4, NAMES), orders[place], column, kinds[place] == "text")
    report, found = add("files")
    assert found == only(own)
    said = "\n".join(report.lines())
    assert f"evaluation set: split {chosen}" in said
    assert ("split validation (" in said) == (len(splits) == 3)


@pytest.fixture(scope="module")
def monkeypatch_class():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_files_whose_names_agree_are_taken_byte_by_byte(project):
    own = Own()
    own.parquet("files/train.parquet", "train", labels_of(6, NAMES), NAMES)
    own.parquet("files/test.parquet", "evaluation", labels_of(3, NAMES), NAMES)
    report, found = add("files")
    assert found == own.known
    assert report.lines() == ["evaluation set: split test"]
    for split in ("train", "test"):
        copied = Path(f"data/own/{split}-00000-of-00001.parquet")
        assert copied.read_bytes() == Path(f"files/{split}.parquet").read_bytes()


def test_files_with_columns_of_other_names_become_one_data_set(project):
    own = Own()
    own.parquet("files/train.parquet", "train", labels_of(6, NAMES), NAMES, image="img")
    own.parquet("files/test.parquet", "evaluation", labels_of(3, NAMES), NAMES)
    assert add("files")[1] == own.known


def test_another_order_of_names_is_translated_and_said(project):
    own = Own()
    own.parquet("files/train.parquet", "train", labels_of(4, ["cat", "dog"]), ["cat", "dog"])
    own.parquet("files/test.parquet", "evaluation", labels_of(4, ["cat", "dog"]), ["dog", "cat"])
    report, found = add("files")
    assert found == own.known
    assert "labels translated by name: test.parquet" in report.lines()


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        (
            ["ant", "bee"],
            ["bee", "cow"],
            "files/test.parquet: cow: no class of the training set; its classes: ant, bee",
        ),
        (["ant", "bee"], ["ant", "bee", "cow", "doe"], "cow, doe: no classes of the training set"),
        (["ant", "bee"], None, "test.parquet: no class names in it, but train.parquet has: ant, bee"),
        (None, ["ant", "bee"], "train.parquet: no class names in it, but test.parquet has: ant, bee"),
        (["ant", "bee"], ["Ant", "bee"], "Ant: no class of the training set"),
    ],
)
def test_names_that_do_not_say_what_a_label_means_are_refused(project, train, test, reason):
    rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(4)]
    write_hub("files/train.parquet", rows, [0, 1, 0, 1], train)
    write_hub("files/test.parquet", rows, [0, 1, 0, 1], test)
    refused(reason)


def test_a_shorter_list_of_names_is_translated_and_the_rest_is_said(project):
    own = Own()
    own.parquet("files/train.parquet", "train", labels_of(6, NAMES), NAMES)
    own.parquet("files/test.parquet", "evaluation", ["cat", "bee"], ["cat", "bee"])
    report, found = add("files")
    assert found == own.known
    assert report.lines()[0] == "no evaluation image of class ant"


def test_without_names_classes_are_numbers_and_that_is_said(project):
    own = Own()
    own.parquet("files/train.parquet", "train", ["0", "2", "0"], ["0", "1", "2"], described=False)
    report, found = add("files")
    assert found == own.known
    assert report.lines() == [
        "no image of class 1",
        "no class names in the files: classes are called 0 to 2",
        "no evaluation set: held-out splits can be drawn from the training set alone",
    ]
    write_hub("files/train.parquet", [{"bytes": picture(1), "path": "1.png"}] * 2, [3, 10**12])
    with pytest.raises(QueeError, match="label 1000000000000, and no class names"):
        add("files")


def test_text_that_is_numbers_is_in_the_order_of_numbers(project):
    own = Own()
    names = ["10", "9", "1"]
    own.parquet("files/train.parquet", "train", labels_of(6, names), None, text=True)
    report, found = add("files")
    assert found == own.known
    assert report.classes == ("1", "9", "10")


def test_text_in_a_dictionary_is_text(project):
    own = Own()
    rows = [{"bytes": own.new("train", label), "path": None} for label in ("bee", "ant")]
    table = pa.table({"image": rows, "label": pa.array(["bee", "ant"]).dictionary_encode()})
    Path("files").mkdir()
    pq.write_table(table, "files/train.parquet")
    _, found = add("files")
    assert found == own.known


class TestRegistered:
    """The classes of registered data sets are known: labels are matched to them by name, without differences of spelling."""

    def test_other_orders_are_translated(self, project):
        own = Own()
        classes = open_classes("cifar10")
        own.parquet("files/train.parquet", "train", labels_of(10, classes), classes[::-1], image="img")
        own.parquet("files/test.parquet", "evaluation", labels_of(10, classes), classes)
        report, found = add("files", "cifar10")
        assert found == own.known
        assert "labels translated by name: train.parquet" in report.lines()

    def test_another_spelling_is_the_same(self, project):
        own = Own()
        classes = open_classes("fashion_mnist")
        spelled = ["T - shirt / top", *classes[1:]]
        own.parquet("files/train.parquet", "train", labels_of(10, spelled), spelled)
        _, found = add("files", "fashion_mnist")
        assert [label for _, label in found.values()] == classes
        assert (
            Path("data/fashion_mnist/train-00000-of-00001.parquet").read_bytes()
            == Path("files/train.parquet").read_bytes()
        )

    def test_other_names_are_refused(self, project):
        Own().parquet("files/train.parquet", "train", labels_of(4, NAMES), NAMES)
        refused("ant, bee: no classes of the dataset; its classes: airplane", name="cifar10")


def open_classes(name):
    from quee.data import DATASETS

    return list(DATASETS[name].classes)


class TestConfigurations:
    @pytest.fixture
    def two(self, project):
        """Two configurations of the same images, as in a clone of the hub's converted branch."""
        own = {}
        for config, names in (("coarse", ["animal", "thing"]), ("fine", ["cat", "car"])):
            own[config] = Own()
            own[config].parquet(f"files/{config}/train/0000.parquet", "train", labels_of(8, names), names)
            own[config].parquet(f"files/{config}/test/0000.parquet", "evaluation", labels_of(4, names), names)
        return own

    def test_several_are_refused_with_the_choice(self, two):
        refused("files has 2 configurations, .*; valid for --config: coarse, fine", UsageError)
        refused(
            "--config 'fin': no such configuration in files; valid for --config: coarse, fine", UsageError, config="fin"
        )

    @pytest.mark.parametrize("config", ["coarse", "fine", "fine/"])
    def test_the_one_wanted_is_taken_and_the_others_named(self, two, config):
        report, found = add("files", config=config)
        own = two[config.rstrip("/")]
        assert found == own.known
        other = ({"coarse", "fine"} - {config.rstrip("/")}).pop()
        assert report.lines()[0] == f"left out: configuration {other} (2 files)"

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("fine-train.parquet", "coarse-train.parquet"),
            ("train.parquet", "fine/train.parquet"),
            ("v1/train-00000-of-00001.parquet", "v2/train-00000-of-00001.parquet"),
            ("data/a/train.parquet", "data/b/train.parquet"),
        ],
    )
    def test_any_two_places_are_two_configurations(self, project, first, second):
        for name in (first, second):
            Own().parquet(f"files/{name}", "train", labels_of(4, NAMES), NAMES)
        refused("2 configurations", UsageError)


class TestSplits:
    def test_of_three_one_is_chosen_and_the_other_named(self, project):
        own = Own()
        for split, where in (
            ("train", "train"),
            ("validation", "evaluation"),
            ("test", "nowhere"),
            ("extra", "nowhere"),
        ):
            own.parquet(f"files/{split}-00000-of-00001.parquet", where, labels_of(3, NAMES), NAMES)
        report, found = add("files", evaluation="validation")
        assert found == only(own)
        assert report.lines() == [
            "left out: split extra (3 images; --evaluation extra takes it), split test (3 images; --evaluation test takes it)",
            "evaluation set: split validation",
        ]

    def test_a_test_split_without_labels_is_left_out(self, project):
        own = Own()
        own.parquet("files/train.parquet", "train", labels_of(3, NAMES), NAMES)
        own.parquet("files/validation.parquet", "evaluation", labels_of(3, NAMES), NAMES)
        write_hub("files/test.parquet", [{"bytes": picture(99), "path": "a"}], [-1], NAMES)
        report, found = add("files")
        assert found == own.known
        assert report.lines()[0] == "left out: split test (1 image; its images have no labels)"
        refused_ = pytest.raises(UsageError, match="--evaluation test: its images have no labels; valid .*: validation")
        with refused_:
            add("files", evaluation="test")

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            (
                ["train-00000-of-00003", "train-00002-of-00003"],
                "2 of 3 files of split train are there; missing: train-00001-of",
            ),
            (["train-00000-of-00001-aaaaaa", "train-00000-of-00001-bbbbbb"], "of more than one upload"),
            (["train-00000-of-00001", "train-00000-of-00002"], "of more than one upload"),
            (["test"], "no Parquet file of a split train; splits in it: test"),
            (["train_clean-00000-of-00001"], "no Parquet file of a split train; splits in it: train_clean"),
            (["train", "training"], "train, training are training sets by their names"),
            (["images"], "images.parquet: of which split"),
            (["train", "val", "valid"], "which is the evaluation set. valid for --evaluation: val, valid"),
        ],
    )
    def test_files_that_are_not_all_or_of_no_known_split_are_refused(self, project, files, reason):
        for name in files:
            Own().parquet(f"files/{name}.parquet", "train", labels_of(4, NAMES), NAMES)
        refused(reason)

    def test_an_unfinished_split_that_is_not_taken_does_not_matter(self, project):
        own = Own()
        own.parquet("files/train-00000-of-00001.parquet", "train", labels_of(3, NAMES), NAMES)
        own.parquet("files/validation-00000-of-00001.parquet", "evaluation", labels_of(3, NAMES), NAMES)
        own.parquet("files/test-00003-of-00009.parquet", "nowhere", labels_of(3, NAMES), NAMES)
        assert add("files", evaluation="validation")[1] == only(own)


class TestColumns:
    def test_a_column_described_as_labels_is_taken_and_said(self, project):
        own = Own()
        own.parquet("files/train.parquet", "train", labels_of(3, NAMES), NAMES, "species")
        report, found = add("files")
        assert found == own.known
        assert "labels: column species" in report.lines()

    def test_a_choice_among_columns_is_said_and_can_be_made(self, project):
        rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(4)]
        write_hub("files/train.parquet", rows, [0, 1, 2, 0], column="fine_label", more={"coarse_label": [1, 0, 0, 1]})
        write_hub("files/test.parquet", rows, [0, 1, 2, 0], column="fine_label", more={"coarse_label": [1, 0, 0, 1]})
        report, found = add("files")
        assert found[picture(2)][1] == "2"
        assert "labels: column fine_label" in report.lines()
        assert report.classes == ("0", "1", "2")
        report, found = add("files", label="coarse_label")
        assert found[picture(0)][1] == "1" and found[picture(1)][1] == "0"
        assert "labels: column coarse_label" in report.lines()

    def test_no_column_or_another_one_is_refused(self, project):
        rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(2)]
        write_hub("files/train.parquet", rows, [0, 1], column="kind", more={"age": [3, 4]})
        refused("has no column 'label'; which one has the labels. valid for --label: image, kind, age")
        refused("--label 'breed': no such column", UsageError, label="breed")
        write_hub("files/train.parquet", rows, [0.5, 1.5])
        refused("column 'label' is double; expected integers or text")


class TestRows:
    @pytest.fixture
    def bad_rows(self, project):
        own = Own()
        rows = [{"bytes": own.new("train", NAMES[i % 3]), "path": f"{i}.png"} for i in range(6)]
        for i in range(6, 10):
            rows.append({"bytes": picture(500 + i), "path": f"{i}.png"})
        rows[8]["bytes"] = b"no image"
        rows[9]["bytes"] = None
        write_hub("files/train.parquet", rows, [0, 1, 2, 0, 1, 2, 7, None, 0, 1], NAMES)
        return own

    def test_rows_without_a_label_are_named_together(self, bad_rows):
        said = refused("2 images without a valid label; --skip-bad goes on")
        assert "files/train.parquet, row 6 (6.png): label 7 is out of range; valid: 0 to 2" in said
        assert "files/train.parquet, row 7 (7.png): no label" in said

    def test_bad_rows_are_left_out_when_asked(self, bad_rows):
        report, found = add("files", skip_bad=True)
        assert found == bad_rows.known
        assert [line.partition(":")[0] for line in report.bad] == [
            f"files/train.parquet, row {i} ({i}.png)" for i in (6, 7, 8, 9)
        ]

    def test_files_keep_their_columns_where_only_rows_go(self, project):
        rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(4)]
        rows[1]["bytes"] = b"no image"
        write_hub("files/train.parquet", rows, [0, 1, 1, 0], ["ant", "bee"], more={"note": list("abcd")})
        add("files", skip_bad=True)
        kept = pq.read_table("data/own/train-00000-of-00001.parquet")
        assert kept["note"].to_pylist() == ["a", "c", "d"]
        assert b"huggingface" in pq.ParquetFile("data/own/train-00000-of-00001.parquet").metadata.metadata


def test_other_files_of_a_clone_are_counted(project):
    own = Own()
    own.parquet("files/train.parquet", "train", labels_of(3, NAMES), NAMES)
    for name in ("README.md", "figure.png", ".git/config", ".gitattributes"):
        put(f"files/{name}")
    pq.write_table(pa.table({"caption": ["a"]}), "files/captions.parquet")
    report, found = add("files")
    assert found == own.known
    assert report.lines()[0] == "left out: 1 .md, 1 .parquet, 1 .png, 2 hidden files"


def test_a_table_beside_class_folders_is_no_data_set_of_the_hub(project):
    own = Own()
    own.folders("files/train", "train", {"cat": 2, "dog": 2})
    pq.write_table(pa.table({"caption": ["a"]}), "files/captions.parquet")
    report, found = add("files")
    assert found == own.known
    assert report.lines()[0] == "left out: 1 .parquet"


def test_a_pointer_of_git_lfs_is_called_one(project):
    put("files/train.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused("files/train.parquet stands for a file of Git LFS; `git lfs pull`")


def test_faults_of_many_files_are_named_together(project):
    for i in range(3):
        put(f"files/train-{i:05d}-of-00003.parquet", b"PAR1 and nothing")
    said = refused("3 Parquet files are not readable:")
    assert said.count("not a readable Parquet file: files/train-0000") == 3
    for name, names in (("train", ["ant", "bee"]), ("val-0", ["ant", "cow"]), ("val-1", ["doe", "bee"])):
        write_hub(f"more/{name}.parquet", [{"bytes": picture(i), "path": "a"} for i in range(2)], [0, 1], names)
    said = refused("2 Parquet files do not fit the others:", source="more")
    assert "val-0.parquet: cow" in said and "val-1.parquet: doe" in said
    for name in ("one", "two"):
        write_hub(f"none/{name}.parquet", [{"bytes": picture(1), "path": "a"}], [0])
    refused("2 Parquet files are of no known split:", UsageError, source="none")


def test_damaged_pages_are_of_the_users_file(project):
    rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(40)]
    write_hub("files/train.parquet", rows, [i % 2 for i in range(40)], ["ant", "bee"])
    content = bytearray(Path("files/train.parquet").read_bytes())
    content[10:3000] = np.random.default_rng(0).bytes(2990)
    Path("files/train.parquet").write_bytes(content)
    refused("files/train.parquet")


def test_files_put_into_the_project_by_hand_must_agree_in_their_names(project):
    rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(2)]
    for name, names in (("train", ["ant", "bee"]), ("test", ["bee", "ant"])):
        write_hub(f"data/own/{name}-0.parquet", rows, [0, 1], names)
    with pytest.raises(
        QueeError, match=r"test-0.parquet: class names in it are not train-0.parquet's.*quee data add own"
    ):
        open_dataset(Path("data/own"), "own")


@pytest.mark.parametrize(
    "names", [{"0": "ant", "1": "bee", "2": "cow"}, {"2": "cow", "0": "ant", "1": "bee"}, ["ant", "bee", "cow"]]
)
def test_names_by_number_are_those_of_the_numbers(project, names):
    rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(6)]
    write_hub("files/train.parquet", rows, [0, 1, 2, 0, 1, 2])
    described(Path("files/train.parquet"), names)
    report, found = add("files")
    assert report.classes == ("ant", "bee", "cow")
    assert [found[picture(i)][1] for i in range(6)] == ["ant", "bee", "cow"] * 2


@pytest.mark.parametrize("names", ["ant", {"ant": 0, "bee": 1}, {"1": "ant", "2": "bee"}, [["ant"], ["bee"]], 3])
def test_names_of_which_it_is_not_known_whose_they_are_are_refused(project, names):
    rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(4)]
    write_hub("files/train.parquet", rows, [0, 1, 0, 1])
    described(Path("files/train.parquet"), names)
    refused("names of column 'label' are neither a list nor numbered from 0")


def described(path, names):
    """Give a file's labels such names in its metadata."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_text_is_no_label(project, blank):
    rows = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(5)]
    write_hub("files/train.parquet", rows, ["ant", "bee", blank, "ant", "bee"])
    refused("row 2 .*no label")
    report, _ = add("files", skip_bad=True)
    assert report.classes == ("ant", "bee") and report.training == 4


@pytest.mark.parametrize("text", [True, False])
def test_names_are_put_into_the_order_asked_for(project, text):
    own, names = Own(), ["10", "9", "b2", "b10"]
    own.parquet("files/train.parquet", "train", labels_of(8, names), sorted(names), text=text)
    report, found = add("files")
    assert found == own.known
    assert any(line.endswith("--class-order natural") for line in report.lines()) == text
    report, found = add("files", class_order="natural")
    assert found == own.known
    assert open_dataset(Path("data/own"), "own").classes == ("9", "10", "b2", "b10")


def test_an_order_is_for_names_alone(project):
    Own().parquet("files/train.parquet", "train", labels_of(4, "01"), None)
    refused("--class-order: the files have no class names", UsageError, class_order="text")
    refused("a registered data set: its classes have a published order", UsageError, name="svhn", class_order="text")
