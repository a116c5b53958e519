import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.policies.eero import exit_shares, share_thresholds


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0.1, 1.2))
def test_exponential_weights_keep_to_the_budget(risk: list[float], budget: float) -> None:
    cost = np.array([0.1, 0.3, 0.6, 1.0])
    shares = exit_shares(np.array(risk), cost, budget, 0.02)
    assert shares.sum() == pytest.approx(1)
    assert shares @ cost <= max(budget, 0.1) + 1e-6


def test_without_a_binding_budget_weight_goes_to_the_least_risk() -> None:
    assert exit_shares(np.array([0.5, 0.1, 0.3]), np.array([0.1, 0.2, 0.3]), 1.0, 0.01).argmax() == 1


def test_thresholds_let_the_shares_leave() -> None:
    score = np.random.default_rng(0).random((1000, 3))
    first, second = share_thresholds(score, np.array([0.3, 0.5, 0.2]))
    leaves = score[:, 0] >= first
    assert leaves.mean() == pytest.approx(0.3)
    assert (~leaves & (score[:, 1] >= second)).mean() == pytest.approx(0.5)
