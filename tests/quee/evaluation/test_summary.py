import numpy as np
import pytest

from quee.evaluation.curves import Floor
from quee.evaluation.draws import Draws, paired, simultaneous_band
from quee.evaluation.measured import Measured, Yardstick, measure
from quee.evaluation.summary import compare, resplit_summary
from quee.evaluation.tables import band_rows, budget_rows, curve_rows, operating_rows
from quee.policies.names import rivals
from quee.policies.sweep import Sweep
from quee.work.percentages import SHARE, impossible

NAMES = ("static_hull", "confidence_hull", "random_routing", "quee_plan", "quee_fitted_q", "oracle")
FLOOR = Floor({split: np.ones(400) for split in ("validation", "test")})
YARDSTICK = Yardstick(np.array([0.1, 0.3, 1.0]), np.geomspace(0.01, 0.9, 40), FLOOR, 0.9)
DRAWS = Draws.of(400, 3, 200, 0)


def sweep(name: str, seed: int = 0, rate: float = 0.3) -> Sweep:
    random = np.random.default_rng(seed)
    errors = {s: (random.random((400, 3)) < rate * np.array([1, 0.7, 0.4])).astype(float) for s in FLOOR.errors}
    costs = {s: np.array([0.1, 0.4, 0.9]) * random.uniform(0.8, 1.2, (400, 1)) for s in FLOOR.errors}
    return Sweep(name, "lambda", np.array([1.0, 0.1, 0.0]), errors, costs)


@pytest.fixture(scope="module")
def found() -> dict[str, list[Measured]]:
    """Policies under three seeds, the others under one."""
    seeds = {name: 3 if name.startswith("quee") else 1 for name in NAMES}
    return {
        name: [measure(sweep(name, 10 * index + seed, 0.3 - 0.04 * index), YARDSTICK) for seed in range(seeds[name])]
        for index, name in enumerate(NAMES)
    }


def test_every_method_is_measured_and_the_reference_differs_from_itself_by_nothing(found) -> None:
    said = compare(found, YARDSTICK, DRAWS)
    assert list(said["methods"]) == list(NAMES)
    itself = said["difference_vs_static_hull"]["static_hull"].values()
    assert all(value == pytest.approx(0, abs=1e-6) for row in itself for value in row.values())
    assert said["oracle_gap_closed"]["oracle"] == 1
    assert said["oracle_gap_closed"]["static_hull"] == 0
    assert said["gains"]["gain.quee_plan.static_hull"]["mean"] == pytest.approx(
        said["methods"]["quee_plan"]["auc"] - said["methods"]["static_hull"]["auc"]
    )


def test_a_method_is_the_mean_of_its_seeds(found) -> None:
    by_seed = compare(found, YARDSTICK, DRAWS)["methods"]["quee_plan"]
    assert len(by_seed["auc_by_seed"]) == 3
    assert by_seed["auc"] == pytest.approx(np.mean(by_seed["auc_by_seed"]))
    row = next(row for row in budget_rows(found, YARDSTICK, DRAWS) if row["method"] == "quee_plan")
    assert row["seeds"] == 3
    assert row["test_accuracy"] == pytest.approx(by_seed["accuracy_at_budget"]["0.1"])
    points = operating_rows(found, DRAWS)
    assert {p["seed"] for p in points if p["method"] == "quee_plan"} == {0, 1, 2}
    assert {p["seed"] for p in points if p["method"] == "static_hull"} == {0}


def test_what_a_method_is_behind_the_best_is_a_paired_difference_of_the_shown_accuracies(found) -> None:
    said = compare(found, YARDSTICK, DRAWS)
    behind = said["behind_best"]
    assert set(behind) == set(NAMES) - {"oracle"}  # a bound does not compete
    for column in ("auc", "1"):
        best = {entry[column]["best"] for entry in behind.values()}.pop()
        assert behind[best][column]["mean"] == behind[best][column]["low"] == 0
        for name, entry in behind.items():
            row = entry[column]
            assert row["best"] == best and row["low"] <= row["mean"] <= row["high"] and row["mean"] >= 0
            at = said["methods"][name]["auc"] if column == "auc" else said["methods"][name]["accuracy_at_budget"]["1"]
            top = said["methods"][best]["auc"] if column == "auc" else said["methods"][best]["accuracy_at_budget"]["1"]
            assert row["mean"] == pytest.approx(top - at)


