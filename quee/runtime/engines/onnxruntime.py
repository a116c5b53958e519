"""ONNX Runtime on the CPU: float kernels, and 8-bit integer kernels for matrix products.

Convolutions multiply integers in float32, which is exact: ConvInteger is several times as slow, and QLinearConv rounds
the result (docs/runtime.md has the measured table).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quee.precision import Precision
from quee.runtime.engines.exact import in_floats
from quee.runtime.engines.graphs import LARGEST, GraphEngine
from quee.runtime.engines.held import Run

BIAS_ROUNDING = "WeightBiasQuantization"
"""Rounds a convolution's bias to steps of input scale × weight scale, which at 4 bits is far from what was simulated."""


class OnnxRuntimeEngine(GraphEngine):
    name = package = "onnxruntime"

    def executed(self, precision: Precision) -> str:
        if precision.is_float:
            return "fp32" if precision.name == "fp32" else "fp32 (emulated)"
        return self.integers(precision)

    def session(self, graph: bytes, optimized: Path | None = None) -> Any:
        """A session on a graph; `optimized` is a file to write the executed graph to."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        # Sessions that spin while they wait take the CPU from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without VNNI, sums of products saturate at 16 bits unless this is set.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        graph = in_floats(graph, ("Conv",))
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=[BIAS_ROUNDING]
        )

    def sizes(self, path: Path) -> Sequence[int]:
        return (LARGEST,)

    def load(self, path: Path, precision: Precision, size: int) -> Run:
        return self.compile(self.graph(path), precision)

    def compile(self, graph: bytes, precision: Precision, size: int | None = None) -> Run:
        session = self.session(graph)

        def run(x: np.ndarray) -> list[np.ndarray]:
            # A single row is summed in another order.
            given = np.ascontiguousarray(x) if len(x) > 1 else np.repeat(x, 2, axis=0)
            return [output[: len(x)] for output in session.run(None, {"x": given})]

        return run
