"""Files are whole and have the same bytes for the same content; damaged files are refused."""

import json
import os
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from quee.errors import IntegrityError, UsageError
from quee.work import io
from quee.work.io import refuse_unwritable

TABLE = pa.table({"id": np.arange(1000), "value": np.linspace(0, 1, 1000), "name": [f"n{i % 7}" for i in range(1000)]})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=values)
def test_json_comes_back_as_it_was(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    io.write_json(path, value)
    assert io.read_json(path) == value


def test_json_has_one_form(tmp_path: Path) -> None:
    io.write_json(tmp_path / "a.json", {"b": np.float64(0.1), "a": np.arange(2), "é": np.int64(3), "c": np.bool_(True)})
    io.write_json(tmp_path / "b.json", {"c": True, "é": 3, "a": [0, 1], "b": 0.1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  0,\n  1\n ],\n "b": 0.1,\n "c": true,\n "é": 3\n}\n'


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.array([np.nan])])
def test_json_refuses_nan_and_keeps_the_old_file(bad: object, tmp_path: Path) -> None:
    io.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "a.json", {"x": bad})
    assert io.read_json(tmp_path / "a.json") == 1


def test_json_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot write set as JSON"):
        io.write_json(tmp_path / "a.json", {"x": {1}})
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with io.atomic_path(path) as aside:
            aside.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_tables_have_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    io.write_table(tmp_path / "a.parquet", TABLE)
    again = pa.concat_tables([TABLE.slice(0, 300), TABLE.slice(300)])
    io.write_table(tmp_path / "b.parquet", again.combine_chunks())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    read = io.read_table(tmp_path / "a.parquet")
    assert read.replace_schema_metadata(None).equals(TABLE)
    assert io.read_table(tmp_path / "a.parquet", ["name"]).column_names == ["name"]
    with pytest.raises(IntegrityError, match="no column other; it has"):
        io.read_table(tmp_path / "a.parquet", ["name", "other"])


def test_tensors_have_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    tensors = {
        "w": np.arange(6, dtype=np.int8).reshape(2, 3).T,
        "b": np.array([0.5], np.float32),
        "é": np.zeros((0, 3)),
    }
    metadata = {name: name.upper() for name in "poolingkwty"}
    found = set()
    for attempt in range(12):
        names = np.random.default_rng(attempt).permutation(sorted(tensors)).tolist()
        keys = np.random.default_rng(attempt).permutation(sorted(metadata)).tolist()
        io.write_tensors(tmp_path / "a", {n: tensors[n] for n in names}, {k: metadata[k] for k in keys})
        found.add((tmp_path / "a").read_bytes())
    assert len(found) == 1
    read = io.read_tensors(tmp_path / "a")
    assert sorted(read) == sorted(tensors)
    assert all(np.array_equal(read[n], tensors[n]) and read[n].dtype == tensors[n].dtype for n in tensors)


def test_tensors_are_aligned_and_readable_by_others(tmp_path: Path) -> None:
    from safetensors import safe_open

    for name in ("a", "ab", "abc", "abcd", "abcde"):
        io.write_tensors(tmp_path / "t", {name: np.arange(4.0)}, {"pooling": name})
        assert int.from_bytes((tmp_path / "t").read_bytes()[:8], "little") % 8 == 0
        with safe_open(tmp_path / "t", framework="numpy") as file:
            assert file.metadata() == {"format": "1", "pooling": name}
            assert np.array_equal(file.get_tensor(name), np.arange(4.0))


READERS = {"json": io.read_json, "parquet": io.read_table, "safetensors": io.read_tensors, "digest": io.file_digest}


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"missing file: .*/gone\.x") as raised:
        READERS[kind](tmp_path / "gone.x")
    assert raised.value.exit_status == 4


