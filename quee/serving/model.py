"""The model that serves: a bundle by its digest, behind a scheduler that batches whatever requests are waiting."""

from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from quee.errors import IntegrityError
from quee.runtime.bundle import load_bundle
from quee.runtime.classifier import Images, Options, Routed
from quee.runtime.explanation import Explanation
from quee.runtime.manifest import read_manifest
from quee.runtime.scheduler import Scheduler
from quee.serving.control import BudgetControl
from quee.work.io import file_digest, read_json


class Served:
    """A loaded bundle, its scheduler, and the control of its budgets.

    The digest is that of `bundle.json`, which holds the digests of all other files.
    """

    def __init__(
        self,
        bundle: Path,
        queue: int,
        batch: int,
        control: bool,
        digest: str | None = None,
        engine: str = "torch",
        threads: int | None = None,
    ) -> None:
        """Raises IntegrityError when the bundle is not whole, or another than `digest` names."""
        folder = bundle.resolve()  # what a link names now: not half of the old and half of the new
        read_manifest(folder)  # says so where there is no bundle
        self.digest = file_digest(folder / "bundle.json")
        if digest is not None and digest != self.digest:
            raise IntegrityError(f"{bundle} has digest {self.digest}, expected {digest}")
        self.classifier = load_bundle(folder, engine, threads)
        if file_digest(folder / "bundle.json") != self.digest:
            raise IntegrityError(f"{bundle} changed while it was read")
        self.unit_bitflops = float(read_json(folder / "tree.json")["unit_bitflops"])
        self.name = f"quee-{self.classifier.description['experiment']}"
        self.version = self.digest[:12]
        self.control = BudgetControl([point.cost for point in self.classifier.points], enabled=control)
        self.classifier.warm(batch)  # first calls are slow, and a bundle that cannot run is not taken
        self.classifier.predict(np.zeros((1, *self.classifier.transform.size, 3), np.uint8))
        self.scheduler = Scheduler(self.classifier, batch=batch, capacity=queue)

    def asked(self, options: Options) -> float | None:
        """The budget that a request asks for, the bundle's own if it asks for nothing; None where it has none."""
        if options.trade_off is not None:
            return None
        if options.budget is None and options.max_cost is None:
            return float(self.classifier.budget)
        return options.budget

    def controlled(self, options: Options) -> float | None:
        """The budget that control pursues: none where every sample has a limit, which lowers what is spent."""
        return self.asked(options) if options.max_cost is None else None

    def applied(self, options: Options) -> Options:
        """The options to route under: those asked, the budget as control has it."""
        asked = self.controlled(options)
        if asked is None or not asked > 0:  # refused further on
            return options
        return replace(options, budget=self.control.applied(asked))

    def submit(self, images: Images, options: Options, timeout: float) -> "Future[Routed]":
        return self.scheduler.submit(images, options, timeout)

    def explain(self, images: Images, options: Options) -> list[Explanation]:
        """Run images again, apart from others: the answers are the same."""
        return self.classifier.explain(images, **asdict(options))

    def close(self, timeout: float) -> bool:
        """Answer what is in flight; false when that took longer than `timeout` seconds and was broken off."""
        done = self.scheduler.drain(timeout)
        if not done:
            self.scheduler.stop()
        return done