def test_a_budget_that_a_method_cannot_meet_has_no_best_of_it() -> None:
    yardstick = Yardstick(np.array([0.001, 1.0]), YARDSTICK.band, FLOOR, 0.9)
    dear = {name: [measure(sweep(name, 3), yardstick)] for name in NAMES}
    assert all(set(entry) == {"auc", "1"} for entry in compare(dear, yardstick, DRAWS)["behind_best"].values())


@pytest.mark.parametrize("step", [-0.04, 0.0, 0.002, 0.04])
def test_what_is_said_of_methods_however_near_each_other_lies_where_it_can(step: float) -> None:
    near = {name: [measure(sweep(name, i, 0.3 - step * i), YARDSTICK)] for i, name in enumerate(NAMES)}
    said = compare(near, YARDSTICK, DRAWS)
    assert list(impossible(said)) == []
    assert step or any(e["1"]["low"] < 0 for e in said["behind_best"].values())  # a difference that may be either way


def test_bands_over_all_budgets_are_wider_than_intervals_at_each(found) -> None:
    for row in budget_rows(found, YARDSTICK, DRAWS):
        assert row["low"] <= row["test_accuracy"] <= row["high"]
        assert row["band_high"] - row["band_low"] > 0.95 * (row["high"] - row["low"])
    fitted = compare(found, YARDSTICK, DRAWS)["differences"]["quee_fitted_q"]
    assert set(fitted) == {"static_hull", "confidence_hull", "random_routing", "quee_plan"}
    widths = [(r["band_high"] - r["band_low"], r["high"] - r["low"]) for by in fitted.values() for r in by.values()]
    assert np.mean([band > alone for band, alone in widths]) > 0.9


def test_intervals_over_seeds_cover_the_truth_as_often_as_those_over_many_samples_do() -> None:
    """Ten seeds that vary five times as much as samples alone show."""
    random, covered, alone = np.random.default_rng(0), 0, 0
    for trial in range(150):
        seeds = random.normal(0, 0.05, 10)
        values = seeds[:, None, None] + random.normal(0, 0.2, (10, 400, 1))
        (row,) = paired(values, Draws.of(400, 10, 300, trial))
        (blind,) = paired(values.mean(axis=0)[None], Draws.of(400, 1, 300, trial))
        covered += row["low"] <= 0 <= row["high"]
        alone += blind["low"] <= 0 <= blind["high"]
    assert covered / 150 > 0.86
    assert alone / 150 < 0.6


def test_draws_for_another_number_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="values of 2 seeds, draws of 3"):
        DRAWS.replicates(np.zeros((2, 400, 1)))


def test_simultaneous_bands_hold_the_mean_and_widen_over_pointwise_ones() -> None:
    errors = np.random.default_rng(0).integers(0, 2, (200, 10)).astype(float)
    mean = 1 - errors.mean(axis=0)
    low, high = simultaneous_band(mean, 1 - Draws.of(200, 1, 500, 0).replicates(errors[None]), SHARE)
    assert ((low < mean) & (mean < high)).all()
    assert (high - mean > 1.96 * errors.std(axis=0) / np.sqrt(200)).mean() > 0.9


def test_gains_are_told_over_main_rivals_first_then_over_all_other_routed_methods() -> None:
    names = [*NAMES, "static_w8a8", "confidence_w8a8", "eero", "small_static", "quee_plan_exits_only_w8a8"]
    assert rivals(names) == [
        "static_hull", "confidence_hull", "random_routing", "eero", "small_static", "quee_plan_exits_only_w8a8",
    ]  # fmt: skip


