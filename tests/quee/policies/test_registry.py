"""Every registered method takes the same tests."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import own_policy
import pytest
from replayed import Replayed
from small_world import small_cache, small_experiment

from quee.errors import IntegrityError
from quee.evaluation.resplits import fit_policies
from quee.paths import PathTree
from quee.policies.base import EXIT, OPEN, Basis, Limit, Router, simulate_behind, trade_offs
from quee.policies.files import read_policy, write_policy
from quee.policies.methods import Method
from quee.policies.networks import views
from quee.policies.registry import METHODS, all_sweeps, deployable, methods
from quee.policies.sweep import Setting, Sweep, hull_of
from quee.policies.thresholds import Thresholds
from quee.policies.walks import walk, walks_of
from quee.runtime.executor import Executor, Flight
from quee.settings.bundle import Bundle
from quee.work.io import write_tensors
from quee.work.registry import placed

CACHE = small_cache(1200)
BASIS, LEARNED = fit_policies(CACHE, small_experiment(epochs=30))
SETTING = replace(Setting.of(CACHE, ("validation", "test"), points=100), predictors=BASIS.predictors, policies=LEARNED)


ALL = [*methods(), own_policy.METHOD]
DEPLOYABLE = [method for method in ALL if method.deployable]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry line of the new policy."""
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register(own_policy.METHOD.name)(own_policy.METHOD)


