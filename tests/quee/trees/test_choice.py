"""The set of precisions with the best curve is chosen, without gaining from chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.trees.choice import LOWEST, Exits, Sets, choose, difference, prefer_by_layer

SAMPLES = 400


def exits(right: list[float], cost: list[float], seed: int, samples: int = SAMPLES) -> Exits:
    """A candidate that is right with such probabilities at its gates, and sure without knowing when it is right."""
    random = np.random.default_rng(seed)
    wrong = random.random((samples, len(right))) >= np.array(right)
    return Exits(random.random((samples, len(right))), wrong, np.array(cost))


def floor(samples: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(99).random(samples) < 0.9


def test_a_cheap_an_accurate_and_a_middle_candidate_are_chosen_and_a_dominated_one_is_not() -> None:
    given_ = {
        "cheap": exits([0.5, 0.6], [0.02, 0.05], 1),
        "middle": exits([0.5, 0.8], [0.08, 0.15], 2),
        "dear": exits([0.5, 0.99], [0.3, 0.6], 3),
        "dominated": exits([0.4, 0.7], [0.5, 0.9], 4),
    }
    best, record = choose(Sets(given_, floor(), 0), list(given_), 3)
    assert best == ("cheap", "middle", "dear")
    assert record["sets"][2]["members"] == ["cheap", "middle", "dear"]
    assert [len(row["members"]) for row in record["sets"][:3]] == [1, 2, 3]
    assert record["tried"] == 4 + 6 + 4 and record["over_next"]["mean"] > 0
    assert record["sets"][2]["auc"] == max(row["auc"] for row in record["sets"])


def test_one_member_comes_within_half_a_point_of_the_dearest_though_the_area_prefers_cheap_ones() -> None:
    samples = 4000
    sure = np.linspace(0, 1, samples)  # the same images are hard for all, so that losses are known well

    def precise(last: float, cost: float) -> Exits:
        wrong = np.column_stack([sure >= 0.5, sure >= last])
        return Exits(1 - np.column_stack([sure, sure]), wrong, np.array([0.6, 1.0]) * cost)

    given_ = {"tiny": precise(0.7, 0.035), "small": precise(0.84, 0.06), "half": precise(0.893, 0.09),
              "near": precise(0.898, 0.6), "whole": precise(0.9, 1.0)}  # fmt: skip
    sets = Sets(given_, floor(samples), 0)
    assert sets.reaching(list(given_)) == ["near", "whole"]
    best, record = choose(sets, list(given_), 3)
    assert set(best) & {"near", "whole"} and record["reach"]["members"] == ["near", "whole"]
    assert not set(record["without_reach"]["members"]) & {"near", "whole"}
    assert record["without_reach"]["auc"] > record["sets"][2]["auc"] and record["without_reach"]["gain"]["mean"] > 0
    alone, record = choose(sets, list(given_), 1)
    assert alone == ("half",) and "without_reach" not in record, "a single precision has the largest area"


def test_the_estimate_of_one_exit_is_its_accuracy_mixed_with_the_floor() -> None:
    one = Exits(np.ones((SAMPLES, 1)), np.random.default_rng(0).random((SAMPLES, 1)) < 0.2, np.array([0.25]))
    own = Sets({"one": one}, floor(), 0)
    budgets = np.geomspace(LOWEST, 1, 120)
    share = np.minimum(budgets / 0.25, 1).mean()
    expected = share * one.wrong.mean() + (1 - share) * floor().mean()
    assert own.errors(["one"]).mean() == pytest.approx(expected, abs=1e-6)


def test_more_points_do_not_gain_by_chance() -> None:
    """Candidates that differ by chance alone: the hull over all of them would look better on its own samples."""
    alone, together, optimistic = [], [], []
    for seed in range(20):
        alike = {str(k): exits([0.7, 0.7], [0.05, 0.1 + 1e-4 * k], 100 * seed + k, 200) for k in range(12)}
        sets = Sets(alike, floor(200), seed)
        alone.append(np.mean([sets.errors([name]).mean() for name in alike]))
        together.append(sets.errors(list(alike)).mean())
        optimistic.append(min(points.errors.mean(axis=0).min() for points in sets.points.values()))
    assert abs(np.mean(together) - np.mean(alone)) < 0.02
    assert np.mean(optimistic) < np.mean(together) - 0.05


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 3), st.integers(1, 60))
def test_every_choice_is_of_the_asked_size_rises_in_cost_and_is_the_same_again(
    seed: int, most: int, samples: int
) -> None:
    random = np.random.default_rng(seed)
    found = {
        str(k): exits(list(random.random(2)), list(np.sort(random.random(2)) + 0.01), seed + k, samples)
        for k in range(4)
    }
    best, record = choose(Sets(found, floor(samples), seed), list(found), most)
    assert len(best) == most == len(set(best))
    costs = [found[name].cost[-1] for name in best]
    assert costs == sorted(costs)
    assert choose(Sets(found, floor(samples), seed), list(reversed(found)), most) == (best, record)
    assert all(0 <= row["auc"] <= 1 for row in record["sets"])


def test_bits_by_layer_stay_unless_uniform_ones_are_better_beyond_doubt() -> None:
    better, worse = exits([0.9, 0.95], [0.1, 0.2], 1), exits([0.5, 0.5], [0.1, 0.2], 2)
    sets = Sets({"a": better, "b": worse, "c": better}, floor(), 0)
    assert prefer_by_layer(sets, "a", "b")[0] and prefer_by_layer(sets, "a", "c")[0]
    kept, gain = prefer_by_layer(sets, "b", "a")
    assert not kept and gain["high"] < 0


def test_one_sample_tells_nothing() -> None:
    assert difference(np.array([0.0]), np.array([1.0])) == {"high": 2.0, "low": 0.0, "mean": 1.0}
