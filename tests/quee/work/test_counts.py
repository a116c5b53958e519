"""Numbers agree with their nouns."""

import pytest

from quee.work.counts import counted


@pytest.mark.parametrize(
    ("number", "plural", "said"),
    [
        (0, "", "0 images"),
        (1, "", "1 image"),
        (1234, "", "1,234 images"),
        (2, "pictures", "2 pictures"),
        (1, "pictures", "1 image"),
    ],
)
def test_one_is_singular_and_everything_else_plural(number: int, plural: str, said: str) -> None:
    assert counted(number, "image", plural) == said


def test_a_number_that_is_no_count_has_no_needless_digits() -> None:
    assert (counted(0.5, "point"), counted(1.0, "point")) == ("0.5 points", "1 point")
