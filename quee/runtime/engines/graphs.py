"""What engines that execute exported graphs share: sizes of batches, one compiled graph at a time, the gate's features."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np

from quee.errors import QueeError
from quee.features import GateView, uncertainty
from quee.precision import Precision
from quee.runtime.engines.base import Step
from quee.runtime.export import graph_name

Run = Callable[[np.ndarray], list[np.ndarray]]
"""(n, …) to the graph's outputs; they may be overwritten by the next call."""
LARGEST = 64
"""Samples per call: beyond, states leave the cache and nothing is gained."""


class GraphEngine(ABC):
    """Executes the ONNX files of a bundle; each is compiled when first used."""

    name: str
    package: str
    smallest, step = 1, 1
    """Batches are padded to at least so many samples, and above `step` to a multiple of it, so that few shapes are met."""

    def __init__(self, view: GateView, graphs: Path | None, threads: int) -> None:
        """Raises QueeError naming the extra to install, or a folder without graphs."""
        if find_spec(self.package) is None:
            raise QueeError(f"engine {self.name} needs the package {self.package}: pip install 'quee[engines]'")
        if graphs is None or not any(graphs.glob("*.onnx")):
            raise QueeError(
                f"engine {self.name} needs exported graphs and {graphs or 'this network'} has none; write the bundle "
                "with quee[engines] installed, or take engine torch"
            )
        self.segments, self.embedding = view.backbone.segments, view.embedding
        self.graphs, self.threads = graphs, threads
        self._loaded: dict[tuple[int, Precision], tuple[Run, Lock]] = {}
        self._loading = Lock()

    @abstractmethod
    def load(self, path: Path, precision: Precision) -> Run:
        """Compile a graph for a precision."""

    @abstractmethod
    def executed(self, precision: Precision) -> str: ...

    @property
    def version(self) -> str:
        return version(self.package)

    def path(self, segment: int, precision: Precision) -> Path:
        """The graph's file; raises QueeError where the bundle has none."""
        path = self.graphs / graph_name(segment, Precision("fp32") if precision.is_float else precision)
        if not path.is_file():
            raise QueeError(f"{self.graphs} has no graph {path.name}; engine torch executes {precision}")
        return path

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        if (found := self._loaded.get((segment, precision))) is None:
            with self._loading:
                if (segment, precision) not in self._loaded:
                    self._loaded[segment, precision] = self.load(self.path(segment, precision), precision), Lock()
                found = self._loaded[segment, precision]
        run, lock = found
        parts = []
        with lock:
            for start in range(0, len(state), LARGEST):
                part = state[start : start + LARGEST]
                count = len(part)
                size = max(self.smallest, count if count <= self.step else -(-count // self.step) * self.step)
                if missing := size - count:
                    part = np.concatenate([part, np.broadcast_to(part[:1], (missing, *part.shape[1:]))])
                parts.append([np.array(output[:count]) for output in run(np.ascontiguousarray(part))])
        outputs = parts[0] if len(parts) == 1 else [np.concatenate(found) for found in zip(*parts, strict=True)]
        after = outputs.pop(0) if segment < self.segments else None
        log_probs = outputs[0].astype(np.float64)  # scipy's log_softmax takes longer than a small segment
        log_probs -= log_probs.max(axis=1, keepdims=True)
        log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        seen = [uncertainty(log_probs), *outputs[1:]]
        return Step(after, log_probs, np.concatenate(seen, axis=1, dtype=np.float32))
