"""Engines by name: a new one is one file and one line here."""

from collections.abc import Callable
from pathlib import Path

from quee.features import GateView
from quee.registry import Registry
from quee.runtime.engines.base import Engine, Step
from quee.runtime.engines.torch import TorchEngine

ENGINES: Registry[Callable[[GateView, Path | None, int | None], Engine]] = Registry("engine")
"""Name to what opens it: (view, folder with the exported graphs, threads) → engine."""

ENGINES.register("torch")(lambda view, graphs, threads: TorchEngine(view))


def open_engine(name: str, view: GateView, graphs: Path | None = None, threads: int | None = None) -> Engine:
    """The engine of that name over a bundle's networks; `graphs` is the folder with its ONNX files.

    Raises UsageError for an unknown name, QueeError when the engine is not installed or the graphs are not there.
    """
    return ENGINES[name](view, graphs, threads)


__all__ = ["ENGINES", "Engine", "Step", "TorchEngine", "open_engine"]
