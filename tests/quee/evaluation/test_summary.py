import numpy as np
import pytest

from quee.evaluation.curves import Floor, budget_grid
from quee.evaluation.summary import band_rows, compare, curve_rows, operating_rows, paired, resplit_summary
from quee.evaluation.sweep import Sweep
from quee.experiment import Evaluate

SETTINGS = Evaluate(budgets=(0.1, 0.3, 1.0), bootstrap=200)
NAMES = ("static_hull", "confidence_hull", "random_routing", "quee_plan", "quee_fitted_q", "oracle")
FLOOR = Floor({split: np.ones(400) for split in ("validation", "test")})


def sweep(name: str, seed: int = 0, rate: float = 0.3) -> Sweep:
    random = np.random.default_rng(seed)
    errors = {s: (random.random((400, 3)) < rate * np.array([1, 0.7, 0.4])).astype(float) for s in FLOOR.errors}
    costs = {s: np.array([0.1, 0.4, 0.9]) * random.uniform(0.8, 1.2, (400, 1)) for s in FLOOR.errors}
    return Sweep(name, "lambda", np.array([1.0, 0.1, 0.0]), errors, costs)


@pytest.fixture(scope="module")
def sweeps() -> list[Sweep]:
    return [sweep(name, seed, 0.3 - 0.04 * seed) for seed, name in enumerate(NAMES)]


def test_every_method_is_measured_and_the_reference_differs_from_itself_by_nothing(sweeps) -> None:
    found = compare(sweeps, SETTINGS, FLOOR, budget_grid(0.1, 0.9))
    assert list(found["methods"]) == list(NAMES)
    assert all(
        row == {"high": 0, "low": 0, "mean": 0} for row in found["difference_vs_static_hull"]["static_hull"].values()
    )
    assert found["oracle_gap_closed"]["oracle"] == 1
    assert found["oracle_gap_closed"]["static_hull"] == 0
    assert found["gains"]["gain.quee_plan.static_hull"]["mean"] == pytest.approx(
        found["methods"]["quee_plan"]["auc"] - found["methods"]["static_hull"]["auc"]
    )


def test_intervals_at_operating_points_hold_what_validation_saw(sweeps) -> None:
    for row in operating_rows(sweeps, SETTINGS):
        assert row["cost_low"] <= row["validation_cost"] <= row["cost_high"]
        assert row["accuracy_low"] <= row["validation_accuracy"] <= row["accuracy_high"]
        assert row["low"] <= row["test_accuracy"] <= row["high"]


def test_validation_intervals_cover_the_mean_on_new_data_nearly_as_often_as_they_say() -> None:
    covered = []
    for seed in range(120):
        row = operating_rows([sweep("quee_plan", seed + 100)], Evaluate(budgets=(1.0,), bootstrap=200))[0]
        covered.append(
            (row["accuracy_low"] <= 1 - 0.3 * 0.4 <= row["accuracy_high"], row["cost_low"] <= 0.9 <= row["cost_high"])
        )
    assert (np.mean(covered, axis=0) > 0.88).all()


def test_curves_list_points_of_both_splits_by_rising_validation_cost(sweeps) -> None:
    rows = [row for row in curve_rows(sweeps) if row["method"] == "quee_plan"]
    assert [row["split"] for row in rows] == ["validation"] * 3 + ["test"] * 3
    assert [row["lambda"] for row in rows[:3]] == [1.0, 0.1, 0.0]
    assert [row["cost"] for row in rows[:3]] == sorted(row["cost"] for row in rows[:3])


def test_bands_are_drawn_only_where_a_method_can_be(sweeps) -> None:
    rows = band_rows(sweeps, SETTINGS, FLOOR, budget_grid(0.01, 0.9))
    assert min(row["cost"] for row in rows) > 0.09
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)


def test_a_paired_interval_of_a_constant_is_that_constant() -> None:
    weights = np.full((10, 4), 0.25)
    assert paired(np.full((4, 1), 0.5), weights) == [{"high": 0.5, "low": 0.5, "mean": 0.5}]


def test_a_single_resplit_has_no_width() -> None:
    found = resplit_summary([{"method": name, "auc": 0.5 + i / 10} for i, name in enumerate(NAMES)])
    assert found["gain.quee_plan.static_hull"] == pytest.approx({"high": 0.3, "low": 0.3, "mean": 0.3})
