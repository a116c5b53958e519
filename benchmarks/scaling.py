"""Building the feature cache on 1 and 2 Dask workers and in this process: rates, their ratios, and equal bytes.

    python benchmarks/scaling.py [EXPERIMENT] [--samples 512] [--repeats 3] [--shard-size 64]

Needs the experiment's stages up to `exits`. A real scheduler and worker processes run on loopback, and every worker has
loaded the networks before the clock starts. Repeats alternate between the ways. Each repeat has one ratio of its two
times; the median ratio is the result. CPU seconds are those of the computing processes. In one more build on two workers
one worker is killed. The last lines are the seconds and bytes per (sample, node) that docs/scaling.md calculates with.
"""

import argparse
import hashlib
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from loopback import Cluster, dask_cluster  # noqa: E402

from quee.cache.build import Recipe, build_cache  # noqa: E402
from quee.settings.experiment import load_experiment  # noqa: E402
from quee.work.store import Store  # noqa: E402
from quee.work.workers import Dask, Inline, Lanes, Workers  # noqa: E402
from tasks.features import held_out, recipe_of  # noqa: E402
from tasks.scale import read_scale  # noqa: E402
from tasks.stage import Stage  # noqa: E402


class Bench:
    def __init__(self, name: str, samples: int, shard_size: int, work: Path) -> None:
        stage = Stage("features", load_experiment(name), work, Path("artifacts") / name)
        self.recipe: Recipe = recipe_of(stage, read_scale().device)
        ids, splits = held_out(stage)
        self.ids, self.splits, self.shard_size, self.work = ids[:samples], splits[:samples], shard_size, work
        self.builds = 0
        self.digests: list[str] = []

    def build(self, lanes: Lanes, samples: int | None = None) -> float:
        """Seconds for the samples; adds the digest of the published files to `digests`."""
        self.builds += 1
        store, out = Store(str(self.work / f"shards-{self.builds}")), self.work / f"out-{self.builds}"
        out.mkdir()
        began = time.perf_counter()
        build_cache(self.recipe, self.ids[:samples], self.splits[:samples], store, out, self.shard_size, lanes)
        seconds = time.perf_counter() - began
        if samples is None:
            self.bytes = sum(file.stat().st_size for file in out.iterdir())
            self.digests.append(
                "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir()))
            )
        return seconds


def cpu_seconds(cluster: Cluster | None) -> float:
    pids = [None] if cluster is None else [worker.pid for worker in cluster.workers if worker.poll() is None]
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(spent.user + spent.system for spent in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="digits")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shard-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        dask_cluster(1, Path(folder) / "one") as one,
        dask_cluster(2, Path(folder) / "two") as two,
    ):
        bench = Bench(options.experiment, options.samples, options.shard_size, Path(folder))
        ways: dict[str, tuple[Lanes, Cluster | None]] = {
            "in this process": (Inline(), None),
            "1 Dask worker": (Dask(Workers(address=one.address)), one),
            "2 Dask workers": (Dask(Workers(address=two.address)), two),
        }
        for lanes, cluster in ways.values():  # until every worker has computed a shard
            while True:
                bench.build(lanes, 4 * bench.shard_size)
                if cluster is None or all(psutil.Process(w.pid).memory_info().rss > 4e8 for w in cluster.workers):
                    break
        wall: dict[str, list[float]] = {way: [] for way in ways}
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, (lanes, cluster) in ways.items():
                before = cpu_seconds(cluster)
                wall[way].append(bench.build(lanes))
                spent[way].append(cpu_seconds(cluster) - before)
        count = len(bench.ids)
        print(f"{options.experiment}: {count} samples × {len(bench.recipe.paths)} nodes, {options.repeats} repeats")
        for way in ways:
            ratio = statistics.median(a / b for a, b in zip(wall["in this process"], wall[way], strict=True))
            print(f"  {way:16} {count / statistics.median(wall[way]):8.1f} samples/s   rate ratio {ratio:5.2f}   "
                  f"{statistics.median(spent[way]):6.2f} CPU s")  # fmt: skip
        kill_one(bench, two)
        print(
            f"  published bytes: {len(set(bench.digests))} distinct of {len(bench.digests)} builds, one with a worker killed"
        )
        chains = len(bench.recipe.references)
        segments = max(path.count("-") + 1 for path in bench.recipe.paths)
        rows = count * (len(bench.recipe.paths) + chains * segments)
        cpu = statistics.median(spent["in this process"])
        print(
            f"  per (sample, node), references among them: {1e6 * cpu / rows:.0f} µs of CPU, {bench.bytes / rows:.0f} bytes"
        )
    assert len(set(bench.digests)) == 1, "the bytes depend on who computed them"


def kill_one(bench: Bench, cluster: Cluster) -> None:
    """A build on two workers, one of which is killed soon after the start."""
    build = threading.Thread(target=bench.build, args=(Dask(Workers(address=cluster.address)),))
    shards = bench.work / f"shards-{bench.builds + 1}"
    build.start()
    while build.is_alive() and len(list(shards.glob("shard-*"))) < 2:
        time.sleep(0.02)
    cluster.workers[0].kill()
    build.join()


if __name__ == "__main__":
    main()
