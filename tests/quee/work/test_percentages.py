"""Impossible numbers are not shown, and every number of a result is compared with its valid range."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.evaluation.curves import gap_closed
from quee.work.percentages import DASH, GAP, figure, impossible, percent, range_of, ratio

ROOT = Path(__file__).parents[3]
ACCURACY = st.floats(0, 1)


@given(ACCURACY, ACCURACY, st.floats(-1e-4, 9e-5))
def test_no_gap_no_share_of_it(auc: float, static: float, gap: float) -> None:
    assert gap_closed(auc, static, static + gap) is None


@given(ACCURACY, ACCURACY, ACCURACY)
def test_a_share_of_the_gap_is_at_most_all_of_it_and_of_a_sensible_size(
    auc: float, static: float, oracle: float
) -> None:
    found = gap_closed(auc, static, oracle)
    assert found is None or -1e4 <= found <= 1
    if oracle - static > 1e-4 and auc <= oracle:
        assert found == pytest.approx((auc - static) / (oracle - static))


def test_an_easy_data_set_closes_no_gap() -> None:
    assert gap_closed(1 - 4.54e-7, 1.0, 1.0) is None
    assert gap_closed(0.95, 0.9, 1.0) == pytest.approx(0.5)
    assert gap_closed(1.01, 0.9, 1.0) is None


@pytest.mark.parametrize("denominator", [0.0, -0.0, -1.0, float("nan"), 1e-320])
def test_a_ratio_whose_denominator_vanishes_is_none(denominator: float) -> None:
    assert ratio(1.0, denominator) is None
    assert ratio(3.0, 2.0) == 1.5


@given(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)))
def test_a_percentage_is_shown_where_it_can_lie_and_else_a_dash(share: float | None) -> None:
    text = percent(share)
    if share is not None and math.isfinite(share) and -1e-9 <= share <= 1 + 1e-9:
        assert float(text.removesuffix(" %").replace("−", "-")) == pytest.approx(100 * share, abs=0.06)
    else:
        assert text == DASH


def test_gains_have_a_sign_and_their_own_range() -> None:
    assert figure(0.0123, 2, -1.0, 1.0, sign=True) == "+1.23"
    assert figure(-0.5, 1, -1.0, 1.0, sign=True) == "-50.0"
    assert figure(-1.5, 1, -1.0, 1.0, sign=True) == DASH
    assert percent(-2.5, 1, *GAP) == "−250.0 %"
    assert percent(-454062.3, 1, *GAP) == DASH


BAD = {
    "methods.quee_plan.auc": 1.2,
    "methods.quee_plan.accuracy_at_budget.0.1": -0.1,
    "methods.quee_plan.cost_at_budget.0.1": -0.1,
    "methods.quee_plan.cost_at_drop_0.5": -1.0,
    "methods.quee_plan.auc_by_seed": 1.5,
    "oracle_gap_closed.quee_plan": 1.5,
    "differences.quee_plan.static_hull.0.1.low": -1.5,
    "difference_vs_static_hull.quee_plan.0.1.mean": 1.5,
    "gains.gain.quee_plan.static_hull.mean": 1.5,
    "resplits.auc.quee_plan.high": 1.1,
    "resplits.gain.quee_plan.static_hull.high": 1.1,
    "fp32_accuracy": 97.2,
    "budgets.high": 1.01,
    "budgets.test_accuracy": 1.01,
    "bands.low": -0.01,
    "quality_rank_correlation": -1.1,
    "cost_at_drop.quee_plan.0.5.low": -0.1,
    "gates.1.auroc": 1.1,
    "anything": math.inf,
}


@pytest.mark.parametrize("name", BAD)
def test_a_number_where_it_cannot_lie_is_named(name: str) -> None:
    (fault,) = impossible({name: BAD[name]})
    assert fault.startswith(f"{name} = ")


def test_what_can_be_is_let_through() -> None:
    fine = {
        "oracle_gap_closed": {"static_w3a3": -25.0, "easy": None},
        "differences": {"a": [{"low": -0.3}]},
        "certification": {"methods": {"p": {"accuracy_loss": {"0.01": {"learn_then_test": {"lambda": 50.0}}}}}},
        "budget_met": True, "seeds": 3, "polynomial": {"gate_1": [-0.1, 3.0]},
    }  # fmt: skip
    assert list(impossible(fine)) == []
    assert range_of("methods.x.cost_at_budget.0.1") == (0.0, math.inf)


def shares_shown(page: str) -> list[float]:
    """Every percentage that a page's text shows, figures and styles apart."""
    text = re.sub(r"<(style|script|svg)\b.*?</\1>", "", page, flags=re.DOTALL)
    return [float(found.replace("−", "-")) for found in re.findall(r"([−-]?[\d.]+) %", text)]


@pytest.mark.skipif(
    not (ROOT / "artifacts/digits/report/report.html").is_file(), reason="digits were not computed here"
)
def test_every_number_of_digits_lies_where_it_can() -> None:
    folder = ROOT / "artifacts" / "digits"
    for file in sorted(folder.glob("*/metrics.json")):
        assert list(impossible(json.loads(file.read_text()))) == [], file
    shown = np.array(shares_shown((folder / "report" / "report.html").read_text()))
    assert len(shown) > 100
    assert shown.max() <= 100
