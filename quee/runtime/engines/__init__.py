"""Engines by name: a new engine is one file and one line here."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from quee.errors import QueeError, UsageError
from quee.runtime.engines.base import Engine, Reference, Step
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.engines.onnxruntime import OnnxRuntimeEngine
from quee.runtime.engines.openvino import OpenVinoEngine, OpenVinoFloatsEngine
from quee.runtime.engines.probe import AutoEngine
from quee.runtime.view import View
from quee.work.extras import require_package
from quee.work.registry import Registry
from quee.work.threads import cores

GRAPH_ENGINES: tuple[type[GraphEngine], ...] = (OpenVinoEngine, OnnxRuntimeEngine)
"""Engines that execute exported graphs."""
VARIANTS: tuple[type[GraphEngine], ...] = (OpenVinoFloatsEngine,)
"""Other ways to execute the same graphs, which only `auto` takes, where they are faster."""
ENGINES: Registry[Callable[[View, Path | None, int], Engine]] = Registry("engine")
"""Name to constructor: (view, folder with the exported graphs, threads) → engine."""


def torch_engine(view: View, device: str = "cpu") -> Engine:
    """The reference, or it on `cuda`; raises QueeError where PyTorch is not installed."""
    require_package("torch", f"engine {'torch' if device == 'cpu' else device}", "train")
    from quee.export.torch_engine import TorchEngine  # PyTorch is an extra

    return TorchEngine(view, device)


def default_engine() -> str:
    """The engine of a bundle where none is named: the reference, or `auto` where PyTorch is not installed."""
    return "torch" if find_spec("torch") else "auto"


def installed_engines(graphs: bool) -> list[str]:
    """The engines, except CUDA, that can execute a bundle here, with or without exported graphs."""
    torch = ["torch"] if find_spec("torch") else []
    return torch + [kind.name for kind in GRAPH_ENGINES if graphs and find_spec(kind.package)]


def _auto(view: View, graphs: Path | None, threads: int) -> AutoEngine:
    known = installed_engines(graphs is not None and any(graphs.glob("*.onnx")))
    found = [kind(view, graphs, threads) for kind in (*GRAPH_ENGINES, *VARIANTS) if kind.package in known]
    if not known and graphs is not None:
        names = ", ".join(f"'quee[{kind.name}]'" for kind in GRAPH_ENGINES)
        raise QueeError(f"no engine is installed: pip install one of {names}")
    return AutoEngine(found, graphs, threads, partial(torch_engine, view))


ENGINES.register("torch")(lambda view, graphs, threads: torch_engine(view))
ENGINES.register("cuda")(lambda view, graphs, threads: torch_engine(view, "cuda"))
for _kind in GRAPH_ENGINES:
    ENGINES.register(_kind.name)(_kind)
ENGINES.register("auto")(_auto)


def open_engine(
    name: str,
    view: View,
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


__all__ = [
    "ENGINES",
    "GRAPH_ENGINES",
    "Engine",
    "Step",
    "default_engine",
    "installed_engines",
    "open_engine",
    "torch_engine",
]
