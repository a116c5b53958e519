import numpy as np

from quee.policies.patience import exits_by_agreement


def test_patience_counts_agreements_in_a_row() -> None:
    prediction = np.array([[1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 1, 2], [3, 3, 1, 1]])
    assert exits_by_agreement(prediction, 1).tolist() == [1, 2, 3, 1]
    assert exits_by_agreement(prediction, 2).tolist() == [2, 3, 3, 3]
    assert exits_by_agreement(prediction, 9).tolist() == [3, 3, 3, 3]
