"""Base of engines for exported graphs: batch sizes, parallel calls, the gate's features."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Protocol

import numpy as np

from quee.errors import DisagreementError, IntegrityError, QueeError
from quee.precision import Precision
from quee.runtime.engines.base import Step, graph_name
from quee.runtime.engines.exact import are_exact, in_floats
from quee.runtime.engines.held import Graphs, Held, Run, coarse_to_fine
from quee.runtime.engines.memory import remember, remembered
from quee.runtime.replaced import stamp
from quee.runtime.view import View
from quee.work.extras import require_package
from quee.work.machine import cpu_model

LARGEST = 64
"""Most samples per call: in larger batches states leave the CPU's cache, and nothing is gained."""


class Watch(Protocol):
    """Compares graphs with the reference."""

    def admit(self, engine: "GraphEngine", segment: int, precision: Precision, graph: Held) -> None:
        """Compare a compiled graph before it runs for a caller; raises DisagreementError where it differs by more than is
        allowed. A graph of a step and size that was compared before is not compared again."""
        ...


class GraphEngine(ABC):
    """Executes the ONNX files of a bundle; each is compiled when first used, or by `warm`."""

    name: str
    package: str
    threads: int

    def __init__(self, view: View, graphs: Path | None, threads: int) -> None:
        """Raises QueeError that names the extra to install, or the folder that has no graphs."""
        for package in (self.package, "onnx"):
            require_package(package, f"engine {self.name}", self.package)
        if graphs is None or not any(graphs.glob("*.onnx")):
            raise QueeError(
                f"engine {self.name} needs exported graphs and {graphs or 'this network'} has none; make the bundle anew, "
                "or take engine torch"
            )
        self.segments, self.embedding = view.segments, view.embedding
        self.graphs, self.threads = graphs, threads
        self._stamps = {path.name: stamp(path) for path in graphs.glob("*.onnx")}
        self.held = Graphs()
        """Its compiled graphs; engine `auto` has one for all its engines."""
        self.watch: Watch | None = None
        """What compares every graph with the reference before it first runs for a caller, if there is one."""
        self.refused = ""
        """Why the engine runs nothing more; empty unless a graph of it disagreed with the reference."""
        self._runs: dict[tuple[int, str, int], Held] = {}
        """By segment, precision and number of samples, the graph that ran them last; `held` may have dropped it since."""

    @abstractmethod
    def compile(self, graph: bytes, precision: Precision, size: int | None = None) -> Run:
        """An ONNX model compiled for batches of `size` samples, or of any size where that is None."""

    @abstractmethod
    def load(self, path: Path, precision: Precision, size: int) -> Run:
        """Compile a graph of the bundle for batches of up to `size` samples."""

    @abstractmethod
    def sizes(self, path: Path) -> Sequence[int]:
        """The batch sizes, rising to LARGEST, that a graph is compiled for."""

    @abstractmethod
    def executed(self, precision: Precision) -> str: ...

    @cached_property
    def exact(self) -> bool:
        """Whether the engine's integer kernels sum without loss on this CPU; measured once per machine."""
        return self.kernels_are_exact()

    def kernels_are_exact(self) -> bool:
        return _measured(self.package, self.threads, self)

    def differs(self, precision: Precision) -> bool:
        """Whether it executes a precision otherwise than the engine that it is a variant of."""
        return True

    def integers(self, precision: Precision) -> str:
        """Name of the arithmetic that executes an integer precision, for `executed`."""
        if not self.exact:
            return "fp32 (emulated)"
        return "int8" if precision == Precision("w8a8") else "int8 (emulated)"

    def graph(self, path: Path) -> bytes:
        """The graph to execute: with integers in floats where the engine's integer kernels are not exact.

        Raises IntegrityError where the file was replaced since the bundle was loaded.
        """
        graph = path.read_bytes()
        if stamp(path) != self._stamps.get(path.name):
            raise IntegrityError(_replaced(path))
        return graph if self.exact else in_floats(graph)

    @property
    def version(self) -> str:
        return version(self.package)

    def path(self, segment: int, precision: Precision) -> Path:
        """The file of a graph; raises QueeError where the bundle has none."""
        path = self.graphs / graph_name(segment, Precision("fp32") if precision.is_float else precision)
        if not path.is_file():
            if path.name in self._stamps:
                raise IntegrityError(_replaced(path))
            raise QueeError(f"{self.graphs} has no graph {path.name}; engine torch executes {precision}")
        return path

    def warm(self, segment: int, precision: Precision, batch: int = LARGEST) -> None:
        """Compile every graph for batches of up to `batch` samples."""
        for size in self.useful(segment, precision, batch):
            self.compile_for(segment, precision, size)

    def compile_for(self, segment: int, precision: Precision, size: int) -> None:
        """Compile a graph for batches of `size` samples, if `held` has room for it."""
        self._run_for(segment, precision, size)

    def compiling(self, segment: int, precision: Precision) -> "GraphEngine | None":
        """The engine that compiles the graphs of a step: this one."""
        return self

    def useful(self, segment: int, precision: Precision, batch: int = LARGEST) -> Iterator[int]:
        """The sizes for batches of up to `batch` samples, those first that save most padding."""
        sizes = self.sizes(self.path(segment, precision))
        return coarse_to_fine(sizes[: bisect_left(sizes, min(batch, LARGEST)) + 1])

    def drop(self, segment: int, precision: Precision, samples: int | None = None) -> None:
        """Forget the compiled graphs of a step, except the one for batches of `samples`; they are compiled again when it runs."""
        kept = None if samples is None else self._size(self.path(segment, precision), samples)
        self.held.drop(self._step(segment, precision.name), kept)

    def _size(self, path: Path, samples: int) -> int:
        """The batch size that a graph is compiled for where it runs so many samples."""
        sizes = self.sizes(path)
        return sizes[bisect_left(sizes, min(samples, LARGEST))]

    def _step(self, segment: int, precision: str) -> tuple[str, int, str]:
        return self.name, segment, precision

    def _run_for(self, segment: int, precision: Precision, samples: int) -> Run:
        key = segment, precision.name, samples  # a precision's own hash takes several times as long
        found = self._runs.get(key)
        run = None if found is None else found.run
        if found is None or run is None:
            with self.held.lock:  # until a graph is compared no other thread finds it
                found, run = self._compared(segment, precision, samples)
                self._runs[key] = found
        found.used = monotonic()
        return run

    def _compared(self, segment: int, precision: Precision, samples: int) -> tuple[Held, Run]:
        """The graph for so many samples, compiled where there is none, and compared by `watch`.

        Raises DisagreementError where it is refused; from then on the engine runs nothing more.
        """
        if self.refused:
            raise DisagreementError(self.refused)
        path = self.path(segment, precision)
        found, run = self.held.find(
            self._step(segment, precision.name),
            self._size(path, samples),
            lambda size: self.load(path, precision, size),
        )
        if self.watch is not None:
            try:
                self.watch.admit(self, segment, precision, found)
            except DisagreementError as error:
                self.refused = str(error)
                self._runs.clear()
                self.held.drop()
                raise
        return found, run

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        if len(state) <= LARGEST:
            outputs = self._run_for(segment, precision, len(state))(state)
        else:
            parts = [state[start : start + LARGEST] for start in range(0, len(state), LARGEST)]
            ran = [self._run_for(segment, precision, len(part))(part) for part in parts]
            outputs = [np.concatenate(found) for found in zip(*ran, strict=True)]
        return self.step(segment, outputs)

    def step(self, segment: int, outputs: list[np.ndarray]) -> Step:
        """The outputs of a segment's graph as a step's results."""
        after = outputs[0] if segment < self.segments else None
        logits, *embedding = outputs[segment < self.segments :]
        return Step(after, logits, embedding[0] if embedding else None)


def _replaced(path: Path) -> str:
    return f"{path} was replaced since the bundle was loaded: load the bundle anew"


EXACT = "exact"
TRIED = "sums of integer products"
"""Names what is remembered; another name makes every machine measure again."""
_KNOWN: dict[tuple[str, int], bool] = {}


def _measured(package: str, threads: int, engine: GraphEngine) -> bool:
    if (found := _KNOWN.get((package, threads))) is None:
        key = f"{cpu_model()}; {package} {engine.version}; threads {threads}; {TRIED}"
        if (known := remembered(key)) is None:
            products = Precision("w8a8")
            known = EXACT if are_exact(lambda graph, x: engine.compile(graph, products, len(x))(x)[0]) else "inexact"
            remember(key, known)
        found = _KNOWN[package, threads] = known == EXACT
    return found
