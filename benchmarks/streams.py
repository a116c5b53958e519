"""Images per second of a stream that holds its budget, against plain calls at the same budget, in alternation.

    python benchmarks/streams.py [BUNDLE] [--data FOLDER] [--images 2048] [--batch 256] [--budget 0.2] [--repeats 15]

The images are clean, so that both do the same work. The ratio is that of the medians; its 95 % interval is by bootstrap
over the alternations.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from quee.data.source import open_dataset
from quee.intervals import interval, resamples
from quee.runtime import load_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("artifacts/digits/bundle"))
    parser.add_argument("--data", type=Path, default=Path("data/digits"))
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--engine", default="torch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = load_bundle(options.bundle, options.engine).warm(options.batch)
    images = open_dataset(options.data, options.data.name)
    ids = np.random.default_rng(0).integers(len(images), size=options.images)
    x = images.batch(ids, classifier.transform).numpy()
    batches = [x[start : start + options.batch] for start in range(0, len(x), options.batch)]

    def plain() -> None:
        for batch in batches:
            classifier.route_prepared(batch, budget=options.budget)

    def streamed() -> None:
        stream = classifier.stream(budget=options.budget)
        for batch in batches:
            stream.route_prepared(batch)

    ways = (plain, streamed)
    for way in ways:
        way()
    seconds = np.zeros((options.repeats, 2))
    for repeat in range(options.repeats):
        for index in (0, 1) if repeat % 2 else (1, 0):
            start = time.process_time()  # of this process alone; other work on the machine does not count
            ways[index]()
            seconds[repeat, index] = time.process_time() - start
    rates = len(x) / np.median(seconds, axis=0)
    low, high = interval(resamples(options.repeats, 2000, 0) @ (seconds[:, [0]] / seconds[:, [1]]))
    print(
        f"plain {rates[0]:,.0f} images/s of CPU time, stream {rates[1]:,.0f}: ratio {rates[1] / rates[0]:.3f} ", end=""
    )
    print(f"[{low[0]:.3f}, {high[0]:.3f}], batches of {options.batch}, engine {options.engine}")


if __name__ == "__main__":
    main()
