"""An endpoint under load, on this machine, from another process: throughput and latency with and without batching across
requests, ten times more than it can take, and inputs that drift.

    python benchmarks/serving.py [BUNDLE] [--data FOLDER] [--seconds 8] [--only closed,open,overload,drift]
        [--engine torch] [--json FILE]

BUNDLE is `artifacts/digits/bundle` and FOLDER `data/digits` unless given. Every answer is compared with the offline
prediction of its image at the budget applied, and every request must be answered once. Latency in closed loops runs from
sending to the last byte; in open loops from the instant the request was due, so that a stalled server is not spared.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageFilter

from quee.runtime import AdaptiveClassifier, load_bundle
from quee.runtime.control import BudgetControl

CLIENTS = 32
OVERLOAD, OVERLOAD_SECONDS, OVERLOAD_IMAGES = 10, 30.0, 16
QUEUE = 256
BUDGET = 0.2
FLIPS = 0.001
"""Share of answers of engines other than torch that may differ: near ties."""


@dataclass
class Answer:
    """What came back for one request."""

    at: float
    """When it was due or sent, seconds on the monotonic clock."""
    seconds: float
    status: int
    images: tuple[int, ...]
    value: dict[str, Any] = field(default_factory=dict)
    retry_after: bool = False


class Server:
    """`quee serve` in a process of its own."""

    def __init__(self, bundle: Path, *options: str) -> None:
        code = "from quee.cli.main import main; main()"
        command = [sys.executable, "-c", code, "serve", str(bundle), "--port", "0", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        if " on http://" not in line:
            raise SystemExit(f"the server did not start: {line}{self.process.stderr.read()}")
        self.port = int(line.rsplit(":", 1)[1].strip(" /\n"))
        self.said: list[str] = []
        """What it wrote since, a line each: it would stand still at a pipe that nobody reads."""
        threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()), daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/model") as response:
            self.name = json.load(response)["name"]

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = [line.decode().rsplit(" ", 1) for line in response if not line.startswith(b"#")]
        return float(dict(lines).get(name, "0"))

    def cpu(self) -> float:
        """Seconds of CPU time, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60):
            raise SystemExit(f"the server ended with {self.process.returncode}")


def served(options: argparse.Namespace, *more: str) -> Server:
    return Server(options.bundle, "--engine", options.engine, *more)


