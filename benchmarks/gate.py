"""Where the time of one image, or batch, goes: engine, state features, answers, policy, and everything around them.

    python benchmarks/gate.py BUNDLE [--engine openvino,onnxruntime] [--budget B] [--batch 1] [--against CHECKOUT]

Images are those of the bundle's canary, on one thread. Calls of the parts are timed within calls of the whole;
microseconds are CPU time, a call's medians over the rounds, then the mean over calls. `--against` runs another checkout's
quee on the same bundle in a process of its own, in alternation, and prints the ratio of the whole calls.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quee.runtime import load_bundle
from quee.work.machine import cpu_model

CLOCK = time.process_time
"""CPU time, because other processes may share the machine."""
Call = Callable[[], Any]


def whole(classifier: Any, options: argparse.Namespace) -> list[Call]:
    """One call per batch of the canary's images."""
    images, asked = np.ascontiguousarray(classifier.canary.images), {}
    if options.budget is not None:
        asked["budget"] = options.budget
    starts = range(0, len(images) - options.batch + 1, options.batch)
    return [lambda x=images[i : i + options.batch]: classifier.route_prepared(x, **asked) for i in starts]


class Stopwatch:
    """Adds up the seconds that functions take, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def on(self, owner: Any, method: str, name: str) -> None:
        """Time a method of an object from now on."""
        function = getattr(owner, method)

        def timing(*args: Any, **kwargs: Any) -> Any:
            start = CLOCK()
            found = function(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + CLOCK() - start
            return found

        object.__setattr__(owner, method, timing)


def parted(classifier: Any) -> Stopwatch:
    """A stopwatch on all parts of a classifier."""
    watch, points = Stopwatch(), np.array([point.trade_off for point in classifier.points])
    for policy in {id(part.policy): part.policy for part in classifier.policy.parts(points)}.values():
        watch.on(policy, "read", "read")
        watch.on(policy, "decide", "decide")
    compiled = classifier.engine._run_for
    kernels: dict[Any, Any] = {}

    class Kernel:
        def __init__(self, run: Any) -> None:
            self.run = run
            watch.on(self, "run", "kernel")

    def timed_kernel(*key: Any) -> Any:
        if (found := kernels.get(key)) is None:
            found = kernels[key] = Kernel(compiled(*key)).run
        return found

    object.__setattr__(classifier.engine, "_run_for", timed_kernel)
    watch.on(classifier.executor, "single", "single")
    watch.on(classifier.executor, "advance", "advance")
    watch.on(classifier.executor, "decide", "gate")
    watch.on(classifier, "start", "start")
    watch.on(classifier, "routed", "routed")
    return watch


def timed(call: Call) -> float:
    start = CLOCK()
    call()
    return CLOCK() - start


def breakdown(bundle: Path, engine: str, options: argparse.Namespace) -> None:
    classifier = load_bundle(bundle, engine, 1, profiled=False)
    calls, watch = whole(classifier, options), parted(classifier)
    rounds: dict[str, list[list[float]]] = {}
    for repeat in range(options.rounds + 1):
        taken: dict[str, list[float]] = {}
        for index, call in enumerate(calls):
            watch.seconds = {}
            watch.seconds["whole"] = timed(call)
            for name, seconds in watch.seconds.items():
                taken.setdefault(name, [0.0] * len(calls))[index] = seconds
        for name, values in taken.items() if repeat else ():
            rounds.setdefault(name, []).append(values)
    each = {name: 1e6 * np.median(np.array(values), axis=0) for name, values in rounds.items()}  # (calls,)
    micros = {name: float(values.mean()) for name, values in each.items()}
    total, own = micros.pop("whole"), sum(micros.get(name, 0.0) for name in ("read", "decide"))
    if (single := micros.pop("single", None)) is not None:  # one image alone
        micros["answer, and around the policy"] = single - micros["kernel"] - own
        micros["rest"] = total - single - micros["start"] - micros["routed"]
    else:
        gate, advance = micros.pop("gate"), micros.pop("advance")
        micros["answer"] = advance - micros["kernel"]
        micros["around the policy"] = gate - own
        micros["rest"] = total - gate - advance - micros["start"] - micros["routed"]
    print(f"\n{engine}: {total:.0f} µs per call, p50 {np.median(each['whole']):.0f} µs")
    for name, value in sorted(micros.items(), key=lambda item: -item[1]):
        print(f"  {name:30} {value:7.1f} µs {value / total:6.1%}")


def work(bundle: Path, engine: str, options: argparse.Namespace) -> None:
    """Time whole calls whenever a line is read, and write their seconds, (calls,) in JSON."""
    classifier = load_bundle(bundle, engine, 1, profiled=False)
    calls = whole(classifier, options)
    for call in calls:
        call()
    print(json.dumps([]), flush=True)
    for _ in sys.stdin:
        print(json.dumps([timed(call) for call in calls]), flush=True)


def compare(bundle: Path, engine: str, options: argparse.Namespace) -> None:
    here = Path(__file__).resolve().parents[1]
    command = [sys.executable, __file__, str(bundle), "--engine", engine, "--worker"]
    command += ["--batch", str(options.batch)]
    command += [] if options.budget is None else ["--budget", str(options.budget)]
    each: dict[str, list[list[float]]] = {}
    workers = {}
    for name, checkout in (("before", options.against.resolve()), ("now", here)):
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
        )
        assert workers[name].stdout is not None
        workers[name].stdout.readline()
    for _ in range(options.rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            each.setdefault(name, []).append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    before, now = (1e6 * np.median(np.array(each[name]), axis=0) for name in ("before", "now"))  # (calls,)
    print(
        f"{engine}: mean {before.mean():.0f} -> {now.mean():.0f} µs ({before.mean() / now.mean():.2f} times as fast), "
        f"p50 {np.median(before):.0f} -> {np.median(now):.0f} µs ({np.median(before) / np.median(now):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="openvino,onnxruntime")
    parser.add_argument("--budget", type=float)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.bundle.resolve(), options.engine, options)
        return
    print(cpu_model())
    for engine in options.engine.split(","):
        if options.against is not None:
            compare(options.bundle.resolve(), engine, options)
        else:
            breakdown(options.bundle.resolve(), engine, options)


if __name__ == "__main__":
    main()
