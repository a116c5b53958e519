"""Weights that record the samples they were fitted on, and the check of overlap by them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.data.fitted import Fitted, as_runs, from_runs, refuse_held_out
from quee.errors import UsageError

FILES = {"train-00000-of-00001.parquet": "d1"}
SEEN = Fitted("digits", FILES, np.array([0, 1, 2, 7]))


@given(st.sets(st.integers(0, 300)))
def test_ids_are_written_as_runs_and_read_again(ids: set[int]) -> None:
    assert from_runs(as_runs(sorted(ids))).tolist() == sorted(ids)


def test_runs_by_hand() -> None:
    assert as_runs([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert as_runs([]) == "" and from_runs("").tolist() == []
    for wrong in ("3-1,2", "1,1", "2,x", "1-2-3"):
        with pytest.raises(ValueError, match="do not rise|invalid literal"):
            from_runs(wrong)


def test_what_was_fitted_on_survives_storage() -> None:
    again = Fitted.read(SEEN.text())
    assert again.dataset == "digits" and again.files == FILES and again.ids.tolist() == [0, 1, 2, 7]


def test_held_out_samples_that_weights_have_seen_are_refused_by_number_and_split() -> None:
    SEEN.refuse_other_files("mine", FILES)
    refuse_held_out("mine", SEEN.ids, {"test": np.array([3, 4]), "validation": np.array([5])})
    with pytest.raises(UsageError, match=r"'mine' was fitted on samples that are held out here \(2 of 3 in test\)"):
        refuse_held_out("mine", SEEN.ids, {"test": np.array([1, 2, 3]), "validation": np.array([5])})


def test_ids_of_other_files_tell_nothing() -> None:
    with pytest.raises(UsageError, match="samples of other files of digits"):
        SEEN.refuse_other_files("mine", {"train-00000-of-00001.parquet": "other"})
