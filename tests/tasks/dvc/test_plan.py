"""The line that says why a stage is not up to date."""

import pytest

from tasks.dvc.plan import Step

ANEW = ["artifacts/x/targets: made anew by targets@x", "artifacts/x/policies: made anew by policies@x"]


@pytest.mark.parametrize(
    ("reasons", "why"),
    [
        ([], ""),
        (["forced"], "forced"),
        (["evaluate.resplits: 20 → 3", *ANEW], "evaluate.resplits: 20 → 3; new results of targets, policies"),
        (ANEW, "new results of targets, policies"),
        (["a: modified", "b: modified", "c: modified"], "a: modified; b: modified; c: modified"),
        (["a: modified", "b: modified", "c: modified", "d: modified"], "a: modified; b: modified; 2 more"),
    ],
    ids=["none", "forced", "both", "earlier stages", "three", "many"],
)
def test_the_stages_own_reasons_come_first_and_earlier_stages_by_their_names(reasons: list[str], why: str) -> None:
    assert Step("x", "evaluate", "run", reasons).why == why
