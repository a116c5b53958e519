"""OpenVINO on the CPU: float kernels, bf16 where the CPU has it, and 8-bit integer kernels."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from quee.precision import Precision
from quee.runtime.engines.graphs import GraphEngine, Run


class OpenVinoEngine(GraphEngine):
    name = package = "openvino"
    step = 4  # kernels are made anew for every shape, which takes milliseconds

    @cached_property
    def core(self) -> Any:
        from openvino import Core

        return Core()

    @cached_property
    def _capabilities(self) -> list[str]:
        return list(self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))

    def executed(self, precision: Precision) -> str:
        if not precision.is_float:
            return "int8" if precision == Precision("w8a8") else "int8 (emulated)"
        if precision.name == "fp32" or precision.name.upper() in self._capabilities:
            return precision.name
        return "fp32 (emulated)"

    def compile(self, path: Path, precision: Precision) -> Any:
        hint = {"bf16": "bf16", "fp16": "f16"}.get(self.executed(precision), "f32")
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": 1,
            # Graphs that follow each other would each be tied to a core of their own, and wait for it.
            "ENABLE_CPU_PINNING": False,
        }
        return self.core.compile_model(self.core.read_model(path), "CPU", settings)

    def load(self, path: Path, precision: Precision) -> Run:
        compiled = self.compile(path, precision)
        request, outputs = compiled.create_infer_request(), range(len(compiled.outputs))

        def run(x: np.ndarray) -> list[np.ndarray]:
            found = request.infer({0: x}, share_inputs=True, share_outputs=True)
            return [found[i] for i in outputs]

        return run
