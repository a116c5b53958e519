"""The choice among policies, on errors whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.policies.choosing import by_budget, default_of, errors_of, nested, points_chosen, simplest
from quee.policies.sweep import Sweep, by_price

BUDGETS = np.geomspace(0.05, 0.8, 9)


def noisy(rates: list[float], samples: int, seed: int = 0) -> np.ndarray:
    """Errors (C, S) of 0 and 1 at these rates, of samples that are hard for all candidates alike."""
    hard = np.random.default_rng(seed).random(samples)
    return (hard < np.array(rates)[:, None]).astype(float)


def curve(costs: list[float], errors: list[float]) -> Sweep:
    shape = (10, len(costs))
    by = (
        {"validation": np.broadcast_to(np.array(errors), shape)},
        {"validation": np.broadcast_to(np.array(costs), shape)},
    )
    names = tuple(("plan", "eero")[point % 2] for point in range(len(costs)))
    return Sweep("", "point", np.arange(len(costs)), *by, knobs=np.arange(len(costs), dtype=float), policies=names)


def test_of_equals_the_simplest_is_taken_and_a_better_one_beyond_doubt() -> None:
    assert simplest(noisy([0.2, 0.2, 0.2], 400), None) == 0
    assert simplest(noisy([0.2, 0.2, 0.1], 400), None) == 2
    assert simplest(noisy([0.2, 0.11, 0.1], 2000), None) == 2
    assert simplest(noisy([0.2, 0.1, 0.1], 2000), None) == 1


def test_one_sample_on_which_two_policies_differ_is_no_evidence() -> None:
    errors = noisy([0.2, 0.2], 400)
    errors[0, 0], errors[1, 0] = 1, 0
    assert simplest(errors, None) == 0


def test_samples_of_one_group_count_once() -> None:
    errors = np.repeat(noisy([0.2, 0.14], 60, seed=3), 40, axis=1)
    groups = np.repeat(np.arange(60), 40)
    assert simplest(errors, None, 3.0) == 1
    assert simplest(errors, groups, 3.0) == 0


def at_all_budgets(errors: np.ndarray) -> np.ndarray:
    return np.repeat(errors[:, :, None], len(BUDGETS), axis=2)


def test_another_policy_is_taken_at_the_budgets_where_it_is_better_beyond_doubt() -> None:
    errors = at_all_budgets(noisy([0.2, 0.2], 1000))
    errors[1, :, :3] = noisy([0.1], 1000)[0][:, None]  # better at the three least budgets
    errors[1, :, 3:] = noisy([0.22], 1000)[0][:, None]
    chosen = by_budget(errors, BUDGETS, None)
    assert chosen[:2].tolist() == [1, 1]
    assert (chosen[5:] == 0).all()


def test_below_the_cheapest_point_of_the_default_others_serve() -> None:
    errors = at_all_budgets(noisy([0.1, 0.3], 1000))
    errors[0, :, :4] = np.nan
    assert default_of(errors, None) == 0
    assert by_budget(errors, BUDGETS, None).tolist() == [1] * 4 + [0] * 5


def test_a_choice_among_noise_is_not_judged_by_its_luck() -> None:
    best, judged = [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        errors = np.repeat((random.random((12, 300, 1)) < 0.3).astype(float), len(BUDGETS), axis=2)
        best.append(errors.mean(axis=(1, 2)).min())
        judged.append(nested(errors, BUDGETS, None, random.permutation(300) % 5).mean())
    assert np.mean(best) < 0.27
    assert abs(np.mean(judged) - 0.3) < 0.02


def test_budgets_below_the_cheapest_point_have_no_errors() -> None:
    found = errors_of(curve([0.1, 0.4], [0.3, 0.1]), np.array([0.05, 0.1, 0.25, 0.9]), "validation")
    assert np.isnan(found[:, 0]).all()
    assert found[0, 1:] == pytest.approx([0.3, 0.2, 0.1])


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_points_rise_in_cost_and_are_those_of_the_policy_chosen_near_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    sweeps = [curve(random.uniform(0.04, 0.9, n).tolist(), random.random(n).tolist()) for n in random.integers(1, 9, 3)]
    chosen = random.integers(0, 3, len(BUDGETS))
    found = points_chosen(sweeps, chosen, BUDGETS)
    costs = [float(sweeps[index].costs["validation"][0, point]) for index, point in found]
    assert found
    assert (np.diff(costs) > 0).all()
    nearest = [int(np.abs(np.log(BUDGETS / cost)).argmin()) for cost in costs]
    assert (
        all(chosen[at] == index for at, (index, _) in zip(nearest, found, strict=True))
        or len({index for index, _ in found}) == 1
    )


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_a_point_by_price_is_the_one_that_its_price_prefers(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 9))
    sweep = curve(np.sort(random.uniform(0.04, 0.9, n)).tolist(), random.random(n).tolist())
    cost, error = sweep.costs["validation"][0], sweep.errors["validation"][0]
    priced = by_price(sweep)
    assert priced.kind == "lambda"
    assert (np.diff(priced.values) < 0).all()
    assert priced.policies == tuple(sweep.policies[int(knob)] for knob in priced.knobs)
    for price, own in zip(priced.values, priced.costs["validation"][0], strict=True):
        assert cost[(error + price * cost).argmin()] == own
