"""Results of format 1, read in terms of today."""

import pytest

from quee.errors import IntegrityError
from quee.evaluation.formats import FORMAT, comparable

NOW = {
    "behind_best": {"quee_plan": {"0.3": {"low": 0.1}, "auc": {"low": 0.2}}},
    "gains": {"gain.quee_plan.static_hull": {"mean": 0.01}},
    "methods": {"quee_plan": {"accuracy": 0.9, "auc": 0.8, "auc_by_seed": [0.8]}},
    "oracle_gap_closed": {"quee_plan": 0.2},
}


def test_what_depends_on_the_earlier_auc_is_set_beside_nothing() -> None:
    found = comparable({**NOW, "first_step_auc": {"rollout": 0.5}})
    assert found == {
        "behind_best": {"quee_plan": {"0.3": {"low": 0.1}}},
        "methods": {"quee_plan": {"accuracy": 0.9}},
    }
    assert comparable({**NOW, "format": FORMAT}) == {**NOW, "format": FORMAT}


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(IntegrityError, match="has format 3; this version reads 1 and 2"):
        comparable({"format": 3})
