"""Labels: indices and names are accepted, other values are refused with the reason, and no order is silently guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import UsageError
from quee.fitting.labels import class_indices, column, joined

NAMES = ["cat", "dog", "eel"]


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=9), st.sampled_from([np.uint8, np.int32, np.int64, list, object])
)
def test_whole_numbers_are_indices(values, kind) -> None:
    labels = values if kind is list else np.array(values, dtype=kind)
    indices, names = class_indices(column(labels), None, 3)
    assert indices.dtype == np.int64 and indices.tolist() == values and names == ["0", "1", "2"]
    assert class_indices(column(labels), NAMES, 3)[1] == NAMES


@given(st.permutations(NAMES), st.lists(st.sampled_from(NAMES), max_size=9), st.sampled_from([list, str, object]))
def test_names_are_the_classes_given_or_all_in_sorted_order(classes, more, kind) -> None:
    values = NAMES + more
    labels = values if kind is list else np.array(values, dtype=kind)
    for given_, order in ((classes, list(classes)), (None, NAMES)):
        indices, names = class_indices(column(labels), given_, 3)
        assert names == order and [names[index] for index in indices] == values


REFUSED = {
    "floats": (np.array([0.0, 1.0]), r"float64.*astype\(int\)"),
    "no whole floats": (np.array([0.5, 1.0]), "float64.*not known"),
    "one-hot": (np.eye(3), "one-hot.*argmax"),
    "one-hot, whole": (np.eye(3, dtype=int), "one-hot.*argmax"),
    "probabilities": (np.full((4, 2), 0.5), "argmax"),
    "a column": (np.zeros((4, 1), int), "ravel"),
    "bool": (np.array([True, False]), "bool"),
    "bytes": (np.array([b"a", b"b"]), r"S1.*np.char.decode"),
    "bytes in a list": ([b"a", b"b"], r"np.char.decode"),
    "masked": (np.ma.array([0, 1, 2], mask=[0, 1, 0]), "masked"),
    "a set": ({0, 1}, "a set, no sequence"),
    "a dictionary": ({0: 1}, "a dict, no sequence"),
    "a generator": ((i for i in range(3)), "a generator, no sequence"),
    "mixed": (["cat", 1], "1, of type int"),
    "missing": (np.array(["cat", None], dtype=object), "None, of type NoneType"),
    "NaN among names": (np.array(["cat", np.nan], dtype=object), "nan, of type float"),
    "nothing": (None, "shape"),
    "one": (3, "shape"),
    "empty name": (["cat", ""], "image 1 is empty"),
    "ragged": ([[0], [0, 1]], "labels"),
    "dates": (np.array(["2020-01-01"], dtype="M8[D]"), "M8|datetime"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_no_label_is_refused_with_the_reason(which) -> None:
    labels, reason = REFUSED[which]
    with pytest.raises(UsageError, match=reason):
        column(labels)


@pytest.mark.parametrize(
    ("labels", "classes", "reason"),
    [
        ([0, -1, -1], None, r"label -1 of image 1 \(2 such\): valid 0–2.*not labelled"),
        ([0, 3], None, "label 3 of image 1: valid 0–2, for the backbone has 3 classes"),
        (["cat", "dog"], None, "2 names .*3 outputs; give classes="),
        (["cat", "dog", "eel", "fox"], None, "4 names"),
        (["cat", "cow"], NAMES, "'cow' is none of the classes; valid: 'cat'"),
        (["cat"], ["cat", "dog"], "2 names; the backbone has 3"),
        (["cat"], ["cat", "dog", "cat"], "'cat' is named twice"),
        (["cat"], "cat", "list of names"),
        (["cat"], ["cat", "dog", ""], "list of names"),
        ([0], [1, 2, 3], "list of names"),
    ],
)
def test_what_is_no_class_is_refused(labels, classes, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        class_indices(column(labels), classes, 3)


def test_numbers_as_text_are_taken_where_they_sort_in_one_way() -> None:
    few, many = [str(i) for i in range(10)], [str(i) for i in range(11)]
    assert class_indices(column(few), None, 10)[1] == few
    with pytest.raises(UsageError, match="sort in two ways"):
        class_indices(column(many), None, 11)
    assert class_indices(column(many), many, 11)[0].tolist() == list(range(11))


def test_batches_are_of_one_kind() -> None:
    assert joined([column([1]), column([2])]).values.tolist() == [1, 2]
    with pytest.raises(UsageError, match="names and of others numbers"):
        joined([column([1]), column(["cat"])])


@pytest.mark.parametrize(
    "classes", [set(NAMES), dict.fromkeys(NAMES, 0), iter(NAMES), frozenset(NAMES), "cat", [1, 2, 3]]
)
def test_classes_without_an_order_are_refused(classes) -> None:
    with pytest.raises(UsageError, match="give a list of names, one for each output of the backbone in its order"):
        class_indices(column([0, 1, 2]), classes, 3)


def test_a_masked_array_without_a_mask_is_an_array() -> None:
    assert column(np.ma.array([0, 1, 2])).values.tolist() == [0, 1, 2]