class Load:
    """Requests to a server, and what became of them."""

    def __init__(self, server: Server, images: np.ndarray, budget: float) -> None:
        self.server, self.images, self.budget = server, images, budget
        self.answers: list[Answer] = []
        self.sent = 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def request(self, number: int, rows: tuple[int, ...]) -> bytes:
        pixels = self.images[list(rows)]
        tensor = {
            "name": "images",
            "datatype": "UINT8",
            "shape": list(pixels.shape),
            "parameters": {"binary_data_size": pixels.nbytes},
        }
        outputs = [{"name": name} for name in ("label", "path", "cost")]
        asked = {"id": str(number), "inputs": [tensor], "outputs": outputs, "parameters": {"budget": self.budget}}
        text = json.dumps(asked).encode()
        lines = [
            f"POST /v2/models/{self.server.name}/infer HTTP/1.1",
            "host: localhost",
            f"content-length: {len(text) + pixels.nbytes}",
            f"inference-header-content-length: {len(text)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + text + pixels.tobytes()

    async def ask(self, rows: tuple[int, ...], due: float | None = None) -> Answer:
        number, self.sent = self.sent, self.sent + 1
        data = self.request(number, rows)
        start = time.monotonic() if due is None else due
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        answer = Answer(start, time.monotonic() - start, int(head.split(" ", 2)[1]), rows, json.loads(body))
        answer.retry_after = "retry-after:" in head
        if answer.status == 200 and answer.value["id"] != str(number):
            raise SystemExit(f"request {number} got the answer of {answer.value['id']}")
        self._idle.append((reader, writer))
        self.answers.append(answer)
        return answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    async def closed(self, clients: int, seconds: float, per_request: int = 1) -> None:
        """Every client asks again as soon as it is answered."""
        end = time.monotonic() + seconds
        rows = itertools.cycle(range(len(self.images)))

        async def client() -> None:
            while time.monotonic() < end:
                await self.ask(tuple(itertools.islice(rows, per_request)))

        await asyncio.gather(*(client() for _ in range(clients)))

    async def stream(self, clients: int, per_request: int, rows: list[int]) -> None:
        """Images in this order, by some clients at once."""
        left = iter([tuple(rows[i : i + per_request]) for i in range(0, len(rows), per_request)])

        async def client() -> None:
            for own in left:
                await self.ask(own)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, rate: float, seconds: float, per_request: int = 1, seed: int = 0) -> None:
        """Poisson arrivals, whether earlier ones are answered or not."""
        random = np.random.default_rng(seed)
        gaps = random.exponential(1 / rate, int(rate * seconds))
        rows = random.integers(len(self.images), size=(len(gaps), per_request))
        begin = time.monotonic()
        tasks = []
        for due, own in zip(begin + np.cumsum(gaps), rows, strict=True):
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.ask(tuple(int(r) for r in own), float(due))))
        await asyncio.gather(*tasks)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def run(server: Server, images: np.ndarray, budget: float, work: Any) -> Load:
    """Run `work(load)`; each request was answered once, or this ends the benchmark."""

    async def go() -> Load:
        load = Load(server, images, budget)
        await work(load)
        load.close()
        return load

    gc.collect()
    gc.disable()  # a look through all answers so far stops the clients for longer than the server takes
    try:
        load = asyncio.run(go())
    finally:
        gc.enable()
    if len(load.answers) != load.sent:
        raise SystemExit(f"{load.sent} requests and {len(load.answers)} answers")
    return load


def check(load: Load, classifier: AdaptiveClassifier) -> str:
    """Compare every answer with the offline prediction of its images at the budget applied; how many images agreed.

    With torch's exact arithmetic one that differs ends the benchmark; other engines' last bits depend on the batch.
    """
    by_budget: dict[float, list[Answer]] = defaultdict(list)
    for answer in load.answers:
        if answer.status == 200:
            by_budget[answer.value["parameters"]["budget_applied"]].append(answer)
        elif answer.status != 503 or not answer.retry_after:
            raise SystemExit(f"status {answer.status}: {answer.value}")
    agreed = total = 0
    for budget, answers in by_budget.items():
        rows = sorted({row for answer in answers for row in answer.images})
        offline = classifier.route(load.images[rows], budget=budget)
        at = {row: index for index, row in enumerate(rows)}
        for answer in answers:
            got = {output["name"]: output["data"] for output in answer.value["outputs"]}
            for position, row in enumerate(answer.images):
                index = at[row]
                expected = (int(offline.label[index]), offline.path[index], float(offline.cost[index]))
                total += 1
                if expected == (got["label"][position], got["path"][position], got["cost"][position]):
                    agreed += 1
                elif classifier.engine.name == "torch":
                    raise SystemExit(f"image {row} at budget {budget}: offline {expected}, served {got}")
    if agreed < (1 - FLIPS) * total:
        raise SystemExit(f"{agreed} of {total} answers are those of the offline prediction")
    return f"{agreed} of {total}"


def figures(answers: list[Answer], seconds: float) -> dict[str, float]:
    """Images per second answered, and latency of answers in milliseconds."""
    done = [answer for answer in answers if answer.status == 200]
    latency = np.array([answer.seconds for answer in done]) * 1000
    quantiles = dict(zip(("p50", "p95", "p99"), np.quantile(latency, [0.5, 0.95, 0.99]), strict=True))
    return {"images_per_s": sum(len(a.images) for a in done) / seconds, **{k: float(v) for k, v in quantiles.items()}}


