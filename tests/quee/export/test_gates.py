"""The graphs of the gates decide as NumPy does, for every policy of the registry, new ones included."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import own_policy
import pytest
from small_world import small_cache, small_experiment

from quee.ensembles import Ensembles
from quee.errors import QueeError
from quee.evaluation.resplits import fit_policies
from quee.export.gates import export_gates
from quee.policies.base import EXIT
from quee.policies.confidence import Confidence
from quee.policies.methods import Method
from quee.policies.registry import METHODS, deployable
from quee.policies.sweep import Setting
from quee.runtime.gate import KEPT, Gate

CLASSES, FEATURES, EMBEDDING = 4, 5, 1
CACHE = small_cache(900, classes=CLASSES)
BASIS, LEARNED = fit_policies(CACHE, small_experiment(epochs=20))
SETTING = replace(Setting.of(CACHE, ("validation", "test"), points=60), predictors=BASIS.predictors, policies=LEARNED)
TREE = CACHE.tree
RANDOM = np.random.default_rng(0)
ENSEMBLES = Ensembles(
    np.where(np.arange(TREE.segments) < TREE.gate[:, None], RANDOM.uniform(size=(len(TREE), TREE.segments)), 0.0),
    RANDOM.normal(size=(len(TREE), CLASSES)),
)


def given_to(gate: Gate, samples: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of random samples at nodes where they can stand, at knobs that the policy has, half of them with a limit."""
    own, knobs = gate.own, gate.router.knobs(40)
    knobs = knobs[[name == gate.policy for name in gate.router.names(knobs)]]
    nodes = TREE.nodes_at(gate.gate)
    nodes = nodes if own.stands is None else nodes[own.stands[nodes]]
    most = random.choice(own.costs.routed, samples)
    return {
        "logits": (3 * random.normal(size=(samples, CLASSES))).astype(np.float32),
        "embedding": random.normal(size=(samples, EMBEDDING)).astype(np.float32),
        "node": random.choice(nodes, samples),
        "knob": random.choice(knobs, samples),
        "max_cost": np.where(random.random(samples) < 0.5, np.inf, most),
    }


def gates_of(method: Method, ensembles: Ensembles | None, out: Path) -> Iterator[tuple[Gate, str]]:
    """Every gate of every policy of a method, with its file, in the order of the gates."""
    router = method.of(SETTING)
    assert router is not None
    written = export_gates(router, method.name, ensembles, CLASSES, FEATURES, EMBEDDING, out)
    assert sorted(path.name for path in out.iterdir()) == sorted(name for names in written.values() for name in names)
    for own in router.policies():
        for number, file in enumerate(written[own or method.name], 1):
            yield Gate(router, own, ensembles, number), file


def executed(file: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file))
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: given[i.name] for i in session.get_inputs()}), strict=True))


@pytest.mark.parametrize("ensembles", [None, ENSEMBLES], ids=["heads", "ensembles"])
@pytest.mark.parametrize("method", [*deployable().values(), own_policy.METHOD], ids=lambda method: method.name)
def test_a_graph_says_what_numpy_says(
    method: Method, ensembles: Ensembles | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS, "_entries", {**METHODS._entries, own_policy.METHOD.name: own_policy.METHOD})
    random, steps = np.random.default_rng(1), set[int]()
    left: dict[int, dict[str, np.ndarray]] = {1: {}, 500: {}}
    for gate, file in gates_of(method, ensembles, tmp_path):
        for samples, kept in left.items():
            given = given_to(gate, samples, random) | (kept if gate.gate > 1 else {})
            assert set(given) >= set(gate.shapes(CLASSES, FEATURES, EMBEDDING))
            expected, found = gate(given), executed(tmp_path / file, given)
            assert gate.differs(given, found) == ""
            assert np.array_equal(found["step"], expected["step"])  # no near tie among these
            left[samples] = {KEPT[name]: value for name, value in expected.items() if name in KEPT}
            steps |= set(found["step"].tolist())
    assert EXIT in steps and len(steps) > 1


def test_differences_are_told_but_for_near_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, file = next(gates_of(METHODS["plan"], None, tmp_path))
    given = {**given_to(gate, 200, np.random.default_rng(2)), "max_cost": np.full(200, np.inf)}
    found = executed(tmp_path / file, given)
    assert gate.differs(given, {**found, "error": found["error"] + 1e-5}).startswith("error ")
    assert gate.differs(given, {**found, "error": found["error"] + 1e-9}) == ""
    assert "instead of float64" in gate.differs(given, {**found, "cost": found["cost"].astype(np.float32)})
    turned = {**found, "step": np.where(found["step"] == EXIT, 0, EXIT)}
    assert "200 steps differ, by up to" in gate.differs(given, turned)
    values = gate.values(given)
    monkeypatch.setattr("quee.runtime.gate.MARGIN", float(np.ptp(values, axis=1).max()))
    assert gate.differs(given, turned) == ""


class Loops(Confidence):
    """Asks for the number of samples, which a graph does not know."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.full(len(features), 0.5)


def test_a_policy_that_cannot_be_traced_is_refused_by_name_with_what_it_does(tmp_path: Path) -> None:
    fitted = METHODS["confidence_hull"].of(SETTING)
    assert fitted is not None
    policy = Loops.on(SETTING, fitted.arrays())
    with pytest.raises(QueeError, match=r"policy loops, gate 2: len\(array\), the number of samples, cannot be traced"):
        export_gates(policy, "loops", None, CLASSES, FEATURES, EMBEDDING, tmp_path)