def test_intervals_at_operating_points_hold_what_validation_saw(found) -> None:
    for row in operating_rows(found, DRAWS):
        assert row["cost_low"] <= row["validation_cost"] <= row["cost_high"]
        assert row["accuracy_low"] <= row["validation_accuracy"] <= row["accuracy_high"]
        assert row["low"] <= row["test_accuracy"] <= row["high"]


def test_validation_intervals_cover_the_mean_on_new_data_nearly_as_often_as_they_say() -> None:
    covered, yardstick = [], Yardstick(np.array([1.0]), YARDSTICK.band, FLOOR, 0.9)
    for seed in range(120):
        own = {"quee_plan": [measure(sweep("quee_plan", seed + 100), yardstick)]}
        (row,) = operating_rows(own, DRAWS)
        covered.append(
            (row["accuracy_low"] <= 1 - 0.3 * 0.4 <= row["accuracy_high"], row["cost_low"] <= 0.9 <= row["cost_high"])
        )
    assert (np.mean(covered, axis=0) > 0.88).all()


def test_curves_list_points_of_both_splits_by_rising_validation_cost(found) -> None:
    assert {row["seed"] for row in curve_rows(found) if row["method"] == "quee_plan"} == {0, 1, 2}
    rows = [row for row in curve_rows(found) if row["method"] == "quee_plan" and row["seed"] == 0]
    assert [row["split"] for row in rows] == ["validation"] * 3 + ["test"] * 3
    assert [row["lambda"] for row in rows[:3]] == [1.0, 0.1, 0.0]
    assert [row["cost"] for row in rows[:3]] == sorted(row["cost"] for row in rows[:3])


def test_bands_are_drawn_only_where_a_method_can_be(found) -> None:
    rows = band_rows(found, YARDSTICK, DRAWS)
    assert min(row["cost"] for row in rows) > 0.09
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)


def test_a_paired_interval_of_a_constant_is_that_constant() -> None:
    (row,) = paired(np.full((1, 4, 1), 0.5), Draws.of(4, 1, 10, 0))
    assert all(value == pytest.approx(0.5, abs=1e-6) for value in row.values())


@pytest.mark.parametrize("rate", [0.0, 0.002, 0.01, 0.99, 1.0])
def test_intervals_and_bands_end_where_accuracies_do(rate: float) -> None:
    """Near 0 and 100 %, a symmetric band, widened over seeds, would leave the range."""
    found = {
        name: [measure(sweep(name, 7 * i + seed, rate), YARDSTICK) for seed in range(3)] for i, name in enumerate(NAMES)
    }
    rows = [*budget_rows(found, YARDSTICK, DRAWS), *band_rows(found, YARDSTICK, DRAWS)]
    assert all(0 <= row[key] <= 1 for row in rows for key in row if key.endswith(("low", "high", "accuracy")))
    assert list(impossible(compare(found, YARDSTICK, DRAWS))) == []
    repeated = [{"method": name, "auc": value} for name in NAMES for value in (1.0, 0.97, 1.0)]
    assert max(row["high"] for name, row in resplit_summary(repeated).items() if name.startswith("auc.")) <= 1


def test_without_a_float_network_no_cost_near_it_is_told() -> None:
    own = Yardstick(YARDSTICK.budgets, YARDSTICK.band, FLOOR, None)
    found = {name: [measure(sweep(name), own)] for name in NAMES}
    methods = compare(found, own, Draws.of(400, 1, 100, 0))["methods"]
    assert {row[f"cost_at_drop_{drop}"] for row in methods.values() for drop in (0.5, 1.0)} == {None}


def test_a_single_resplit_has_no_width() -> None:
    found = resplit_summary([{"method": name, "auc": 0.5 + i / 10} for i, name in enumerate(NAMES)])
    assert found["gain.quee_plan.static_hull"] == pytest.approx({"high": 0.3, "low": 0.3, "mean": 0.3})
