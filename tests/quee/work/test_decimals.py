"""A decimal comma is told how the number is written here; nothing else is."""

import pytest

from quee.work.decimals import comma_hint


@pytest.mark.parametrize(
    ("given", "written"), [("0,2", "0.2"), (" 1,5 ", "1.5"), (",5", "0.5"), ("-0,25", "-0.25"), ("12,50", "12.50")]
)
def test_a_decimal_comma_is_written_with_a_point(given: str, written: str) -> None:
    assert comma_hint(given) == f"; write the number with a point: {written}"


@pytest.mark.parametrize("given", ["0.2", "", ",", "1,", "1,000,000", "a,5", "0,2 0,3", 0.2, None, True, [0, 2]])
def test_anything_else_gets_no_hint(given: object) -> None:
    assert comma_hint(given) == ""
