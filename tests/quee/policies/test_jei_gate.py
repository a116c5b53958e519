import numpy as np

from quee.policies.jei_gate import fit_logistic


def test_logistic_regressions_side_by_side_find_what_made_the_targets() -> None:
    random = np.random.default_rng(0)
    x, w = random.normal(size=(20000, 2)), np.array([[0.5, -1.0], [1.0, 2.0], [-0.5, 0.0]])
    y = (random.random((20000, 2)) < 1 / (1 + np.exp(-(w[0] + x @ w[1:])))).astype(float)
    assert np.allclose(fit_logistic(x, y), w, atol=0.1)


def test_a_gate_whose_targets_are_all_equal_says_so() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    w = fit_logistic(x, np.stack([np.ones(50), np.zeros(50)], axis=1))
    said = w[0] + x @ w[1:]
    assert (said[:, 0] > 0).all()
    assert (said[:, 1] < 0).all()
