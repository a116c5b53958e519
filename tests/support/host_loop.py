"""The loop of a runtime that executes a bundle's gate graphs, for many images at once, as docs/bundle-format.md tells it."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

from quee.precision import Precision
from quee.runtime.engines.base import Engine


def run_graphs(
    bundle: Path, engine: Engine, images: np.ndarray, policy: str, knob: float, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Node, label and cost (n,) of prepared images at a point; an engine runs the segments, ONNX Runtime the gates."""
    tree, gates = (
        json.loads((bundle / "tree.json").read_text()),
        json.loads((bundle / "bundle.json").read_text())["gates"],
    )
    sessions = [onnxruntime.InferenceSession(str(bundle / name)) for name in gates[policy]]
    start = next(n["node"] for n in tree["nodes"] if n["path"] == tree["precisions"][first])
    node, label, cost = np.full(len(images), -1), np.full(len(images), -1), np.full(len(images), np.nan)
    groups = {start: (np.arange(len(images)), images, {})}
    for here in tree["nodes"]:  # a parent's number is below its children's
        if here["node"] not in groups:
            continue
        rows, state, kept = groups.pop(here["node"])
        ran = engine.run(here["gate"], Precision(here["path"].split("-")[-1]), state)
        given = {
            "logits": ran.logits.astype(np.float32),
            "embedding": ran.embedding,
            "node": np.full(len(rows), here["node"]),
            "knob": np.full(len(rows), float(knob)),
            "max_cost": np.full(len(rows), np.inf),
            **{f"{name}_before": value for name, value in kept.items()},
        }
        session = sessions[here["gate"] - 1]
        names = [value.name for value in session.get_outputs()]
        said = dict(zip(names, session.run(names, {i.name: given[i.name] for i in session.get_inputs()}), strict=True))
        out = said["step"] == -1
        node[rows[out]], label[rows[out]] = here["node"], said["log_probs"][out].argmax(axis=1)
        cost[rows[out]] = said["cost"][out]
        for after in set(said.get("next", np.full(len(rows), -1)).tolist()) - {-1}:
            own = said["next"] == after
            assert ran.state is not None
            left = {name: said[name][own] for name in ("heads", "features", "carried") if name in said}
            groups[after] = rows[own], ran.state[own], left
    assert not groups
    return node, label, cost
