"""Export of decisions: what happens at a gate, as an ONNX graph for runtimes other than quee's own.

A graph is traced from the NumPy code that simulation and runtime execute, in its precision.
"""

from pathlib import Path

from quee.ensembles import Ensembles
from quee.errors import QueeError
from quee.export.graphs import OPSET
from quee.export.traced import Recorder, UntraceableError
from quee.policies.base import Router
from quee.runtime.gate import KEPT, Gate, gate_name
from quee.work.extras import require_package


def export_gates(
    router: Router, name: str, ensembles: Ensembles | None, classes: int, features: int, embedding: int, out: Path
) -> dict[str, list[str]]:
    """Write the graph of every gate for every policy of a router into `out`; returns the files by policy, in the gates' order.

    `name` is that of the router, `features` the number of state features of a gate, the last `embedding` of them compressed
    embedding. Raises QueeError where the package onnx is missing, or a policy does what cannot be traced.
    """
    require_package("onnx", "writing a bundle", "train")
    written: dict[str, list[str]] = {}
    for own in router.policies():
        policy, wanted, files = own or name, set[str](), list[str]()
        for number in range(router.tree.segments, 0, -1):  # backwards, because a gate leaves what those behind it take
            try:
                graph, wanted = _graph(Gate(router, own, ensembles, number), classes, features, embedding, wanted)
            except UntraceableError as error:
                raise QueeError(f"policy {policy}, gate {number}: {error}") from None
            files.insert(0, gate_name(policy, number))
            (out / files[0]).write_bytes(graph)
        written[policy] = files
    return written


def _graph(gate: Gate, classes: int, features: int, embedding: int, wanted: set[str]) -> tuple[bytes, set[str]]:
    """The graph of a gate that leaves what is wanted behind it, and the names of its own inputs."""
    record = Recorder()
    given = {
        name: record.input(name, dtype, *sizes)
        for name, (dtype, sizes) in gate.shapes(classes, features, embedding).items()
    }
    outputs = {key: value for key, value in gate(given).items() if key not in KEPT or KEPT[key] in wanted}
    return record.model(outputs, OPSET)
