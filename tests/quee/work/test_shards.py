"""Shards are computed once, whole or not at all, by any worker."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from shard_work import die, die_once, square

from quee.errors import IntegrityError, QueeError, UsageError
from quee.work import workers as executors
from quee.work.keys import LIBRARIES
from quee.work.shards import Shard, fill, fingerprint, read_shards, run_shards
from quee.work.store import Store
from quee.work.workers import EXECUTORS, Inline, Processes, Workers


def pieces(tmp_path: Path, compute=square, count: int = 6) -> list[Shard]:  # type: ignore[no-untyped-def]
    return [Shard(f"shard-{n}", compute, (str(tmp_path / "log"), n)) for n in range(count)]


def computed(tmp_path: Path) -> list[int]:
    return sorted(int(line) for line in (tmp_path / "log").read_text().split())


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    todo, store = pieces(tmp_path), Store(str(tmp_path / "store"))
    run_shards(todo[:4], store, Inline(), "squares")
    run_shards(todo, store, Inline(), "squares")
    assert computed(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert list(read_shards(todo, store)) == [b"0", b"1", b"4", b"9", b"16", b"25"]


@pytest.mark.parametrize("harm", ["cut off", "altered", "emptied", "gone"])
def test_a_shard_that_is_not_as_it_was_written_is_computed_again(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    todo, store = pieces(tmp_path), Store(str(tmp_path / "store"))
    run_shards(todo, store, Inline(), "squares")
    (file,) = (tmp_path / "store").glob("shard-4-*")
    if harm == "gone":
        file.unlink()
        with pytest.raises(IntegrityError, match="shard-4 .* went missing"):
            list(read_shards(todo, store))
        run_shards(todo, store, Inline(), "squares")
    else:
        file.write_bytes({"cut off": b"1", "altered": b"17", "emptied": b""}[harm])
        run_shards(todo, store, Inline(), "squares")
    assert list(read_shards(todo, store)) == [b"0", b"1", b"4", b"9", b"16", b"25"]
    assert computed(tmp_path) == [0, 1, 2, 3, 4, 4, 5]
    assert ("shard-4 was damaged: it is computed again" in capsys.readouterr().err) == (harm != "gone")
    assert store.read("shard-4") == b"16"


@pytest.mark.parametrize("count", [3, 12])
def test_a_store_is_listed_once_and_each_shard_read_once_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    todo, store = pieces(tmp_path, count=count), Store(str(tmp_path / "store"))
    run_shards(todo, store, Inline(), "squares")
    local = fsspec.filesystem("file")
    listed, read = [], []
    ls, cat = type(local).ls, type(local).cat_file
    monkeypatch.setattr(type(local), "ls", lambda self, *a, **k: (listed.append(a), ls(self, *a, **k))[1])
    monkeypatch.setattr(type(local), "cat_file", lambda self, *a, **k: (read.append(a), cat(self, *a, **k))[1])
    run_shards(todo, store, Inline(), "squares")
    assert len(listed) == 1
    assert read == []
    assert len(list(read_shards(todo, store))) == count
    assert len(listed) == 2
    assert len(read) == count


def test_a_worker_does_not_compute_what_another_has_finished(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    (shard,) = pieces(tmp_path, count=1)
    for _ in range(2):  # as if its machine had died before it could report the result
        fill(store, shard, fingerprint())
    assert computed(tmp_path) == [0]


def test_a_worker_with_other_code_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    other = tuple((name, "2.0.1" if name == "numpy" else value) for name, value in fingerprint())
    with pytest.raises(UsageError, match=r"other code than this process \(numpy .* instead of 2\.0\.1\)"):
        fill(store, pieces(tmp_path)[0], other)
    assert store.names() == set()


def test_shards_whose_worker_died_are_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo, store = pieces(tmp_path, die_once), Store(str(tmp_path / "store"))
    run_shards(todo, store, Processes(Workers(2)), "squares")
    assert list(read_shards(todo, store)) == [b"0", b"1", b"4", b"9", b"16", b"25"]
    assert "squares: a worker died (BrokenProcessPool)" in capsys.readouterr().err


def test_a_shard_that_kills_every_worker_ends_the_work_and_keeps_the_others(tmp_path: Path) -> None:
    todo, store = pieces(tmp_path, die), Store(str(tmp_path / "store"))
    with pytest.raises(QueeError, match=r"no shard was finished \(BrokenProcessPool\); to do: shard-3"):
        run_shards(todo, store, Processes(Workers(1)), "squares")
    assert "shard-2" in store.names() and "shard-3" not in store.names()


def test_an_error_in_a_shard_ends_the_work_at_once(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise IntegrityError("image 7 does not decode")

    store = Store(str(tmp_path / "store"))
    with pytest.raises(IntegrityError, match="image 7"):
        run_shards([Shard("bad", fail, ()), *pieces(tmp_path)], store, Inline(), "squares")
    assert store.names() == set()


class Threads(Inline):
    """An executor of a kind that is unknown to our code."""

    def open(self):  # type: ignore[no-untyped-def]
        return ThreadPoolExecutor(3)


def test_any_executor_will_do(tmp_path: Path) -> None:
    todo, store = pieces(tmp_path), Store(str(tmp_path / "store"))
    run_shards(todo, store, Threads(), "squares")
    assert list(read_shards(todo, store)) == [b"0", b"1", b"4", b"9", b"16", b"25"]
    assert computed(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_a_full_disk_is_named_and_leaves_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    def large() -> bytes:
        return bytes(1 << 20)

    store = Store(str(tmp_path / "store"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(QueeError, match=r"work kept in .*store: File too large; what is finished stays"):
            run_shards([*pieces(tmp_path), Shard("large", large, ())], store, Inline(), "squares")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.names() == {f"shard-{n}" for n in range(6)}
    assert not list((tmp_path / "store").glob(".*"))


def test_bad_places_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="work kept in nope://a: Protocol not known"):
        Store("nope://a").names()
    with pytest.raises(UsageError, match="unknown executor 'dusk' .*valid: dask, inline, processes"):
        EXECUTORS["dusk"]
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="where is the scheduler"):
        EXECUTORS["dask"](Workers())
    monkeypatch.setattr(executors, "WAIT_SECONDS", 2.0)
    with pytest.raises(QueeError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:9"):
        run_shards(pieces(tmp_path), Store(str(tmp_path)), EXECUTORS["dask"](Workers(1, "tcp://127.0.0.1:9")), "x")


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_MAX_ATTEMPTS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(QueeError, match="work kept in s3://bucket/x: .*127.0.0.1:9"):
        Store("s3://bucket/x").names()


def test_the_fingerprint_names_what_decides_the_bytes() -> None:
    names = [name for name, _ in fingerprint()]
    assert names == ["quee", *LIBRARIES]
