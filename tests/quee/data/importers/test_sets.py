"""Names of sets: any usual word in any case, and no word that only resembles one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.data.importers.sets import ROLES, choose_evaluation, preferred_roles, resembles, role
from quee.errors import UsageError


@given(
    st.sampled_from([(its, word) for its, words in ROLES.items() for word in words]),
    st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from(["{}", "{}_set", "{}-images", "{}2017", "1_{}", "{}set", "data_{}", "{} data", "{}_1"]),
)
def test_a_set_is_known_by_any_usual_name_and_case(named, case, form):
    its, word = named
    assert role(case(form.format(word))) == its


@pytest.mark.parametrize("name", ["TrainSet", "trainingData", "TestImages", "ValidationSet", "Hold-out", "held_out"])
def test_words_are_parted_where_the_case_changes(name):
    assert role(name) is not None


@pytest.mark.parametrize(
    "name",
    ["cat", "", "trainer", "train_val", "contest", "valley", "device", "steam train", "test tube", "2017", "evaluator"],
)
def test_other_names_are_no_sets(name):
    assert role(name) is None


def test_a_word_among_others_resembles_a_set():
    assert [resembles(name) for name in ("seg_train", "seg_test", "fold1-val", "cat", "train_test")] == [
        "train", "test", "validation", None, None,
    ]  # fmt: skip


def choose(candidates, wanted=None, preferred=("test", "validation"), unusable=None):
    return choose_evaluation(candidates, unusable or {}, wanted, preferred, "files")


def test_the_evaluation_set_is_the_one_wanted_or_preferred():
    candidates = {"valid": "validation", "test": "test", "extra": None}
    assert choose(candidates) == "test"
    assert choose(candidates, preferred=("validation",)) == "valid"
    assert choose(candidates, "valid/") == "valid"
    assert choose(candidates, "extra") == "extra"
    assert choose({"extra": None}) is None
    assert choose({"dev": "validation"}, preferred=("test",)) == "dev"
    assert choose({}) is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ({"val": "validation", "dev": "validation"},),
            "which is the evaluation set. valid for --evaluation: val, dev",
        ),
        (({"test": "test"}, "tets"), "--evaluation 'tets': no such set in files; valid for --evaluation: test"),
        (({}, "test"), "there is no other set"),
        (({"val": "validation"}, "test", (), {"test": "no labels"}), "--evaluation test: no labels; valid .*: val"),
    ],
)
def test_a_choice_that_would_be_a_guess_is_refused(arguments, reason):
    with pytest.raises(UsageError, match=reason):
        choose(*arguments)


def test_preferred_roles_are_those_of_the_files_beginnings():
    assert preferred_roles(("validation", "test")) == ["validation", "test"]
    assert preferred_roles(("test", "validation", "valid")) == ["test", "validation"]
