"""Class folders: every image has the class and set of its folder, and files that are not taken are reported."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_files import KINDS, Own, add, picture, put

from quee.data.importers import Options, import_dataset
from quee.data.source import open_dataset
from quee.errors import DamagedError, QueeError, UsageError

TWO = {"cat": 4, "dog": 4}
JUNK = {
    "hidden file": "cat/._0.png",
    "checkpoint": "cat/.ipynb_checkpoints/0-checkpoint.png",
    "thumbnail": "dog/@eaDir/0.png/THUMB.jpg",
    "deep": "dog/more/__MACOSX/dog/0.png",
}
NAMES = {
    "train": ["train", "Train", "training", "TRAINING", "train_set", "Train2017"],
    "validation": ["val", "valid", "Validation", "dev", "eval"],
    "test": ["test", "Testing", "TEST", "test_images"],
}


def refused(source, reason, error=UsageError, **options):
    with pytest.raises(error, match=reason) as raised:
        import_dataset("own", Path(source), Path("data/own"), Options(**options))
    assert raised.value.exit_status == error.exit_status
    assert not Path("data").exists()
    return str(raised.value)


@given(
    train=st.sampled_from(NAMES["train"]),
    others=st.lists(st.sampled_from(["validation", "test"]), unique=True),
    which=st.integers(0, 4),
    wanted=st.booleans(),
    suffix=st.sampled_from(list(KINDS)),
    nested=st.sampled_from(["", "wrapper", "a/b"]),
    junk=st.sets(st.sampled_from(list(JUNK))),
)
def test_every_image_has_the_class_and_the_set_of_its_folder(
    tmp_path_factory, train, others, which, wanted, suffix, nested, junk
):
    os.chdir(tmp_path_factory.mktemp("own"))
    own, top = Own(), Path("files") / nested
    own.folders(top / train, "train", {"cat": 3, "dog": 2}, suffix)
    sets = {its: NAMES[its][which % len(NAMES[its])] for its in others}
    chosen = next((its for its in ("test", "validation") if its in sets), None)
    if wanted and sets:
        chosen = others[-1]
    for its, name in sets.items():
        own.folders(top / name, "evaluation" if its == chosen else "nowhere", {"dog": 2, "cat": 1}, suffix)
    for name in junk:
        put(top / train / JUNK[name], picture(900))
    options = {"evaluation": sets[chosen]} if wanted and sets else {}
    report, found = add("files", **options)
    assert found == {data: where for data, where in own.known.items() if where[0] != "nowhere"}
    said = "\n".join(report.lines())
    assert (f"{len(junk)} hidden file" in said) == bool(junk)
    for its, name in sets.items():
        assert (f"evaluation set: {name}/" in said.replace(f": {nested}/", ": ")) == (its == chosen)
        assert (f"{name}/ (3 images; --evaluation {name} takes it)" in said) == (its != chosen)
    assert ("no evaluation set" in said) == (chosen is None)


def test_class_folders_alone_are_the_training_set_and_copies_are_no_images(project):
    own = Own()
    own.folders("files", "train", {"cat": 40, "dog": 40})
    for label in ("cat", "dog"):
        for i in range(40):
            put(f"files/{label}/.ipynb_checkpoints/{i}-checkpoint.png", picture(i))
    put("files/cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", picture(0))
    report, found = add("files")
    assert found == own.known
    assert report.lines()[0] == "left out: 81 hidden files"


def test_the_closing_lines_name_what_is_left_out_and_classes_without_an_image(project):
    own = Own()
    own.folders("files/train", "train", TWO)
    own.folders("files/valid", "evaluation", {"cat": 2})
    own.folders("files/test", "nowhere", TWO)
    for i in range(6):
        put(f"files/train/cat/{i}.tif")
    put("files/train/zebra/only.heic")
    put("files/extras/1.png", picture(700))
    put("files/train/loose.png", picture(701))
    put("files/train/dog/old/deep.png", own.new("train", "dog"))
    report, found = add("files", evaluation="valid")
    assert found == {data: where for data, where in own.known.items() if where[0] != "nowhere"}
    first, *others = report.lines()
    assert first == (
        "left out: 6 .tif, 1 .heic, folder extras/ (1 image; its images are in no class folders), folder test/ (8 images; "
        "--evaluation test takes it), 1 image outside class folders in train/; no image of class zebra; "
        "no evaluation image of class dog"
    )
    assert others == [
        "merged: 1 folder is below class folders: train/dog/old/ is of class dog",
        "evaluation set: valid/",
    ]
    facts = report.facts()
    assert {"what": "6 .tif", "count": 6, "hint": ""} in facts["left_out"]
    assert facts["without_image"] == ["zebra"] and facts["classes"] == ("cat", "dog", "zebra")


def test_copies_byte_for_byte_are_counted_across_and_within_sets(project):
    for name, seed in (
        ("train/cat/a", 1),
        ("train/cat/b", 1),
        ("train/cat/c", 2),
        ("train/dog/d", 3),
        ("train/dog/e", 2),
    ):
        put(f"files/{name}.png", picture(seed))
    for name, seed in (("cat/f", 1), ("dog/g", 3), ("dog/h", 9), ("dog/i", 9)):
        put(f"files/test/{name}.png", picture(seed))
    report, _ = add("files")
    its = report.duplicates
    assert (its.across, its.training, its.evaluation, its.conflicting) == (2, 2, 1, 1)
    (line,) = [line for line in report.lines() if line.startswith("duplicates, byte for byte: ")]
    assert "2 evaluation images that are in the training set too, 2 copies within the training set" in line
    assert "1 copy within the evaluation set, 1 image under more than one class: " in line
    assert "files/test/dog/g.png = files/train/dog/d.png" in line
    assert "cat/c.png = files/train/dog/e.png" in line or "dog/e.png = files/train/cat/c.png" in line


@pytest.mark.parametrize(
    ("folders", "options", "reason"),
    [
        (["Train/", "train/"], {}, "Train/, train/ are training sets by their names; leave one"),
        (["val/", "test/"], {}, "test/, val/ but no folder of the training set"),
        (["cat/", "dog/", "test/"], {}, "test/ but no folder of the training set"),
        (["train/", "val/", "valid/"], {}, "which is the evaluation set. valid for --evaluation: val, valid"),
        (["train/", "test/"], {"evaluation": "valid"}, "no such set in files; valid for --evaluation: test"),
        (["cat/", "dog/"], {"evaluation": "test"}, "class folders and no folders of sets"),
        (["cat/train/", "cat/test/", "dog/train/", "dog/test/"], {}, "cat/test/ is a set within a class by its name"),
        (["train/"], {"config": "fine"}, "--config does not apply to class folders; options that do: --evaluation"),
        (["train/"], {"extra": True}, "--extra does not apply"),
        (["train/"], {"label": "fine"}, "--label does not apply"),
    ],
)
def test_a_layout_that_would_be_a_guess_is_refused(project, folders, options, reason):
    for folder in folders:
        inner = "" if folder.rstrip("/") in ("cat", "dog") or folder.count("/") > 1 else "cat/"
        for label in ("cat/", "dog/") if inner else ("",):
            put(f"files/{folder}{label}0.png", picture(len(folder)))
    refused("files", reason, **options)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["train/1.png", "test/2.png"], "test/ but no folder of the training set"),
        (["train/1.png"], "train/ has images in no class folders; expected train/CLASS/"),
        (["train/cat/1.png", "test/cat/2.png"], "files/train has 1 class folders; expected 2 or more"),
        (
            ["only/cat/1.png", "only/dog/2.png"],
            "has 1 class folders; expected 2 or more; is it the source itself, files/only",
        ),
        (
            ["train/cat/1.png", "train/dog/2.png", "test/Cat/3.png"],
            "Cat/: no class of the training set; in other case: cat",
        ),
        (
            ["train/cat/1.png", "train/dog/2.png", "test/cow/3.png"],
            "cow/: no class of the training set; its classes: cat, dog",
        ),
        (["train/cat/1.png", "train/dog/2.tif"], "training images of 1 class; training takes 2"),
        (["cat/1.tif", "dog/2.tif"], "no images .*; there are 2 .tif"),
        ([".hidden/cat/1.png"], "no images .*; there are 1 hidden file"),
    ],
)
def test_folders_that_nothing_can_be_trained_from_are_refused(project, files, reason):
    for seed, name in enumerate(files):
        put(f"files/{name}", picture(seed))
    with pytest.raises(QueeError, match=reason):
        import_dataset("own", Path("files"), Path("data/own"))
    assert not Path("data").exists()


def test_unlabelled_test_images_are_left_out_and_validation_is_taken(project):
    own = Own()
    own.folders("files/train", "train", TWO)
    own.folders("files/val", "evaluation", TWO)
    put("files/test/1.png", picture(800))
    report, found = add("files")
    assert found == own.known
    assert "folder test/ (1 image; its images are in no class folders)" in report.lines()[0]
    refused_ = pytest.raises(UsageError, match="--evaluation test: its images are in no class folders; valid .*: val")
    with refused_:
        add("files", evaluation="test")


def test_an_empty_set_is_named(project):
    own = Own()
    own.folders("files/train", "train", TWO)
    put("files/test/cat/1.tif")
    report, _ = add("files")
    assert report.lines()[0] == "left out: 1 .tif, folder test/ (no image in it)"


def test_a_class_may_be_called_train_where_its_folder_is_one(project):
    own = Own()
    own.folders("files", "train", {"bus": 2, "train": 2, "tram": 2})
    report, found = add("files")
    assert found == own.known
    assert report.classes == ("bus", "train", "tram")


@pytest.mark.parametrize("nested", [False, True])
def test_sets_with_more_in_their_names_and_sets_within_sets(project, nested):
    own = Own()
    for name, where in (("train", "train"), ("test", "evaluation")):
        own.folders(f"files/seg_{name}/{f'seg_{name}' if nested else ''}", where, TWO)
    report, found = add("files")
    assert found == own.known
    assert f"evaluation set: seg_test/{'seg_test/' if nested else ''}" in report.lines()


def test_folders_without_images_beside_the_sets_do_not_hide_them(project):
    own = Own()
    own.folders("files/images/train", "train", TWO)
    own.folders("files/images/val", "evaluation", TWO)
    put("files/labels/train/1.txt")
    report, found = add("files")
    assert found == own.known
    assert report.lines() == [
        "left out: 1 .txt",
        "read from images/, the only folder with images",
        "evaluation set: images/val/",
    ]


def test_names_that_are_not_utf_8_are_taken_and_shown(project):
    own = Own()
    own.folders("files", "train", TWO)
    put(b"files/dog/caf\xe9.png", own.new("train", "dog"))
    put(b"files/\xfcber/1.png", own.new("train", "\\xfcber"))
    put(b"files/dog/caf\xe9.\xe9", b"")
    put(b"files/dog/bad\xe9.png", b"no image")
    said = refused("files", r"files/dog/bad\\xe9.png: not a readable", DamagedError)
    assert said.encode()
    report, found = add("files", skip_bad=True)
    assert found == own.known
    assert "\n".join(report.lines()).encode()
    assert "1 .\\xe9" in report.lines()[0]


def test_accents_composed_in_one_set_and_decomposed_in_another_are_one_class(project):
    own = Own()
    for name, where, form in (("train", "train", "NFC"), ("test", "evaluation", "NFD")):
        for label in ("café", "dog"):
            put(f"files/{name}/{unicodedata.normalize(form, label)}/1.png", own.new(where, label))
    _, found = add("files")
    assert found == own.known
    put("files/train/" + unicodedata.normalize("NFD", "café") + "/2.png", picture(77))
    with pytest.raises(QueeError, match="two class folders are called 'café'"):
        add("files")


@pytest.fixture
def some_bad(project):
    """25 bad images and eight good ones, in both sets."""
    own = Own()
    own.folders("files/train", "train", TWO)
    own.folders("files/test", "evaluation", {"cat": 2, "dog": 2})
    for i in range(25):
        put(f"files/{'train' if i % 2 else 'test'}/cat/bad{i}.png", picture(600 + i)[:40] if i else b"")
    return own


def test_bad_images_are_named_together_by_the_users_files(some_bad):
    said = refused(
        "files", "25 of 37 images cannot be used; --skip-bad goes on without what cannot be used", DamagedError
    )
    lines = said.splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 5 more"
    assert all(line.startswith(("  files/train/cat/bad", "  files/test/cat/bad")) for line in lines[1:-1])
    assert ".quee" not in said


def test_bad_images_are_left_out_when_asked_and_named(some_bad):
    refused("files", "25 of 37", DamagedError)
    begun = {path.name: path.stat().st_mtime_ns for path in Path(".quee/partial/import").glob("*/*")}
    assert begun, "what is written stays for a second try with --skip-bad"
    report, found = add("files", skip_bad=True)
    assert found == some_bad.known
    assert len(report.bad) == 25
    assert report.lines()[-23].startswith("skipped 25 images that cannot be used") or "skipped 25" in str(
        report.lines()
    )
    assert not list(Path(".quee/partial/import").iterdir())


def test_a_set_of_bad_images_alone_is_no_evaluation_set(project):
    own = Own()
    own.folders("files/train", "train", TWO)
    put("files/test/cat/1.png", b"bad")
    report, found = add("files", skip_bad=True)
    assert found == own.known
    assert (report.training, report.evaluation) == (8, 0)
    assert open_dataset(Path("data/own"), "own").train_samples == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_named_before_anything_is_written(project):
    Own().folders("files", "train", TWO)
    for name in ("cat", "dog"):
        Path(f"files/{name}/0.png").chmod(0)
    said = refused("files", "2 images cannot be read", QueeError)
    assert "files/cat/0.png: no permission" in said
    assert add("files", skip_bad=True)[0].training == 6


@pytest.mark.parametrize("change", ["content", "added below", "renamed", "time"])
def test_partial_work_is_not_joined_to_where_anything_below_the_source_changed(project, change):
    from quee.data.importers import _key, plan_import

    Own().folders("files/train", "train", TWO)
    source, options = Path("files"), Options()
    before = _key(source, options, plan_import("own", source, options))
    deep = Path("files/train/cat/0.png")
    if change == "content":
        deep.write_bytes(picture(50))
    elif change == "added below":
        put("files/train/cat/deeper/notes.txt")
    elif change == "renamed":
        deep.rename(deep.with_name("9.png"))
    else:
        os.utime(deep, ns=(1, 1))
    assert _key(source, options, plan_import("own", source, options)) != before


@pytest.mark.parametrize(
    "sets", [["fold1", "fold2"], ["amazon/images", "webcam/images"], ["Trainingsdaten", "Testdaten"]]
)
def test_folders_that_all_hold_the_same_folders_are_refused(project, sets):
    own = Own()
    for name in sets:
        own.folders(f"files/{name}", "nowhere", TWO)
    assert "all hold cat, dog: which of them are the classes is not known" in refused(
        "files", "give one of these folders"
    )


@pytest.mark.parametrize("top", ["files", "files/train"])
@pytest.mark.parametrize("plain", ["images", "IMG", "data"])
def test_a_folder_whose_name_says_nothing_is_no_class(project, top, plain):
    Own().folders(top, "nowhere", {plain: 2, "masks": 2})
    refused("files", f"{plain}/ is none by its name; a class of such a name must be called otherwise")


def test_folders_that_say_nothing_are_looked_through_and_sets_without_classes_left_out(project):
    own = Own()
    own.folders("files/train/images", "train", TWO)
    own.folders("files/val/images", "evaluation", TWO)
    own.folders("files/test", "nowhere", {"images": 3})
    report, found = add("files")
    assert found == {data: where for data, where in own.known.items() if where[0] != "nowhere"}
    assert "folder test/ (3 images; its images are in no class folders)" in report.lines()[0]


@pytest.mark.parametrize(
    ("table", "refusal"),
    [
        (
            "image_id,dx\ncat_{},nv\ndog_{},mel\n",
            "names the images, and none of the folders that would be classes: part_1",
        ),
        ("path,label\npart_1/cat_{}.png,nv\npart_2/dog_{}.png,mel\n", None),
    ],
)
def test_a_table_that_names_the_images_is_said_or_refused(project, table, refusal):
    for i in range(8):
        put(f"files/part_1/cat_{i}.png", picture(i))
        put(f"files/part_2/dog_{i}.png", picture(10 + i))
    rows = table.splitlines(keepends=True)
    put("files/meta.csv", (rows[0] + "".join(row.format(i) for row in rows[1:] for i in range(8))).encode())
    put("files/other.csv", b"colour,price\nred,3\n")
    if refusal:
        refused("files", refusal, QueeError)
    else:
        report, _ = add("files")
        assert "labels in meta.csv are not read: classes are the folders" in report.lines()
        assert not any("other.csv" in line for line in report.lines())


def test_classes_that_differ_in_spelling_alone_are_said(project):
    Own().folders("files", "train", {"Sea Lion": 2, "sea_lion": 2, "dog": 2})
    report, _ = add("files")
    assert "classes that differ in case or spaces alone: 'Sea Lion', 'sea_lion'" in report.lines()


def test_an_evaluation_set_of_which_nothing_is_left_is_none(project):
    Own().folders("files/train", "train", TWO)
    put("files/val/cat/0.png")
    report, _ = add("files", skip_bad=True)
    assert not any(line.startswith("evaluation set") for line in report.lines())
    assert any(line.startswith("no evaluation set") for line in report.lines())


@pytest.mark.parametrize("name", ["birds.zip", "birds.tar.gz", "birds.7z"])
def test_archives_are_to_be_unpacked(project, name):
    put(f"files/{name}")
    refused(f"files/{name}", "; unpack it first")


def test_classes_whose_numbers_sort_in_two_ways_are_said_and_ordered_when_asked(project):
    own = Own()
    own.folders("files", "train", {"1": 2, "2": 2, "10": 2})
    report, found = add("files")
    assert found == own.known
    (note,) = [line for line in report.lines() if line.startswith("classes are sorted as text, as torchvision does")]
    assert note.endswith("--class-order natural")
    assert open_dataset(Path("data/own"), "own").classes == ("1", "10", "2")
    for order, classes in (("natural", ("1", "2", "10")), (("10", "1", "2"), ("10", "1", "2"))):
        report, found = add("files", class_order=order)
        assert found == own.known  # every image keeps its class
        assert open_dataset(Path("data/own"), "own").classes == classes
        assert not any("sorted" in line for line in report.lines())


def test_an_order_of_other_classes_is_refused(project):
    Own().folders("files", "train", TWO)
    said = refused("files", "the list of classes has 2 names, without dog and with cow", class_order=("cat", "cow"))
    assert "\n" not in said
    refused("files", "unknown class order 'sorted'; valid: text, natural", class_order="sorted")
