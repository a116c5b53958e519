"""Memory of a server whose compiled graphs are limited, and what the limit costs in time.

    python benchmarks/memory.py [EXPERIMENT] [--engine openvino] [--limits 160,200,240] [--budget 0.2] [--repeats 7]

Resident memory is that of `quee serve BUNDLE --engine ENGINE --memory MB` once it is ready. Time is the CPU time of `predict`
on the experiment's first 1,000 images in batches of each size, in one process: the bundle without a limit and with each of
them take turns, and rows are medians over the repeats, relative to no limit. Answers do not depend on the limit.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from serving import Server

import quee
from quee.data.source import open_dataset
from quee.settings.experiment import load_experiment
from quee.work.io import read_json

BATCHES = (1, 4, 8, 16, 24, 64, 256)
IMAGES, LARGEST = 1000, 64


def resident(bundle: Path, engine: str, limit: float | None) -> float:
    """MiB of a server that is ready."""
    own = [] if limit is None else ["--memory", f"{limit:g}"]
    with Server(bundle, "--engine", engine, *own) as server:
        return server.resident()


def seconds(classifier: quee.AdaptiveClassifier, images: np.ndarray, batch: int, budget: float) -> float:
    """CPU time per image."""
    used = images[: IMAGES if batch > 1 else IMAGES // 5]
    began = time.process_time()
    for start in range(0, len(used), batch):
        classifier.predict(used[start : start + batch], budget=budget)
    return (time.process_time() - began) / len(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="digits")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--limits", default="160,200,240", help="MB, separated by commas")
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    folder = Path("artifacts") / options.experiment
    bundle = folder / "bundle"
    limits = [None, *(float(limit) for limit in options.limits.split(","))]
    for limit in limits:
        said = "no limit" if limit is None else f"{limit:g} MB"
        print(f"{said}: server {resident(bundle, options.engine, limit):.0f} MiB", flush=True)
    classifiers = []
    for limit in limits:
        classifiers.append(quee.load_bundle(bundle, options.engine))
        classifiers[-1].warm(LARGEST, limit)
    dataset = load_experiment(options.experiment).prepare.dataset
    source = open_dataset(Path("data") / dataset, dataset, read_json(folder / "prepare" / "dataset.json")["files"])
    images = np.asarray(source.decode(np.arange(IMAGES)))
    print("batch  images/s  relative, by limit")
    for batch in BATCHES:
        took = [[seconds(each, images, batch, options.budget) for each in classifiers] for _ in range(options.repeats)]
        middle = np.median(took, axis=0)
        print(
            f"{batch:>5} {1 / middle[0]:>9.0f}  {'  '.join(f'{middle[0] / own:.2f}' for own in middle[1:])}", flush=True
        )


if __name__ == "__main__":
    main()