@pytest.mark.parametrize(("role", "what"), [("basline", "role 'basline'"), ("baseline", "neither a policy nor")])
def test_an_entry_that_shows_nothing_is_refused(role: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Method("new", role)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_line_of_the_registry_names_code_that_is_there(method: Method) -> None:
    assert not method.deployable or issubclass(method.kind, Router)
    assert all(callable(placed(where)) for where in (method.sweeps, method.beside) if where)


def curves(method: Method, setting: Setting = SETTING) -> Iterator[Sweep]:
    if not method.beside:
        return method.curves(setting)
    return (sweep for sweep in all_sweeps(setting) if sweep.name == method.name)


def policy_of(method: Method) -> Router:
    policy = method.of(SETTING)
    assert policy is not None
    return policy


def uniform(tree: PathTree, node: int) -> bool:
    return len(set(tree.paths[node])) == 1


def by_name(method: Method) -> str:
    return method.name


@pytest.mark.parametrize("method", ALL, ids=by_name)
def test_every_method_spends_between_the_cheapest_exit_and_the_dearest_path(method: Method) -> None:
    found = list(curves(method))
    assert found
    for sweep in found:
        for split in ("validation", "test"):
            assert sweep.errors[split].shape == sweep.costs[split].shape == (400, len(sweep.values))
            assert sweep.errors[split].min() >= 0
            assert sweep.errors[split].max() <= 1 + 1e-12
            assert sweep.costs[split].min() >= SETTING.costs.segment[0] - 1e-12
            assert sweep.costs[split].max() <= 1.01


@pytest.mark.parametrize("method", [m for m in ALL if m.role != "bound"], ids=by_name)
def test_no_method_looks_at_test_labels_to_choose(method: Method) -> None:
    """Answers of heads turn from right to wrong with the cache's errors; a method with answers of its own has none right."""
    test = SETTING.caches["test"]
    blind = replace(test, error=~test.error, label=np.full_like(test.label, -1))
    other = replace(SETTING, caches={**SETTING.caches, "test": blind})
    for one, two in zip(curves(method), curves(method, other), strict=True):
        assert np.array_equal(one.costs["test"], two.costs["test"])
        assert np.allclose(one.errors["test"], 1 - two.errors["test"]) or two.errors["test"].all()


@pytest.mark.parametrize("method", DEPLOYABLE, ids=by_name)
def test_spending_more_on_validation_is_more_accurate_there(method: Method) -> None:
    """Cost falls with a rising price, but for little, because gates decide anew; points by a threshold are on a hull."""
    sweep = method.main(SETTING)
    cost, accuracy = sweep.costs["validation"].mean(axis=0), 1 - sweep.errors["validation"].mean(axis=0)
    if policy_of(method).kind == "point":
        assert (np.diff(cost) > 0).all()
    elif policy_of(method).priced:
        assert (np.diff(cost) <= 0.01 * cost.max()).all()
    else:
        assert (np.diff(cost) > 0).all()
        assert (np.diff(accuracy) > 0).all()


@pytest.mark.parametrize("method", DEPLOYABLE, ids=by_name)
def test_a_deployed_policy_is_nowhere_beyond_a_limit_and_decides_for_each_sample_alone(method: Method) -> None:
    policy, random = policy_of(method), np.random.default_rng(0)
    tree, spent = policy.tree, policy.costs.routed
    knobs = policy.knobs(20)
    for gate in range(1, tree.segments):
        nodes = tree.nodes_at(gate)
        index, knob = random.integers(len(nodes), size=len(CACHE)), random.choice(knobs, size=len(CACHE))
        view = views(tree, gate, CACHE.features)[np.arange(len(CACHE)), index]
        most = random.choice(spent, size=len(CACHE))
        for part in policy.parts(knob):
            own, rows, limits = part.policy, np.arange(len(CACHE))[part.rows], part.policy.costs.routed
            carried = np.zeros((len(CACHE), len(tree), 0))
            if own.carries:
                carried = walk(own, CACHE, [node for node in range(len(tree)) if uniform(tree, node)]).carried
            at, limit = nodes[index[rows]], Limit(limits, most[rows])
            seen = own.seen(view[rows], carried[rows, at])
            table = own.read(gate, at, seen)
            step, error = own.decide(table, part.knob, limit), own.exit_error(table)
            assert np.isfinite(error).all()
            value = own.values(table, part.knob, limit)
            least = np.take_along_axis(value, step[:, None] - EXIT, axis=1)[:, 0]
            assert (least <= value.min(axis=1) + 1e-6).all()
            if (settled := own.settled(gate, at, part.knob, limit)) is not None:
                known = settled != OPEN
                assert np.array_equal(settled[known], step[known])
            onward = step != EXIT
            ends = tree.children[at[onward], step[onward]]
            assert (ends >= 0).all()
            assert (policy.spent(ends, knob[rows[onward]]) <= most[rows[onward]]).all()
            for row in range(0, len(rows), 97):
                one = slice(row, row + 1)
                alone = own.read(gate, at[one], seen[one])
                assert own.decide(alone, part.knob[one], Limit(limits, most[rows[one]]))[0] == step[row]
                assert own.exit_error(alone)[0] == error[row]


@pytest.mark.parametrize("method", DEPLOYABLE, ids=by_name)
def test_a_policy_read_from_disk_and_executed_takes_the_simulated_paths(method: Method, tmp_path: Path) -> None:
    policy, test = policy_of(method), SETTING.caches["test"]
    write_policy(tmp_path, method.name, policy)
    basis = Basis(CACHE.tree, json.loads(json.dumps(CACHE.description)), BASIS.predictors)
    loaded = read_policy(tmp_path, method.name, basis)
    sweep = method.main(SETTING)
    assert sweep.knobs is not None
    assert sweep.first is not None
    points = np.unique(np.linspace(0, len(sweep.knobs) - 1, 12).astype(int))
    knobs, first = sweep.knobs[points], sweep.first[points]
    expected = simulate_behind(policy.tree, policy, test.features, knobs, first, walks_of(loaded, test))
    engine = Replayed(test)
    executor = Executor(engine, loaded, test.features.shape[2])
    for column, (knob, step) in enumerate(zip(knobs, first, strict=True)):
        samples = executor.samples(len(test))
        samples.admit(slice(None), np.full(len(test), knob))
        answers = np.empty((len(test), CACHE.head_log_probs.shape[2]))

        def ended(gate: int, slots: np.ndarray, log_probs: np.ndarray, answers: np.ndarray = answers) -> None:
            answers[slots] = log_probs

        executor.run(samples, Flight(np.arange(len(test)), engine.states), np.full(len(test), step), ended)
        assert np.array_equal(samples.node, expected[:, column])
        for row in range(0, len(test), 41):
            node, log_probs, error = executor.single(engine.states[row : row + 1], int(step), float(knob))
            assert node == samples.node[row], "an image alone takes the same path"
            assert np.array_equal(log_probs[0], answers[row])
            assert np.array_equal(error[0], samples.error[row], equal_nan=True)
    spent = policy.spent(expected, knobs).mean(axis=0)
    assert np.allclose(spent, sweep.costs["test"][:, points].mean(axis=0))


@pytest.mark.parametrize("method", DEPLOYABLE, ids=lambda m: m.name)
def test_exits_by_thresholds_are_found_as_the_simulation_finds_them(method: Method) -> None:
    policy = policy_of(method)
    if not isinstance(policy, Thresholds):
        pytest.skip("no policy by thresholds")
    cache = SETTING.caches["test"]
    walks, knobs = walks_of(policy, cache), policy.knobs(0)
    simulated = simulate_behind(policy.tree, policy, cache.features, knobs, policy.first(knobs), walks)
    np.testing.assert_array_equal(policy.ends(cache, walks), simulated)


def test_what_is_settled_is_not_read_and_company_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    static, mixed = policy_of(METHODS["static_mixture"]), policy_of(METHODS["auto"])
    engine, n = Replayed(SETTING.caches["test"]), len(SETTING.caches["test"])

    def executed(policy: Router, knob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        executor = Executor(engine, policy, CACHE.features.shape[2])
        samples = executor.samples(len(knob))
        samples.admit(slice(None), knob)
        first = policy.first(knob)
        assert first is not None
        executor.run(samples, Flight(np.arange(len(knob)), engine.states[: len(knob)]), first, lambda *_: None)
        return samples.node, samples.error

    knob = np.random.default_rng(0).choice(mixed.knobs(0), size=n)
    nodes, errors = executed(mixed, knob)
    for row in range(0, n, 29):
        alone = executed(mixed, knob[: row + 1])
        assert alone[0][row] == nodes[row] and np.array_equal(alone[1][row], errors[row], equal_nan=True)
    monkeypatch.setattr(type(static), "read", lambda *_: pytest.fail("read although it is settled"))
    assert np.isnan(executed(static, np.random.default_rng(0).choice(static.knobs(0), size=n))[1]).all()


def test_a_method_is_deployable_where_it_has_a_policy() -> None:
    named = {
        "auto",
        "confidence_by_gate",
        "confidence_hull",
        "eero",
        "entropy_hull",
        "fitted_q",
        "jei_gate",
        "patience",
    }
    assert {*named, "plan", "static_mixture", "ztw", own_policy.METHOD.name} <= set(deployable())
    assert not {"oracle", "random_routing", "static"} & set(deployable())
    assert Bundle().policy in deployable(), "settings with the default are not checked"


@pytest.mark.parametrize("name", ["eero", "jei_gate", own_policy.METHOD.name])
def test_exits_that_look_beat_the_same_exits_drawn_at_random(name: str) -> None:
    uniform = np.concatenate([nodes for _, nodes, references in SETTING.uniform() if not references])
    errors = {split: SETTING.errors(split)[:, uniform] for split in SETTING.splits}
    drawn = hull_of("drawn", [Sweep.at("", errors, SETTING.costs.static[uniform])])
    (sweep,) = METHODS[name].curves(SETTING)
    cost, accuracy = sweep.costs["test"].mean(axis=0), 1 - sweep.errors["test"].mean(axis=0)
    random = np.interp(cost, drawn.costs["test"].mean(axis=0), 1 - drawn.errors["test"].mean(axis=0))
    assert (accuracy >= random - 1e-4).all()
    assert (accuracy - random).max() > 0.02


def test_learned_gates_need_samples_to_learn_from() -> None:
    assert [sweep.name for sweep in METHODS["jei_gate"].curves(SETTING)] == ["jei_gate"]
    assert not list(METHODS["jei_gate"].curves(replace(SETTING, training=None)))


def test_a_policy_by_price_is_swept_over_trade_offs() -> None:
    sweep = METHODS["plan"].main(SETTING)
    assert np.array_equal(sweep.values, trade_offs(100))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("threshold", lambda a: a[:, :-1]),
        ("threshold", lambda a: a * np.nan),
        ("sequence", lambda a: a - 1),
        ("value", lambda a: a[:-1]),
        ("weight", lambda a: a[..., 1:]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, change, tmp_path: Path) -> None:
    policy = policy_of(METHODS["jei_gate"])
    write_tensors(
        tmp_path / "jei_gate.safetensors",
        {**policy.arrays(), name: np.ascontiguousarray(change(policy.arrays()[name]))},
    )
    with pytest.raises(IntegrityError, match=name.removesuffix("s")):
        read_policy(tmp_path, "jei_gate", Basis(CACHE.tree, CACHE.description))
