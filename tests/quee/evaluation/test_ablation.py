"""Ablations on the small world: cutting caches, targets, points, their store, and the table's intervals."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import small_cache

from quee.cache.answers import with_ensembles
from quee.errors import UsageError
from quee.evaluation.ablation.fit import Outcome, Recipe, Study, evaluate, fit, input_columns, prepare, restore
from quee.evaluation.ablation.grid import BASE, points
from quee.evaluation.ablation.labels import neighbour_targets, p_label_targets
from quee.evaluation.ablation.run import Points, compute, missing, outcomes
from quee.evaluation.ablation.table import (
    compare,
    difference_rows,
    divided_test_intervals,
    fixed_test_intervals,
    summary,
)
from quee.evaluation.ablation.views import smaller, view
from quee.evaluation.curves import Floor, area
from quee.evaluation.resplits import redivide
from quee.measure import AGREEMENT
from quee.policies.base import Costs
from quee.policies.plan import Plan
from quee.policies.sweep import Setting, routed_sweep
from quee.predictors import fit_predictors
from quee.report.ablations import forest
from quee.settings.ablate import Ablate
from quee.settings.experiment import Experiment
from quee.settings.paths import Considered
from quee.targets import ClusterTargets, future_errors
from tasks.verbs.ablate import as_markdown

CACHE = small_cache(samples=360, segments=3)
TREE = CACHE.tree


def experiment(**ablate: object) -> Experiment:
    settings = {"seeds": 3, "points": 20, "divide": "none", "bootstrap": 200, **ablate}
    return Experiment.model_validate(
        {
            "name": "small",
            "prepare": {"dataset": "digits"},
            "backbone": {"name": "vit_digits"},
            "targets": {"clusters": 5},
            "predictors": {"hidden": 4, "epochs": 5},
            "evaluate": {"budgets": (0.3, 0.6)},
            "ablate": settings,
        }
    )


def base(**changes: object) -> Recipe:
    return Recipe(precisions=("w4a4", "w8a8"), gates=(1, 2, 3), clusters=5, hidden=4).model_copy(update=changes)


# Cutting a cache


@given(gates=st.sampled_from([(1, 3), (2, 3), (1, 2, 3)]), kept=st.sampled_from([("w4a4",), ("w4a4", "w8a8")]))
def test_a_smaller_tree_costs_what_its_paths_cost_and_nothing_at_gates_left_out(
    gates: tuple[int, ...], kept: tuple[str, ...]
) -> None:
    small, nodes = smaller(TREE, kept, gates, Considered())
    whole, cut = Costs.of(TREE, CACHE.description), Costs.of(small, view(CACHE, small, nodes).description)
    assert np.allclose(cut.static, whole.static[nodes])
    for index, node in enumerate(nodes):
        way = TREE.lineage(int(node))
        stops = [n for n in way if TREE.gate[n] in gates]
        expected = sum(whole.segment[n] for n in way) + sum(whole.head[n] + whole.decision[n] for n in stops)
        assert cut.routed[index] == pytest.approx(expected)


def test_a_smaller_tree_keeps_what_was_seen_at_its_nodes() -> None:
    small, nodes = smaller(TREE, ["w8a8"], [2, 3], Considered())
    cut = view(CACHE, small, nodes)
    assert [small.name(n) for n in range(len(small))] == ["w8a8", "w8a8-w8a8"]
    assert [TREE.name(int(n)) for n in nodes] == ["w8a8-w8a8", "w8a8-w8a8-w8a8"]
    assert (cut.error == CACHE.error[:, nodes]).all()
    assert (cut.features == CACHE.features[:, nodes]).all()


def test_without_the_embedding_its_projection_costs_nothing() -> None:
    small, nodes = smaller(TREE, ["w4a4", "w8a8"], [1, 2, 3], Considered())
    bare = view(CACHE, small, nodes, embedding=False)
    assert bare.features.shape[2] == 4
    assert not Costs.of(small, bare.description).decision.any()


@pytest.mark.parametrize("gates", [[1, 2], [3], [2, 1, 3], [0, 3], [1, 4], [1, 1, 3]])
def test_gates_that_cannot_be_are_refused(gates: list[int]) -> None:
    with pytest.raises(UsageError, match="gates"):
        smaller(TREE, ["w4a4"], gates, Considered())


def test_a_precision_that_was_not_run_is_refused_with_those_that_were() -> None:
    with pytest.raises(UsageError, match="w6a6.*w4a4, w8a8"):
        smaller(TREE, ["w6a6"], [1, 3], Considered())


@given(seed=st.integers(0, 50))
def test_a_division_moves_rows_among_the_splits_named_alone(seed: int) -> None:
    moved = redivide(CACHE, seed, ("predictor", "validation"))
    assert ((moved.split == "test") == (CACHE.split == "test")).all()
    for split in ("predictor", "validation"):
        before = np.bincount(CACHE.label[CACHE.split == split])
        assert (np.bincount(moved.label[moved.split == split]) == before).all()


# Targets


def test_the_mean_error_of_one_neighbour_is_the_error_and_of_all_the_mean() -> None:
    errors = future_errors(CACHE, 1)
    assert np.allclose(neighbour_targets(CACHE, 1, 1), errors)
    assert np.allclose(neighbour_targets(CACHE, 1, 10_000), errors.mean(axis=0))


def test_the_target_by_probability_is_one_minus_that_of_the_label_where_the_path_ends() -> None:
    row, column = TREE.continuations(1)
    found, ends = p_label_targets(CACHE, 1)[:, (row == 1) & (column == 3)], TREE.extensions(1)
    assert np.allclose(found[:, 0], 1 - CACHE.p_label[:, ends[1, 3]])


# Points


def study(settings: Experiment) -> Study:
    return Study(CACHE, settings, "here")


def test_the_base_is_the_pipeline_as_it_stands() -> None:
    work = study(experiment())
    prepared = prepare(work, base(), 0)
    found = evaluate(work, prepared, fit(work, prepared))

    cache = with_ensembles(CACHE)
    predictor, validation, test = (cache.of(split) for split in ("predictor", "validation", "test"))
    settings = work.experiment
    clusters = ClusterTargets(5, settings.targets.shrinkage, settings.targets.per_node, settings.targets.seed)
    targets = clusters.fit(predictor)
    predictors, _ = fit_predictors(
        predictor,
        [targets.predict(predictor, gate) for gate in (1, 2)],
        validation,
        settings.predictors,
    )
    costs = Costs.of(TREE, cache.description, [predictors.bitflops(gate) for gate in (1, 2)])
    setting = Setting({"validation": validation, "test": test}, Costs.of(TREE, cache.description), 20)
    sweep = routed_sweep("quee_plan", setting, Plan(TREE, costs, predictors))
    assert found.facts["auc"] == pytest.approx(area(sweep, Floor.of(setting)), abs=1e-6)


@pytest.mark.parametrize(("history", "prefix"), [(False, True), (True, False), (False, False)])
def test_a_predictor_that_sees_less_is_not_moved_by_what_it_does_not_see_and_costs_less(
    history: bool, prefix: bool
) -> None:
    work = study(experiment())
    whole = fit(work, prepare(work, base(), 0))
    some = fit(work, prepare(work, base(history=history, prefix=prefix), 0))
    columns = input_columns(base(history=history, prefix=prefix), 2, 5, 2)
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 2 * (5 + 2))).astype(np.float32)
    other = random.normal(size=x.shape).astype(np.float32)
    other[:, columns] = x[:, columns]
    assert (some.predict(2, x) == some.predict(2, other)).all()
    assert some.bitflops(2) < whole.bitflops(2)
    again = restore(some.arrays())
    assert (again.predict(2, x) == some.predict(2, x)).all()


@pytest.mark.parametrize("ensemble", [False, True])
def test_deciding_once_pays_one_decision_and_the_heads_that_the_answer_needs(ensemble: bool) -> None:
    settings = experiment()
    targets = settings.targets.model_copy(update={"ensemble": ensemble})
    work = study(settings.model_copy(update={"targets": targets}))
    prepared = prepare(work, base(policy="commit"), 0)
    predictors = fit(work, prepared)
    from quee.evaluation.ablation.fit import committed_sweep

    costs = Costs.of(TREE, prepared.test.description, [predictors.bitflops(gate) for gate in (1, 2)])
    setting = Setting({"validation": prepared.validation, "test": prepared.test}, costs, 20)
    sweep = committed_sweep(setting, Plan(TREE, costs, predictors))
    assert sweep.nodes is not None
    for node in np.unique(sweep.nodes["test"]):
        first, deep = TREE.lineage(int(node))[0], TREE.gate[node] > 1
        paid = costs.static[node] + costs.decision[first] + deep * costs.head[first]
        if ensemble:
            paid = costs.of_exits(TREE).routed[node] + costs.decision[first]
        assert np.allclose(sweep.costs["test"][sweep.nodes["test"] == node], paid)
    assert (TREE.gate[sweep.nodes["test"][:, -1]] == 1).all()  # λ = 100: no sample goes on


def test_each_point_departs_from_the_base_in_its_axis_and_none_comes_twice() -> None:
    settings = experiment()
    grid = points(settings, TREE, CACHE.description["feature_names"])
    assert grid[0].axis == BASE
    recipes = [(point.recipe, point.variant) for point in grid]
    assert len(set(recipes)) == len(recipes)
    own = {"clusters": {"clusters"}, "hidden": {"hidden"}, "gates": {"gates"}, "precisions": {"precisions"}}
    for point in grid[1:]:
        before, after = grid[0].recipe.model_dump(), point.recipe.model_dump()
        changed = {key for key in before if before[key] != after[key]}
        assert changed
        assert changed == own.get(point.axis, changed)
    assert {point.axis for point in grid[1:]} >= set(Ablate().axes) - {"reference", "heads"}


# The store


def small_grid(clusters: Sequence[int]) -> Experiment:
    return experiment(axes=("clusters", "commit"), clusters=tuple(clusters))


def grid_of(settings: Experiment) -> list:  # type: ignore[type-arg]
    return points(settings, TREE, CACHE.description["feature_names"])


def test_a_grid_that_grows_computes_what_is_new_and_a_damaged_point(tmp_path: Path) -> None:
    store, before = Points(tmp_path), small_grid([2])
    work = study(before)
    done = list(compute(work, missing(work, grid_of(before), store), store))
    assert len(done) == 4 * 3
    assert not missing(work, grid_of(before), store)

    grown = study(small_grid([2, 8]))
    todo = missing(grown, grid_of(grown.experiment), store)
    assert [point.title for point, _ in todo] == ["clusters/K = 8"] * 3
    list(compute(grown, todo, store))

    first = outcomes(grown, grid_of(grown.experiment), store)
    file = next(tmp_path.glob(f"*/{work.point_digest(base(clusters=2), 1)}*"))
    file.write_bytes(file.read_bytes()[:-20])
    todo = missing(grown, grid_of(grown.experiment), store)
    assert [(point.title, seed) for point, seed in todo] == [("clusters/K = 2", 1)]
    list(compute(grown, todo, store))
    second = outcomes(grown, grid_of(grown.experiment), store)
    for before_, after in zip(first, second, strict=True):
        for a, b in zip(before_, after, strict=True):
            assert (a.errors == b.errors).all()
            assert a.facts == b.facts


@pytest.mark.parametrize("change", ["source", "divide", "shrinkage", "budgets", "points"])
def test_what_decides_a_point_is_in_its_digest(change: str) -> None:
    before = study(experiment())
    settings = before.experiment
    other = {
        "source": replace(before, source="elsewhere"),
        "divide": study(experiment(divide="all")),
        "points": study(experiment(points=21)),
        "shrinkage": study(
            settings.model_copy(update={"targets": settings.targets.model_copy(update={"shrinkage": 1.0})})
        ),
        "budgets": study(
            settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"budgets": (0.3,)})})
        ),
    }[change]
    assert before.point_digest(base(), 0) != other.point_digest(base(), 0)
    assert before.point_digest(base(), 0) != before.point_digest(base(), 1)


# The table


def coverage(simulate: object, trials: int = 60) -> tuple[float, float]:
    """Shares of tables and of rows with an interval that leaves out the truth, zero."""
    random = np.random.default_rng(0)
    tables, rows = [], []
    for trial in range(trials):
        found = simulate(random, trial)  # type: ignore[operator]
        tables.append((np.abs(found.mean) <= found.joint).all())
        rows.append((np.abs(found.mean) <= found.single).mean())
    return float(np.mean(tables)), float(np.mean(rows))


def test_joint_intervals_hold_for_all_rows_at_once_and_single_ones_do_not() -> None:
    def simulate(random: np.random.Generator, trial: int):  # type: ignore[no-untyped-def]
        shared = random.normal(size=(1, 400, 1))
        each = random.normal(size=(1, 400, 25))
        repeated = 0.05 * random.normal(size=(4, 1, 25))
        return fixed_test_intervals(0.3 * shared + each + repeated, 300, trial)

    joint, single = coverage(simulate)
    assert joint >= 0.9
    assert 0.9 <= single <= 0.99


def test_repetitions_that_share_samples_are_not_taken_for_independent() -> None:
    differences = np.random.default_rng(0).normal(size=(10, 6))
    apart, together = (divided_test_intervals(differences, ratio, 400, 0) for ratio in (0.0, 0.5))
    assert np.allclose(together.error / apart.error, np.sqrt((0.1 + 0.5) / 0.1))
    assert (together.joint > together.single).all()


def test_a_row_equal_to_the_base_gains_nothing_for_certain() -> None:
    random = np.random.default_rng(0)
    errors = random.uniform(size=(2, 50, 2)).astype(np.float32)

    def outcome(e: np.ndarray) -> Outcome:
        return Outcome(e, e.mean(axis=1), {"auc": 0.5, "validation_auc": 0.5})

    same, worse = [[outcome(e) for e in errors]], [[outcome(np.minimum(e + 0.2, 1)) for e in errors]]
    gain, at_budgets = compare(same + same + worse, None, 200, 0)
    assert gain.mean[0] == 0
    assert gain.joint[0] < 1e-9
    assert gain.mean[1] + gain.joint[1] < 0
    assert at_budgets.mean.shape == (4,)


def test_metrics_figure_and_rows_come_from_the_same_grid(tmp_path: Path) -> None:
    work, store = study(small_grid([2])), Points(tmp_path)
    grid = grid_of(work.experiment)
    list(compute(work, missing(work, grid, store), store))
    found = outcomes(work, grid, store)
    gain, at_budgets = compare(found, None, 200, 0)
    rows = difference_rows(grid, (0.3, 0.6), gain, at_budgets)
    assert [row["measure"] for row in rows[:3]] == ["auc", "accuracy@0.3", "accuracy@0.6"]
    metrics = summary(grid, found, gain, rows)
    assert list(metrics["points"]) == [point.title for point in grid]
    assert metrics["detectable"]["smallest"] <= metrics["detectable"]["median"]
    for point in grid[1:]:
        entry = metrics["points"][point.title]
        difference = entry["auc"] - metrics["points"][grid[0].title]["auc"]
        assert entry["gain.mean"] == pytest.approx(difference, abs=1e-6)
    drawn = forest(rows, "small")
    assert drawn == forest(rows, "small")
    assert "clusters: K = 2" in drawn
    assert "(points of accuracy)" in drawn and "(points of agreement)" in forest(rows, "small", AGREEMENT)
    assert "Points of accuracy. " in as_markdown(metrics)
    without_labels = as_markdown({**metrics, **AGREEMENT.facts})
    assert "Points of agreement. " in without_labels and "accuracy" not in without_labels
