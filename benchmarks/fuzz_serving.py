"""Very many requests that no client would send on purpose; the server answers 2xx, 4xx or 503, lives, and does not grow.

    python benchmarks/fuzz_serving.py [BUNDLE] [--requests 100000] [--seconds S] [--wires 8] [--seed 0] [--examples 0]

Byte-level: `tests/support/fuzzer.py`, one seed per connection; a run can be cut into pieces with `--requests` or
`--seconds` and seeds 8 apart. `--examples` adds as many requests per operation, drawn by schemathesis from the OpenAPI
description (extra `clients`). Memory is compared from a tenth of the way to the end.
"""

import argparse
import json
import sys
import threading
import time
import urllib.request
from collections import Counter
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests/support")]
from fuzzer import Wire, requests  # noqa: E402
from serving import Server  # noqa: E402

GROWTH = 0.05


def bad(status: int | None) -> bool:
    return status is not None and not (200 <= status < 300 or 400 <= status < 500 or status == 503)


class Fuzz:
    """Connections that send mutated requests, and what came back."""

    def __init__(self, server: Server, total: int, wires: int, seed: int, seconds: float) -> None:
        self.server, self.total, self.wires, self.seed = server, total, wires, seed
        self.begun, self.seconds = time.monotonic(), seconds
        self.seen: Counter[int | None] = Counter()
        self.faults: list[tuple[int | None, bytes]] = []
        self.slowest = 0.0
        self._lock = threading.Lock()

    def run(self, image: bytes) -> tuple[float, float]:
        """Memory a tenth of the way and at the end."""
        threads = [threading.Thread(target=self._wire, args=(image, self.seed + i)) for i in range(self.wires)]
        for thread in threads:
            thread.start()
        early = 0.0
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            share = max(sum(self.seen.values()) / self.total, (time.monotonic() - self.begun) / self.seconds)
            if not early and share >= 0.1:
                early = self.server.resident()
        return early, self.server.resident()

    def _wire(self, image: bytes, seed: int) -> None:
        wire = Wire(self.server.port, timeout=30.0)
        for data in islice(requests(self.server.name, image, seed), self.total // self.wires):
            start = time.monotonic()
            try:
                status = wire.ask(data)
            except TimeoutError:
                status = 0
                wire.close()
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.seen[status] += 1
                if bad(status):
                    self.faults.append((status, data))
            if self.server.process.poll() is not None or time.monotonic() - self.begun > self.seconds:
                break
        wire.close()


def described(server: Server, examples: int) -> Counter[int]:
    """Requests drawn from the OpenAPI description, by the status of their answers."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    seen: Counter[int] = Counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/openapi.json") as response:
        schema = schemathesis.openapi.from_dict(json.load(response))
    schema.config.update(base_url=f"http://127.0.0.1:{server.port}")
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def ask(case: object) -> None:
            seen[case.call().status_code] += 1  # type: ignore[attr-defined]

        ask()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("artifacts/digits/bundle"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no more are sent")
    parser.add_argument("--wires", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the first connection; the others count on")
    parser.add_argument("--examples", type=int, default=0)
    options = parser.parse_args()
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file, "PNG")
    with Server(options.bundle) as server:
        start = time.monotonic()
        fuzz = Fuzz(server, options.requests, options.wires, options.seed, options.seconds)
        early, late = fuzz.run(file.getvalue())
        names = {None: "ended", 0: "hung"}
        said = ", ".join(f"{names.get(status, status)} {count}" for status, count in fuzz.seen.most_common())
        total, seconds = sum(fuzz.seen.values()), time.monotonic() - start
        print(f"{total} mutated requests in {seconds:.0f} s: {said}; slowest {fuzz.slowest:.1f} s", flush=True)
        if options.examples:
            found = described(server, options.examples)
            print(f"{sum(found.values())} described requests: {dict(found.most_common())}")
            fuzz.faults += [(status, b"") for status in found if bad(status)]
        growth = late / early - 1
        print(f"memory {early:.0f} MiB a tenth of the way, {late:.0f} MiB at the end: {growth:+.1%}")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v2/health/ready", timeout=30) as response:
            assert response.status == 200
        for status, data in fuzz.faults[:5]:
            print(f"status {status}: {data[:300]!r}")
        if server.process.poll() is not None:
            raise SystemExit(f"the server ended with {server.process.returncode}")
        if server.said:
            raise SystemExit(f"{len(server.said)} lines in the server's log: {server.said[0][:300]}")
        if fuzz.faults or growth > GROWTH:
            raise SystemExit(f"{len(fuzz.faults)} answers that must not be; growth {growth:.1%}, at most {GROWTH:.0%}")


if __name__ == "__main__":
    main()
