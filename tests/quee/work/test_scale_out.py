"""Shards on a real Dask cluster of separate processes and on a real S3-compatible server."""

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("moto")
from loopback import Cluster, dask_cluster, s3_server, slow_square

from quee.errors import QueeError, UsageError
from quee.work import workers as executors
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.workers import Dask, Inline, Workers

pytestmark = pytest.mark.slow
COUNT = 16


def pieces(log: Path, seconds: float = 0.2) -> list[Shard]:
    return [Shard(f"shard-{n:02d}", slow_square, (str(log), n, seconds)) for n in range(COUNT)]


def begun(log: Path) -> list[tuple[int, int]]:
    """(process, number) in the order of start."""
    lines = log.read_text().split("\n") if log.exists() else []
    return [(int(pid), int(number)) for pid, number in (line.split() for line in lines if line)]


def in_background(shards: list[Shard], store: Store, cluster: Cluster) -> "Future[None]":
    lanes = Dask(Workers(address=cluster.address))
    return ThreadPoolExecutor(1).submit(run_shards, shards, store, lanes, "squares")


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_worker_killed_in_the_middle_costs_its_own_shard_alone(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    with s3_server(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        store = Store("s3://quee/shards" if place == "s3" else str(tmp_path / "store"))
        with dask_cluster(2, tmp_path / "dask", **environment) as cluster:
            build = in_background(pieces(log), store, cluster)
            while len({pid for pid, _ in begun(log)}) < 2 or len(begun(log)) < 6:
                assert not build.done(), build.exception()
                time.sleep(0.05)
            victim = cluster.workers[0]
            victim.send_signal(signal.SIGKILL)
            build.result(60)
        numbers = [number for _, number in begun(log)]
        assert sorted(set(numbers)) == list(range(COUNT))
        assert len(numbers) <= COUNT + 1, "a finished shard was computed again"
        assert list(read_shards(pieces(log), store)) == [b"%d" % n**2 for n in range(COUNT)]
        run_shards(pieces(log), store, Inline(), "squares")  # all there
        assert len(begun(log)) == len(numbers)


def test_a_cluster_left_without_workers_is_named_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "WAIT_SECONDS", 8.0)
    monkeypatch.setattr("quee.work.shards.CHECK_SECONDS", 2.0)
    log, store = tmp_path / "log", Store(str(tmp_path / "store"))
    with dask_cluster(1, tmp_path / "dask") as cluster:
        build = in_background(pieces(log), store, cluster)
        while len(begun(log)) < 4:
            assert not build.done(), build.exception()
            time.sleep(0.05)
        cluster.workers[0].kill()
        with pytest.raises(QueeError, match="has had no worker for"):
            build.result(60)
        cluster.add_worker()
        run_shards(pieces(log), store, Dask(Workers(address=cluster.address)), "squares")
    assert len(begun(log)) <= COUNT + 1


def test_workers_with_other_code_are_refused(tmp_path: Path) -> None:
    import shutil

    from loopback import ROOT

    shutil.copytree(ROOT / "quee", tmp_path / "other" / "quee")
    with (tmp_path / "other" / "quee" / "features.py").open("a") as file:
        file.write("\n# changed\n")
    store = Store(str(tmp_path / "store"))
    refused = pytest.raises(UsageError, match="a worker runs other code than this process")
    with dask_cluster(1, tmp_path / "dask", tmp_path / "other") as cluster, refused:
        run_shards(pieces(tmp_path / "log"), store, Dask(Workers(address=cluster.address)), "squares")
    assert store.names() == set()
