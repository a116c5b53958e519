"""Metrics for Prometheus at `/metrics`."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from quee.runtime.classifier import Routed
from quee.runtime.control import Spending

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and gauges of one endpoint, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "quee_requests", "Requests by route and status; 499: the client left.", ["route", "code"], registry=registry
        )
        self._seconds = Histogram(
            "quee_request_seconds",
            "From a request's head to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._rejected = Counter("quee_rejected", "Requests refused, by reason.", ["reason"], registry=registry)
        self._paths = Counter("quee_images", "Images answered, by the path they took.", ["path"], registry=registry)
        self._bitflops = Counter("quee_bitflops", "BitFLOPs spent on images.", registry=registry)
        self._spent = Counter(
            "quee_cost_spent", "Cost of images with a budget, in static w8a8 networks.", registry=registry
        )
        self._asked = Counter("quee_cost_asked", "Budgets of the same images, in the same unit.", registry=registry)
        self._unmet = Counter("quee_budget_unmet", "Images whose budget is out of reach.", registry=registry)
        self._drift = Gauge(
            "quee_cost_over_expected",
            "Running mean of cost over what validation data cost at the budget applied; away from 1: inputs drift.",
            ["budget"],
            registry=registry,
        )
        self._correction = Gauge(
            "quee_budget_correction", "Budget applied over budget asked, by budget.", ["budget"], registry=registry
        )
        self._debt = Gauge(
            "quee_budget_debt",
            "Sum of cost over budget minus 1, within the reach of control; below 0: saved.",
            ["budget"],
            registry=registry,
        )
        self._queue = Gauge("quee_queue_images", "Images admitted and not yet answered.", registry=registry)
        self._limit = Gauge("quee_queue_limit_images", "Images admitted at most.", registry=registry)
        self._ready = Gauge("quee_ready", "1 while requests are welcome.", registry=registry)
        self._model = Gauge("quee_model", "The model that serves.", ["name", "digest"], registry=registry)
        self._reloads = Counter("quee_reloads", "Reloads, by outcome.", ["outcome"], registry=registry)

    def watch(self, queue: Callable[[], int], limit: int, ready: Callable[[], bool]) -> None:
        """Let `/metrics` call these functions for the gauges of queue and readiness."""
        self._queue.set_function(queue)
        self._limit.set(limit)
        self._ready.set_function(ready)

    def serves(self, name: str, digest: str) -> None:
        self._model.clear()
        self._model.labels(name, digest).set(1)

    def reloaded(self, outcome: str) -> None:
        self._reloads.labels(outcome).inc()

    def answered(self, route: str, status: int, seconds: float, refused: str | None) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if refused is not None:
            self._rejected.labels(refused).inc()

    def dropped(self, reason: str) -> None:
        """Count a connection that ended without a request."""
        self._rejected.labels(reason).inc()

    def routed(self, found: Routed, unit_bitflops: float, asked: float | None) -> None:
        """Count answered images; `asked` is their budget, if they had one."""
        total = float(found.cost.sum())
        for path in found.path:
            self._paths.labels(path).inc()
        self._bitflops.inc(total * unit_bitflops)
        if not found.budget_met:
            self._unmet.inc(len(found.path))
        if asked is not None:
            self._spent.inc(total)
            self._asked.inc(asked * len(found.path))

    def steered(self, label: float, asked: float, state: Spending) -> None:
        """Show what control knows of the budgets like `asked`, under a label for all of them."""
        name = f"{label:.3g}"
        self._drift.labels(name).set(state.drift)
        self._correction.labels(name).set(state.applied / asked)
        self._debt.labels(name).set(state.debt)

    def text(self) -> bytes:
        return generate_latest(self.registry)