def line(name: str, found: dict[str, float], note: str = "") -> None:
    spread = "  ".join(f"{q} {found[q]:7.1f} ms" for q in ("p50", "p95", "p99"))
    print(f"{name:34} {found['images_per_s']:7.0f} images/s  {spread}  {note}", flush=True)


def load_images(folder: Path, count: int) -> np.ndarray:
    """uint8 (n, h, w[, c]) from the last Parquet file of a data set, test before train."""
    files = sorted(folder.glob("test*.parquet")) or sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"no Parquet files in {folder}; give --data")
    rows = next(pq.ParquetFile(files[0]).iter_batches(batch_size=count, columns=["image"])).to_pylist()
    return np.stack([np.asarray(Image.open(BytesIO(row["image"]["bytes"]))) for row in rows])


def corrupted(images: np.ndarray) -> np.ndarray:
    """Blurred, and with noise: what a poor camera makes of them."""
    random = np.random.default_rng(0)
    radius = images.shape[1] / 8
    soft = np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(radius))) for i in images])
    return (soft + random.normal(0, 24, soft.shape)).clip(0, 255).astype(np.uint8)


def closed_loop(options: argparse.Namespace, images: np.ndarray, classifier: AdaptiveClassifier) -> dict[str, Any]:
    """Both servers are there from beginning to end and asked in turn: what else the machine does falls on both."""
    batches = {"one image at a time": "1", "batched across requests": "64"}
    found: dict[str, Any] = {name: [] for name in batches}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(served(options, "--batch", b, "--no-control")) for name, b in batches.items()
        }
        for server in servers.values():
            run(server, images, options.budget, lambda load: load.closed(CLIENTS, 1.0))
        for _ in range(options.repeats):
            for name, server in servers.items():
                before = server.cpu()
                load = run(server, images, options.budget, lambda load: load.closed(CLIENTS, options.seconds))
                result = figures(load.answers, options.seconds)
                result["cpu_ms"] = 1000 * (server.cpu() - before) / len(load.answers)
                note = f"CPU {result['cpu_ms']:.2f} ms/image, {check(load, classifier)} answers as offline"
                line(f"closed loop, {CLIENTS} clients, {name}"[:60], result, note)
                found[name].append(result)
    one, many = found.values()
    for key, told in (("images_per_s", "throughput"), ("p95", "p95"), ("cpu_ms", "CPU time per image")):
        ratios = [b[key] / a[key] for a, b in zip(one, many, strict=True)]
        found[f"{key} ratio"] = float(np.median(ratios))
        print(f"{told} with batching over without: {np.median(ratios):.2f} (median of {len(ratios)})", flush=True)
    return found


def capacity(
    server: Server,
    images: np.ndarray,
    budget: float,
    seconds: float = 4.0,
    clients: int = CLIENTS,
    per_request: int = 1,
) -> float:
    """Images per second in a closed loop."""
    load = run(server, images, budget, lambda load: load.closed(clients, seconds, per_request))
    return figures(load.answers, seconds)["images_per_s"]


def open_loop(options: argparse.Namespace, images: np.ndarray, classifier: AdaptiveClassifier) -> dict[str, Any]:
    found = {}
    rates: list[float] = []
    for name, batch in (("one request at a time", "1"), ("batched across requests", "64")):
        with served(options, "--batch", batch, "--no-control") as server:
            most = capacity(server, images, options.budget)
            rates = rates or [0.5 * most, 0.9 * most, 1.5 * most]  # of what goes without batching
            for rate in rates:
                load = run(server, images, options.budget, lambda load, rate=rate: load.open(rate, options.seconds))
                result = figures(load.answers, options.seconds)
                refused = sum(a.status == 503 for a in load.answers)
                note = f"{check(load, classifier)} as offline, {refused} refused"
                line(f"open loop, {rate:.0f}/s, {name}", result, note)
                found[f"{name} {rate:.0f}"] = {**result, "refused": refused}
    return found


