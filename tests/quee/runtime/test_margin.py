"""Allowed differences of engines: larger for coarser numbers, and only as many paths as chance explains."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.precision import Precision
from quee.runtime.margin import MARGINS, allowed_flips, margin_of, margin_of_paths


@given(st.integers(1, 400), st.sampled_from([0.99, 0.995, 0.999]), st.sampled_from([1e-2, 1e-4]))
def test_an_engine_that_keeps_the_share_is_refused_by_chance_alone(paths: int, share: float, doubt: float) -> None:
    def beyond(flips: int) -> float:
        return 1 - sum(comb(paths, k) * (1 - share) ** k * share ** (paths - k) for k in range(flips + 1))

    allowed = allowed_flips(paths, share, doubt)
    assert beyond(allowed) <= doubt * (1 + 1e-6) + 1e-12
    assert allowed == 0 or beyond(allowed - 1) > doubt * (1 - 1e-6)


@pytest.mark.parametrize("name", ["w2a3", "w4a4", "w7a8", "w8a7"])
def test_fewer_bits_have_a_margin_of_their_own(name: str) -> None:
    assert margin_of(Precision(name)) is MARGINS["fewer bits"]


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "w8a8"])
def test_other_formats_have_theirs(name: str) -> None:
    assert margin_of(Precision(name)) is MARGINS[name]


def test_a_share_of_one_allows_nothing() -> None:
    assert allowed_flips(128, 1.0) == 0 < allowed_flips(128, 1 - MARGINS["fewer bits"].wide) < allowed_flips(128, 0.995)


def test_paths_have_the_widest_margin_of_their_precisions() -> None:
    found = margin_of_paths([Precision("w8a8"), Precision("w4a4"), Precision("bf16")])
    assert found.paths == 0.995 and found.tie == 0.03 and found.wide == 0.002 and found.seen == MARGINS["bf16"].seen
    assert margin_of_paths([Precision("w8a8")]) == MARGINS["w8a8"]
