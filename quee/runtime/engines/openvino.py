"""OpenVINO on the CPU: float kernels, bf16 where the CPU has it, and 8-bit integer kernels.

Small graphs are compiled once for each batch size on a ladder. With free shapes a small segment takes a tenth longer for
64 samples and half as long again for one, and every new size compiles kernels in the middle of a call. Large graphs are
compiled once, with a free batch: a new size costs a few milliseconds once, padding would cost whole samples every time,
and a sample's bits are the same at any size.
"""

import sys
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np

from quee.precision import Precision
from quee.runtime.engines.graphs import LARGEST, GraphEngine
from quee.runtime.engines.held import Run

LADDER = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, LARGEST)
"""Batch sizes of small graphs. More sizes would save little time and cost 5 to 20 MB per graph."""
SMALL = 4 << 20
"""Largest size in bytes of a small graph."""


class OpenVinoEngine(GraphEngine):
    name = package = "openvino"

    @cached_property
    def core(self) -> Any:
        sys.modules.setdefault(
            "openvino_telemetry", cast(Any, None)
        )  # its import reports itself to the maker otherwise
        from openvino import Core

        return Core()

    @cached_property
    def _capabilities(self) -> list[str]:
        return list(self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))

    def executed(self, precision: Precision) -> str:
        if not precision.is_float:
            return self.integers(precision)
        return precision.name if self._has(precision) else "fp32 (emulated)"

    def _has(self, precision: Precision) -> bool:
        """Whether the CPU computes in this float precision."""
        return precision.name == "fp32" or precision.name.upper() in self._capabilities

    def sizes(self, path: Path) -> Sequence[int]:
        return LADDER if path.stat().st_size <= SMALL else (LARGEST,)

    def compiled(self, graph: bytes, precision: Precision, size: int | None = None) -> Any:
        """OpenVINO's compiled model, for batches of `size` samples, or of any size."""
        hint = {"bf16": "bf16", "fp16": "f16"}.get(precision.name, "f32") if self._has(precision) else "f32"
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": 1,
            # Without this, each graph would be pinned to a core of its own, and successive graphs would wait for their cores.
            "ENABLE_CPU_PINNING": False,
        }
        model = self.core.read_model(model=graph)
        if size is not None:
            model.reshape([size, *list(model.input(0).partial_shape)[1:]])
        return self.core.compile_model(model, "CPU", settings)

    def compile(self, graph: bytes, precision: Precision, size: int | None = None) -> Run:
        compiled = self.compiled(graph, precision, size)
        return _Free(compiled) if size is None else _Sized(compiled)

    def load(self, path: Path, precision: Precision, size: int) -> Run:
        return self.compile(self.graph(path), precision, size if self.sizes(path) is LADDER else None)


class OpenVinoFloatsEngine(OpenVinoEngine):
    """OpenVINO with integers held in floats, as where its integer kernels are not exact: small layers multiply them faster."""

    name = "openvino in floats"

    @cached_property
    def exact(self) -> bool:
        return False

    def differs(self, precision: Precision) -> bool:
        return not precision.is_float and self.kernels_are_exact()


class _Call:
    """An inference request of a fixed size, with its buffers."""

    def __init__(self, compiled: Any) -> None:
        self.request = compiled.create_infer_request()
        self.input: np.ndarray = self.request.get_input_tensor(0).data
        self.outputs: list[np.ndarray] = [self.request.get_output_tensor(i).data for i in range(len(compiled.outputs))]
        self.input[:] = 0  # rows that a batch does not fill keep the values of the batch before

    def __call__(self, x: np.ndarray) -> None:
        self.input[: len(x)] = x
        self.request.infer(share_outputs=True)


class _Lent:
    """A call's output on loan: while an array is a view of it, the call is not used again."""

    def __init__(self, call: _Call, output: np.ndarray, idle: deque[_Call]) -> None:
        self.call, self.idle, self.__array_interface__ = call, idle, output.__array_interface__

    def __del__(self) -> None:
        self.idle.append(self.call)


class _Sized:
    """A graph compiled for one size. Every thread takes its own call; the first output is lent, not copied."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.idle: deque[_Call] = deque()

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        try:
            call = self.idle.pop()
        except IndexError:
            call = _Call(self.compiled)
        call(x)
        first, *others = call.outputs
        copies = [output[: len(x)].copy() for output in others]
        return [np.asarray(_Lent(call, first, self.idle))[: len(x)], *copies]


class _Free:
    """A graph compiled for any size; one thread calls it at a time."""

    def __init__(self, compiled: Any) -> None:
        self.request, self.outputs, self.lock = compiled.create_infer_request(), range(len(compiled.outputs)), Lock()

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        with self.lock:
            found = self.request.infer({0: np.ascontiguousarray(x)}, share_inputs=True, share_outputs=True)
            return [np.array(found[i]) for i in self.outputs]
