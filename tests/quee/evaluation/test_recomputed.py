"""`auc` of results of format 1, computed anew."""

from typing import Any

import numpy as np
import pytest

from quee.evaluation.curves import Floor, errors_at
from quee.evaluation.draws import Draws
from quee.evaluation.formats import EARLIER, FORMAT
from quee.evaluation.measured import Yardstick, measure
from quee.evaluation.recomputed import recomputed
from quee.evaluation.summary import compare
from quee.evaluation.tables import curve_rows
from quee.policies.sweep import Sweep

NAMES = ("static_hull", "quee_plan", "quee_fitted_q", "oracle")
FLOOR = Floor({split: np.ones(200) for split in ("validation", "test")})
DRAWS = Draws.of(200, 3, 20, 0)
STATIC = np.array([0.05, 0.3, 0.7])
OTHER = Floor({split: errors * 0.8 for split, errors in FLOOR.errors.items()})


def sweep(name: str, seed: int) -> Sweep:
    random = np.random.default_rng(seed)
    errors = {split: (random.random((200, 3)) < [0.3, 0.2, 0.1]).astype(float) for split in FLOOR.errors}
    costs = {split: np.array([0.1, 0.4, 0.9]) * random.uniform(0.8, 1.2, (200, 1)) for split in FLOOR.errors}
    return Sweep(name, "lambda", np.array([1.0, 0.1, 0.0]), errors, costs)


def results(floor: Floor) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Metrics as they are now, the same in format 1, and the rows of the curve."""
    yardstick = Yardstick(np.array([0.1, 0.3]), np.geomspace(0.05, 0.7, 40), floor, 0.9)
    sweeps = {n: [sweep(n, 10 * i + s) for s in range(1 + 2 * n.startswith("quee"))] for i, n in enumerate(NAMES)}
    found = {name: [measure(own, yardstick) for own in by_seed] for name, by_seed in sweeps.items()}
    now = {**compare(found, yardstick, DRAWS), "floor_accuracy": float(1 - floor.errors["test"].mean())}
    before = {key: value for key, value in now.items() if key != "floor_accuracy"}
    own = np.geomspace(STATIC.min(), STATIC.max(), 200)  # the budgets of format 1
    before["methods"] = {
        name: {
            **now["methods"][name],
            "auc": 0.1,
            "auc_by_seed": [1 - errors_at(s, own, floor).mean() for s in by_seed],
        }
        for name, by_seed in sweeps.items()
    }
    return {**now, "format": FORMAT}, {**before, "first_step_auc": {"rollout": 0.5}}, curve_rows(found)


@pytest.mark.parametrize("floor", [FLOOR, OTHER], ids=["never right", "sometimes right"])
def test_auc_computed_anew_from_the_curve_is_the_one_that_is_measured_today(floor: Floor) -> None:
    now, before, rows = results(floor)
    again = recomputed(before, rows, STATIC)
    assert again["floor_accuracy"] == pytest.approx(now["floor_accuracy"], abs=1e-9)
    for name, method in now["methods"].items():
        assert again["methods"][name]["auc"] == pytest.approx(method["auc"], abs=1e-9)
        assert again["methods"][name]["auc_by_seed"] == pytest.approx(method["auc_by_seed"], abs=1e-9)
    assert again["oracle_gap_closed"] == pytest.approx(now["oracle_gap_closed"])
    assert again[EARLIER] == {"gains": before["gains"]} and "gains" not in again
    assert recomputed(now, rows, STATIC) == now
