"""Stored pieces of work are whole or absent, and are read back as they were written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import QueeError
from quee.work.store import Store


def test_half_written_files_are_no_pieces(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a [b] *"))  # characters that mean something to globs
    store.write("shard-1", b"one")
    (tmp_path / "a [b] *" / ".shard-2-0.part").write_bytes(b"half")
    assert store.names() == {"shard-1"}
    assert store.read("shard-1") == b"one"
    store.discard()
    assert store.names() == set()
    store.discard()


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(-[0-9]{1,9})?", fullmatch=True), st.binary(max_size=64), max_size=5))
def test_a_store_gives_back_what_it_was_given(content: dict[str, bytes]) -> None:
    store = Store("memory://quee-test")
    try:
        for name, data in content.items():
            store.write(name, data)
        assert store.names() == set(content)
        assert {name: store.read(name) for name in content} == content
        assert store.read("another") is None
    finally:
        store.discard()


@pytest.mark.parametrize("harm", ["none", "cut off", "altered", "gone"])
def test_a_piece_is_computed_once_and_again_only_when_it_is_not_as_it_was_written(tmp_path: Path, harm: str) -> None:
    store, computed = Store(str(tmp_path / "store")), []

    def compute() -> bytes:
        computed.append(1)
        return b"piece"

    assert store.kept("a-1", compute) == b"piece"
    (file,) = (tmp_path / "store").glob("a-1-*")
    if harm == "gone":
        file.unlink()
    elif harm != "none":
        file.write_bytes({"cut off": b"pie", "altered": b"Piece"}[harm])
    for _ in range(2):
        assert store.kept("a-1", compute, store.files().get("a-1", ())) == b"piece"
    assert len(computed) == (1 if harm == "none" else 2)
    assert store.names() == {"a-1"}


def test_a_place_that_cannot_be_written_promises_nothing() -> None:
    with pytest.raises(QueeError, match=r"work kept in /proc/parts: [^;]*$"):
        Store("/proc/parts").write("a", b"x")
