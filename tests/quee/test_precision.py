"""Names, widths and order of precisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import UsageError
from quee.precision import Precision

names = st.one_of(
    st.sampled_from(["fp32", "bf16", "fp16"]),
    st.builds("w{}a{}".format, st.integers(2, 8), st.integers(3, 8)),
)


@given(names)
def test_a_name_is_kept_and_decides_equality(name: str) -> None:
    precision = Precision(name)
    assert str(precision) == name
    assert precision == Precision(precision)
    assert hash(precision) == hash(Precision(name))


def test_widths() -> None:
    assert (Precision("w2a8").weight_bits, Precision("w2a8").activation_bits) == (2, 8)
    assert (Precision("bf16").weight_bits, Precision("fp32").activation_bits) == (16, 32)
    assert Precision("fp16").is_float
    assert not Precision("w8a8").is_float


def test_the_head_runs_at_w8a8_or_the_same_float() -> None:
    assert [str(Precision(n).head) for n in ("w2a3", "w8a8", "bf16", "fp32")] == ["w8a8", "w8a8", "bf16", "fp32"]


def test_order_follows_cost() -> None:
    rising = ["w2a3", "w3a3", "w4a4", "w4a8", "w8a8", "bf16", "fp32"]
    assert [str(p) for p in sorted(map(Precision, reversed(rising)))] == rising


@given(names, names)
def test_order_is_total(a: str, b: str) -> None:
    first, second = Precision(a), Precision(b)
    assert (first < second) + (second < first) + (first == second) == 1


BAD = ["w1a8", "w9a8", "w8a2", "w8a9", "w8", "W8A8", "w8a8 ", "int8", "", "fp64", "w-4a4", "w4a4-w8a8", "w٣a3"]


@pytest.mark.parametrize("name", BAD)
def test_other_names_are_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        Precision(name)
    assert repr(name) in str(raised.value)
    assert "fp32, bf16, fp16, or wXaY" in str(raised.value)