def overload(options: argparse.Namespace, images: np.ndarray, classifier: AdaptiveClassifier) -> dict[str, Any]:
    with served(options, "--queue", str(QUEUE), "--no-control") as server:
        most = capacity(server, images, options.budget)
        base = 0.3 * most
        before = run(server, images, options.budget, lambda load: load.open(base, 10.0))
        reference = figures(before.answers, 10.0)
        line(f"base load, {base:.0f}/s", reference, f"{check(before, classifier)} as offline")
        bulk = capacity(server, images, options.budget, 4.0, QUEUE // OVERLOAD_IMAGES, OVERLOAD_IMAGES)
        rate = OVERLOAD * bulk / OVERLOAD_IMAGES
        flood = run(
            server,
            images,
            options.budget,
            lambda load: load.open(rate, OVERLOAD_SECONDS, OVERLOAD_IMAGES),
        )
        during = figures(flood.answers, OVERLOAD_SECONDS)
        refused = sum(a.status == 503 for a in flood.answers)
        note = f"{check(flood, classifier)} as offline, {refused} of {len(flood.answers)} requests refused"
        line(f"{OVERLOAD}× what it can take, {rate * OVERLOAD_IMAGES:.0f}/s", during, note)
        after = run(server, images, options.budget, lambda load: load.open(base, 10.0, seed=1))
        check(after, classifier)
        start = min(a.at for a in after.answers)
        windows = [
            figures([a for a in after.answers if second <= a.at - start < second + 1], 1.0)["p99"]
            for second in range(10)
        ]
        recovered = next((s for s in range(10) if max(windows[s:]) <= 1.5 * max(reference["p99"], 1.0)), None)
        told = "not within 10 s" if recovered is None else f"from second {recovered} on"
        print(f"p99 by second after: {', '.join(f'{w:.0f}' for w in windows)} ms; back to the base (×1.5) {told}")
        return {"base": reference, "during": {**during, "refused": refused}, "windows": windows, "recovered": recovered}


def drift(options: argparse.Namespace, images: np.ndarray, classifier: AdaptiveClassifier) -> dict[str, Any]:
    both = np.concatenate([images, corrupted(images)])
    n, random = len(images), np.random.default_rng(0)
    clean, shifted = random.integers(n, size=2000), n + random.integers(n, size=4000)
    phases = {
        "as on validation": clean,
        "corrupted, first half": shifted[:2000],
        "corrupted, second half": shifted[2000:],
    }
    found: dict[str, Any] = {}
    for name, flag in (("without control", "--no-control"), ("with control", "--control")):
        with served(options, flag) as server:
            spent = {}
            for phase, rows in phases.items():
                load = run(server, both, options.budget, lambda load, rows=rows: load.stream(4, 32, rows.tolist()))
                check(load, classifier)
                costs = [cost for a in load.answers for cost in a.value["outputs"][2]["data"]]
                spent[phase] = float(np.mean(costs)) / options.budget
            label = BudgetControl([p.cost for p in classifier.points]).label(options.budget)
            ratio = server.metric(f'quee_cost_over_expected{{budget="{label:.3g}"}}')
            shown = ", ".join(f"{phase} {value:.3f}" for phase, value in spent.items())
            print(f"drift, {name}: spent over asked {shown}; quee_cost_over_expected {ratio:.2f}", flush=True)
            found[name] = {**spent, "cost_over_expected": ratio}
    return found


PARTS = {"closed": closed_loop, "open": open_loop, "overload": overload, "drift": drift}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("artifacts/digits/bundle"))
    parser.add_argument("--data", type=Path, default=Path("data/digits"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--budget", type=float, default=BUDGET)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help="of closed, open, overload, drift")
    parser.add_argument(
        "--engine", default="torch", help="as of `quee serve`; answers of others are compared with its own"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(PARTS):
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: valid are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    images = load_images(options.data, options.images)
    classifier = load_bundle(options.bundle, options.engine)
    results = {name: PARTS[name](options, images, classifier) for name in options.only.split(",")}
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
