"""One walk over a user's folder: hidden files are skipped at every depth, and everything left out is counted."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_files import put

from quee.data.walk import IMAGE_SUFFIXES, class_name, faults_text, ignored, shown, some, top_files, walk
from quee.errors import QueeError

HIDDEN = [
    ".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-1000", "#recycle", "lost+found", "$RECYCLE.BIN",
    "System Volume Information", "@__thumb", ".thumbnails", ".git", "@Recycle",
]  # fmt: skip
HIDDEN_FILES = ["._1.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", ".trashed-1.jpg", "Desktop.ini", "ehthumbs.db"]


@pytest.mark.parametrize("below", ["", "a/", "a/b/c/"])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_folder_is_skipped_at_every_depth_and_its_files_counted(tmp_path, below, name):
    put(tmp_path / f"{below}{name}" / "1.jpg")
    put(tmp_path / f"{below}{name}" / "deeper" / "2.jpg")
    put(tmp_path / f"{below}seen.jpg")
    found = walk(tmp_path).of(IMAGE_SUFFIXES)
    assert [file.name for file in found.files] == [f"{below}seen.jpg"]
    assert found.skipped.hidden == 2
    assert str(found.skipped) == "2 hidden files"


@pytest.mark.parametrize("name", HIDDEN_FILES)
def test_a_hidden_file_is_counted_as_one(tmp_path, name):
    put(tmp_path / "a" / name)
    found = walk(tmp_path)
    assert (found.files, str(found.skipped), found.folders) == ([], "1 hidden file", ["a"])


@pytest.mark.parametrize("name", ["thumbs", "_Thumbnails"])
def test_a_folder_of_thumbnails_is_skipped_below_the_first_level(tmp_path, name):
    put(tmp_path / name / "1.jpg")
    put(tmp_path / "cat" / name / "2.jpg")
    assert [file.name for file in walk(tmp_path).files] == [f"{name}/1.jpg"]


@given(st.lists(st.sampled_from(["x.tif", "y.TIF", "z.gif", "none", "a.jpg", "b.PNG", "c.tar.gz"]), unique=True))
def test_every_file_is_taken_or_counted(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("walk")
    for name in names:
        put(folder / name)
    found = walk(folder).of(IMAGE_SUFFIXES)
    assert len(found.files) + sum(found.skipped.other.values()) == len(names)
    assert found.skipped.other[".tif"] == len({"x.tif", "y.TIF"} & set(names))
    assert ("1 without a suffix" in str(found.skipped)) == ("none" in names)


def test_files_come_in_the_order_of_their_parts_and_links_are_followed_but_not_in_circles(tmp_path):
    for name in ("b/1.jpg", "b.jpg", "a/2.jpg", "elsewhere/3.jpg"):
        put(tmp_path / "top" / name)
    os.symlink(tmp_path / "top", tmp_path / "top" / "a" / "circle")
    os.symlink(tmp_path / "nowhere", tmp_path / "top" / "a" / "broken.jpg")
    os.symlink("itself", tmp_path / "top" / "itself")
    os.symlink(tmp_path / "top" / "elsewhere", tmp_path / "top" / "linked")
    os.mkfifo(tmp_path / "top" / "pipe.jpg")
    found = walk(tmp_path / "top").of(IMAGE_SUFFIXES)
    assert [file.name for file in found.files] == ["a/2.jpg", "b/1.jpg", "b.jpg", "elsewhere/3.jpg", "linked/3.jpg"]
    assert found.skipped.broken == 4


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(QueeError, match="none: cannot be read"):
        walk(tmp_path / "none")


@given(st.binary(min_size=1, max_size=20).filter(lambda name: not {0, 0x2F} & set(name)))
def test_any_name_is_shown_as_valid_utf_8(name):
    text = shown(os.fsdecode(name))
    assert text.encode()  # would raise for a lone surrogate
    assert class_name(os.fsdecode(name)).encode()
    try:
        assert text == name.decode()
    except UnicodeDecodeError:
        assert "\\x" in text


def test_composed_and_decomposed_accents_are_one_class_name():
    assert class_name("cafe\u0301") == class_name("caf\u00e9") == "caf\u00e9"


def test_names_that_are_nobodys_are_not_hidden():
    assert not any(map(ignored, ("thumb", "cat.", "recycle", "a.b", "@home", "trash", "Recycled", "system")))


def test_the_top_files_of_a_folder_are_regular_and_seen(tmp_path):
    for name in ("b.png", "a.png", "._a.png", "deeper/c.png"):
        put(tmp_path / name)
    assert [path.name for path in top_files(tmp_path)] == ["a.png", "b.png"]
    assert list(top_files(Path(tmp_path / "deeper"))) == [tmp_path / "deeper" / "c.png"]


def test_long_lists_are_cut_with_the_count():
    names = [str(i) for i in range(23)]
    assert some(names).endswith("19, and 3 more")
    assert faults_text(["one is bad"], "are bad", "so") == "one is bad; so"
    lines = faults_text(names, "are bad").splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("23 are bad:", 22, "  and 3 more")