@pytest.mark.parametrize("kind", ["json", "parquet", "safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_file_is_named(kind: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    io.write_json(path, {"a": list(range(100))})
    if kind == "parquet":
        io.write_table(path, TABLE)
    elif kind == "safetensors":
        io.write_tensors(path, {"a": np.zeros(100)})
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\xff\xfe nonsense" * 9, "empty": b""}[damage])
    with pytest.raises(IntegrityError) as raised:
        READERS[kind](path)
    assert str(path) in str(raised.value)


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(io, "FORMAT", io.FORMAT + 1)
        io.write_table(tmp_path / "a.parquet", TABLE)
        io.write_tensors(tmp_path / "a.safetensors", {"a": np.zeros(2)})
    for name, read in (("a.parquet", io.read_table), ("a.safetensors", io.read_tensors)):
        with pytest.raises(IntegrityError, match=f"{name} has format 2; this version reads up to 1"):
            read(tmp_path / name)


def test_tensors_written_by_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(save({"x": np.arange(3)}))
    assert io.read_tensors(tmp_path / "a")["x"].tolist() == [0, 1, 2]


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abd")
    right = {name: sha256(content).hexdigest() for name, content in (("a", b"abc"), ("b", b"abd"))}
    assert io.file_digest(tmp_path / "a") == right["a"]
    io.verify_digests(tmp_path, right)
    (tmp_path / "b").write_bytes(b"abe")
    with pytest.raises(IntegrityError, match=rf"/b is {sha256(b'abe').hexdigest()[:12]}…, expected {right['b'][:12]}…"):
        io.verify_digests(tmp_path, right)
    (tmp_path / "a").unlink()
    with pytest.raises(IntegrityError, match="missing file"):
        io.verify_digests(tmp_path, right)


def test_json_written_is_plain_json(tmp_path: Path) -> None:
    io.write_json(tmp_path / "a.json", {"x": 1e-300, "y": 2**70})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1e-300, "y": 2**70}


def test_a_large_file_is_read_once_as_long_as_it_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(io, "REMEMBERED_BYTES", 10)
    read: list[Path] = []
    plain = io.file_digest
    monkeypatch.setattr(io, "file_digest", lambda path: (read.append(path), plain(path))[1])
    file = tmp_path / "large"
    file.write_bytes(b"0123456789")
    assert io.content_digest(file) == plain(file)
    assert io.content_digest(file) == plain(file)
    assert len(read) == 2, "a file changed a moment ago is read again"
    monkeypatch.setattr(io, "SETTLED_NANOSECONDS", -1)
    for _ in range(3):
        assert io.content_digest(file) == plain(file)
    assert len(read) == 3


@pytest.mark.parametrize(
    "harm", ["altered in place", "times put back", "replaced", "longer", "note damaged", "note of another"]
)
def test_a_file_that_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(io, "REMEMBERED_BYTES", 10)
    monkeypatch.setattr(io, "SETTLED_NANOSECONDS", -1)
    file = tmp_path / "large"
    file.write_bytes(b"0123456789")
    io.content_digest(file)
    (note,) = io.VERIFIED.iterdir()
    before = file.stat()
    time.sleep(0.02)
    if harm in ("altered in place", "times put back"):
        with file.open("r+b") as opened:
            opened.write(b"9")
        if harm == "times put back":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif harm == "replaced":
        (tmp_path / "other").write_bytes(b"9876543210")
        os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
        (tmp_path / "other").replace(file)
    elif harm == "longer":
        file.write_bytes(b"01234567890")
    else:
        note.write_text({"note damaged": "{", "note of another": '{"sha256": "0", "state": {}}'}[harm])
    assert io.content_digest(file) == io.file_digest(file)


def test_small_and_missing_files_leave_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(b"0")
    io.content_digest(tmp_path / "small")
    with pytest.raises(IntegrityError, match="missing file"):
        io.content_digest(tmp_path / "none")
    assert not io.VERIFIED.exists()


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("none/x.parquet", "there is no folder .*none"),
        (".", "it is a folder"),
        ("/dev/null", "it is no plain file"),
        ("/proc/x.parquet", "the folder /proc takes no new file"),
    ],
)
def test_what_cannot_be_written_is_refused(file: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot write .*: {why}"):
        refuse_unwritable(tmp_path / file)
    assert not list(tmp_path.iterdir())


def test_what_can_be_written_is_not_refused_and_nothing_is_left(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").write_text("kept")
    refuse_unwritable(tmp_path / "there")
    assert (tmp_path / "there").read_text() == "kept"
