"""Engines by name: a new engine is one file and one line here."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from quee.errors import UsageError
from quee.export.torch_engine import TorchEngine
from quee.features import GateView
from quee.runtime.engines.base import Engine, Reference, Step
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.engines.onnxruntime import OnnxRuntimeEngine
from quee.runtime.engines.openvino import OpenVinoEngine
from quee.runtime.engines.probe import AutoEngine
from quee.work.registry import Registry
from quee.work.threads import cores

GRAPH_ENGINES: tuple[type[GraphEngine], ...] = (OpenVinoEngine, OnnxRuntimeEngine)
"""Engines that execute exported graphs."""
ENGINES: Registry[Callable[[GateView, Path | None, int], Engine]] = Registry("engine")
"""Name to constructor: (view, folder with the exported graphs, threads) → engine."""


def _auto(view: GateView, graphs: Path | None, threads: int) -> AutoEngine:
    kinds = GRAPH_ENGINES if graphs is not None and any(graphs.glob("*.onnx")) else ()
    found = [kind(view, graphs, threads) for kind in kinds if find_spec(kind.package)]
    return AutoEngine([TorchEngine(view), *found], graphs, threads)


ENGINES.register("torch")(lambda view, graphs, threads: TorchEngine(view))
ENGINES.register("cuda")(lambda view, graphs, threads: TorchEngine(view, "cuda"))
for _kind in GRAPH_ENGINES:
    ENGINES.register(_kind.name)(_kind)
ENGINES.register("auto")(_auto)


def open_engine(
    name: str,
    view: GateView,
    graphs: Path | None = None,
    threads: int | None = None,
    reference: Reference | None = None,
) -> Engine:
    """The engine of that name over a bundle's networks; `graphs` is the folder with its ONNX files.

    `threads` defaults to the number of cores the process may use; PyTorch's own setting is not changed. `auto` compares
    every engine that it tries with the reference, where one is given. Raises UsageError for an unknown name or a bad
    number of threads, QueeError when the engine is not installed or the graphs are missing.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}; valid: from 1")
    engine = ENGINES[name](view, graphs, threads or cores())
    if isinstance(engine, AutoEngine):
        engine.reference = reference
    return engine


__all__ = ["ENGINES", "GRAPH_ENGINES", "Engine", "Step", "TorchEngine", "open_engine"]
