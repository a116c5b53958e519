"""The number format of products is the cheapest that is not clearly worse, by an exact interval."""

import numpy as np
import pytest
from scipy.stats import binom

from quee.quantization.format_choice import LIMIT, changed_share, chosen


def answers_that_differ(changed: dict[str, int], count: int) -> dict[str, np.ndarray]:
    right = np.arange(count) % 10
    return {
        "fp32": right,
        **{name: np.where(np.arange(count) < many, right + 1, right) for name, many in changed.items()},
    }


def test_the_cheapest_format_that_is_not_clearly_worse_is_chosen() -> None:
    def choice(int8: int, bf16: int, count: int = 2000) -> str:
        return chosen(answers_that_differ({"int8": int8, "bf16": bf16}, count))[0]

    assert choice(0, 0) == choice(4, 0) == "int8"
    assert choice(20, 1) == choice(20, 0) == "bf16"
    assert choice(2000, 100) == "fp32"
    _, rows = chosen(answers_that_differ({"int8": 20, "bf16": 1}, 2000))
    assert [(row["format"], row["samples"], row["changed"]) for row in rows] == [("int8", 2000, 20), ("bf16", 2000, 1)]
    assert rows[0]["low"] > LIMIT >= rows[1]["low"]


@pytest.mark.parametrize(("changed", "samples"), [(0, 50), (3, 2000), (20, 2000), (50, 50)])
def test_the_interval_is_the_exact_binomial_one(changed: int, samples: int) -> None:
    low, high = changed_share(changed, samples)
    assert low <= changed / samples <= high
    if changed:
        assert binom.sf(changed - 1, samples, low) == pytest.approx(0.025)
    if changed < samples:
        assert binom.cdf(changed, samples, high) == pytest.approx(0.025)
