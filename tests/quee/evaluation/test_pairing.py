"""Two results on the images that both were tested on: which images, what changed, and by how much with what interval."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.evaluation.pairing import Outcome, Pairing, outcome_of
from quee.evaluation.resplits import fit_policies
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting

BUDGETS = [0.1, 0.5]


@pytest.fixture(scope="module")
def pair() -> tuple[Outcome, Outcome]:
    cache, experiment = small_cache(), small_experiment(epochs=2)
    _, policies = fit_policies(cache, experiment, 0)
    setting = replace(Setting.of(cache, ("validation", "test"), experiment.policies, 20), policies=policies)
    found = [outcome_of(setting, METHODS[name], 0.3, BUDGETS) for name in ("confidence_hull", "plan")]
    assert found[0] is not None and found[1] is not None
    return found[0], found[1]


def paired(first: Outcome, second: Outcome) -> Pairing:
    found = Pairing.of(first, second)
    assert found is not None
    return found


def test_a_result_does_not_differ_from_itself(pair: tuple[Outcome, Outcome]) -> None:
    found = paired(pair[0], pair[0])
    assert len(found) == len(pair[0].taken)
    assert all(row["mean"] == row["low"] == row["high"] == 0 for row in found.differences())
    assert not found.moved().any() and not any(len(rows) for rows in found.kinds().values())


def test_differences_are_of_the_second_less_the_first_and_change_their_sign_with_the_order(
    pair: tuple[Outcome, Outcome],
) -> None:
    first, second = pair
    ours, theirs = paired(first, second).differences(), paired(second, first).differences()
    assert len(ours) == 1 + len(BUDGETS)
    assert ours[0]["mean"] == pytest.approx(first.overall.mean() - second.overall.mean())
    assert [row["mean"] for row in ours[1:]] == pytest.approx(
        list(first.at_budgets.mean(axis=0) - second.at_budgets.mean(axis=0))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["low"] <= one["mean"] <= one["high"]
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))


def test_of_two_test_sets_only_the_shared_images_are_compared_whatever_their_place(
    pair: tuple[Outcome, Outcome],
) -> None:
    first, second = pair
    count = len(first.taken)
    found = paired(first.of(np.arange(count - 10)), second.of(np.arange(5, count)))
    assert np.array_equal(found.first.taken.sample, first.taken.sample[5 : count - 10])
    assert np.array_equal(found.first.taken.sample, found.second.taken.sample)
    whole = paired(first, second)
    assert np.array_equal(found.moved(), whole.moved()[5 : count - 10])


def test_results_without_an_image_in_common_or_with_other_labels_are_no_pair(pair: tuple[Outcome, Outcome]) -> None:
    first, second = pair
    assert Pairing.of(first.of(np.arange(5)), second.of(np.arange(5, 9))) is None
    other = replace(second, taken=replace(second.taken, label=second.taken.label + 1))
    assert Pairing.of(first, other) is None


def test_classes_and_kinds_account_for_every_image(pair: tuple[Outcome, Outcome]) -> None:
    found = paired(*pair)
    classes, kinds = found.by_class(), found.kinds()
    assert sum(row.images for row in classes) == len(found)
    for place, own in enumerate(pair):
        assert sum(row.right[place] for row in classes) == own.taken.right.sum()
    assert all(row.right[1] - row.right[0] == row.gained - row.lost for row in classes)
    rows = np.concatenate(list(kinds.values()))
    assert len(np.unique(rows)) == len(rows) == found.moved().sum() > 0
    change = found.second.taken.cost - found.first.taken.cost
    assert (change[kinds["cheaper"]] < 0).all() and (change[kinds["dearer"]] >= 0).all()
    assert (np.diff(np.abs(change[kinds["dearer"]]).round(9)) <= 0).all(), "the largest change first"
    assert found.second.taken.right[kinds["became right"]].all()
    assert found.first.taken.right[kinds["became wrong"]].all()
