"""What it takes to run a bundle: time to load, memory and installed size, beside the engine alone, in one run.

    python benchmarks/footprint.py BUNDLE [--repeats 5] [--engines onnxruntime openvino torch]

Each measurement is a fresh process, in alternation; medians. `alone` imports the engine and nothing else, `quee` imports it
first, and then quee, loads the bundle and classifies one image. Seconds are of the wall clock and of the process's CPU, which
tells more on a busy machine. Memory is the process's largest resident size. Installed sizes are those of an extra's
distributions and all that they require, without files compiled by Python; what the engine requires itself counts as its own.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cpu import instructions

from quee.runtime.engines import installed_engines
from quee.runtime.manifest import read_manifest
from quee.work.extras import distributions
from quee.work.machine import cpu_model

PROGRAM = """
import json, resource, sys, time
def clock(): return time.perf_counter(), time.process_time()
module, bundle, engine = sys.argv[1:]
start = clock()
__import__(module)
imported = clock()
if bundle:
    import numpy as np
    import quee
    classifier = quee.load_bundle(bundle, engine=engine)
    loaded = clock()
    classifier.predict(np.zeros((1, *classifier.transform.size), np.uint8))
else:
    loaded = imported
done = clock()
spent = [[b - a for a, b in zip(*pair)] for pair in ((start, imported), (imported, loaded), (loaded, done))]
print(json.dumps([*spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def measured(engine: str, bundle: str) -> list[float]:
    """Seconds and CPU seconds of importing the engine, of loading, of one image; resident MB."""
    command = [sys.executable, "-c", PROGRAM, engine, bundle, engine]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    *times, memory = json.loads(ran.stdout)
    return [*(value for pair in times for value in pair), memory]


@cache
def required(name: str) -> frozenset[str]:
    """A distribution and all that it requires here, without extras."""
    found, todo = set(), [name]
    while todo:
        own = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if own in found:
            continue
        try:
            stated = distribution(own).requires or []
        except PackageNotFoundError:
            continue
        found.add(own)
        todo += [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in stated if "extra ==" not in entry]
    return frozenset(found)


def megabytes(names: frozenset[str]) -> float:
    """Installed size of distributions, MB."""
    total = 0
    for name in names:
        for file in distribution(name).files or []:
            path = Path(file.locate())
            total += path.stat().st_size if file.suffix != ".pyc" and path.is_file() else 0
    return total / 1e6


def together(names: set[str]) -> frozenset[str]:
    return frozenset().union(*map(required, names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=installed_engines(graphs=True))
    options = parser.parse_args()
    name = read_manifest(options.bundle).experiment
    machine = f"{cpu_model()} with {instructions()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{name}, {machine}, medians of {options.repeats}\n")
    kinds = [(engine, bundle) for engine in options.engines for bundle in ("", str(options.bundle.resolve()))]
    found: dict[tuple[str, str], list[list[float]]] = {kind: [] for kind in kinds}
    for _ in range(options.repeats):
        for kind in kinds:
            found[kind].append(measured(*kind))
    print("| | import of the engine, s (CPU) | load beyond it, s (CPU) | first image, s (CPU) | resident MB |")
    print("| --- | --- | --- | --- | --- |")
    for (engine, bundle), runs in found.items():
        *times, memory = map(statistics.median, zip(*runs, strict=True))
        wall, cpu = times[::2], times[1::2]
        shown = [f"{a:.2f} ({b:.2f})" for a, b in zip(wall, cpu, strict=True)]
        cells = shown if bundle else [shown[0], "–", "–"]
        print(
            f"| {'quee with ' if bundle else ''}{engine}{'' if bundle else ' alone'} | {' | '.join(cells)} | {memory:.0f} |"
        )
    print("\n| | installed MB | of it beside the engine |\n| --- | --- | --- |")
    for engine in options.engines:
        extra = "train" if engine == "torch" else engine
        alone = required(engine)
        whole = together({*distributions(), *distributions(extra)})
        print(f"| quee[{extra}] | {megabytes(whole):.0f} | {megabytes(whole - alone):.0f} |")
    for extra in ("serve", "parquet"):
        more = together(distributions(extra)) - together(distributions())
        try:
            print(f"| more for {extra} | {megabytes(more):.0f} | |")
        except PackageNotFoundError:
            continue


if __name__ == "__main__":
    main()
