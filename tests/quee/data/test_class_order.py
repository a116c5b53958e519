"""Orders of class names."""

from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from quee.data import DATASETS, Dataset
from quee.data.class_order import ORDERS, known_orders, note_on, order_given, ordered, positions, read_classes
from quee.errors import UsageError

NUMBERS = ("1", "10", "2")


def test_the_two_orders_of_numbers() -> None:
    assert ordered(("2", "10", "1"), "text") == NUMBERS
    assert ordered(NUMBERS, "natural") == ("1", "2", "10")
    assert ordered(["b10", "B9", "a"], "natural") == ("a", "B9", "b10")


def test_timms_own_order_is_the_natural_one() -> None:
    from timm.data.readers.reader_image_folder import natural_key

    names = ["10", "2", "img12", "Img3", "a", "B", "003", "3"]
    assert [*ordered(names, "natural")] == sorted(sorted(names), key=natural_key)


@pytest.mark.parametrize("names", [("cat", "dog"), ("0", "1", "2"), ("n01440764", "n01443537"), ("01", "02", "10")])
def test_there_is_nothing_to_say_where_there_is_one_order(names: tuple[str, ...]) -> None:
    assert note_on(names) == ""


@pytest.mark.parametrize(("chosen", "other"), [("text", "natural"), ("natural", "text")])
def test_where_there_are_two_the_one_taken_is_told_and_the_other(chosen: str, other: str) -> None:
    note = note_on([str(n) for n in range(12)], chosen)
    assert note.endswith(f"--class-order {other}")
    assert "(… 1, 10, 11 …)" in note and "(… 1, 2, 3 …)" in note


def test_a_file_states_an_order(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("2\n\n 10\n1\n", encoding="utf-8")
    assert order_given(str(path)) == ("2", "10", "1") == ordered(NUMBERS, ("2", "10", "1"))
    assert order_given("natural") == "natural" and order_given(None) is None
    with pytest.raises(UsageError, match="the list of classes has 2 names, without 10; the data set's: 1, 10, 2"):
        ordered(NUMBERS, ("1", "2"))
    path.write_text("1\n2\n1\n")
    with pytest.raises(UsageError, match=r"--classes F: '1' is in it twice"):
        read_classes(path, "--classes F")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no text in UTF-8"):
        read_classes(path, "--classes F")
    with pytest.raises(UsageError, match="--class-order numeric: not readable"):
        order_given("numeric")
    with pytest.raises(UsageError, match="unknown class order 'numeric'; valid: text, natural, a file"):
        ordered(NUMBERS, "numeric")


def test_classes_are_found_by_name_and_by_another_spelling_if_need_be() -> None:
    assert positions(["dog", "cat"], ["cat", "dog"], "x").tolist() == [1, 0]
    assert positions(["T - shirt / top", "Bag"], ["bag", "T-shirt/top"], "x").tolist() == [1, 0]
    assert positions(["a", "A"], ["A", "a"], "x").tolist() == [1, 0]
    words = ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    assert positions(words, ["n01443537", "n01440764"], "x").tolist() == [1, 0]
    assert positions(["n01440764", "n01443537"], ["goldfish", "tench"], "x").tolist() == [1, 0]
    with pytest.raises(
        UsageError, match="x has 2 names, without bird and with cat; the data set's: bird, dog"
    ) as raised:
        positions(["cat", "dog"], ["bird", "dog"], "x")
    assert "\n" not in str(raised.value)


def test_known_orders_leave_out_the_present_one_and_are_orders_of_the_same_names() -> None:
    found = known_orders(NUMBERS)
    assert found == {"sorted by number (timm)": ("1", "2", "10")}
    assert known_orders(("cat", "dog")) == {}
    assert known_orders(("b", "A")) == {
        "sorted as text (torchvision)": ("A", "b"),
    }
    clothes = tuple(sorted(DATASETS["fashion_mnist"].classes))
    assert known_orders(clothes)["the list of Fashion-MNIST"] == DATASETS["fashion_mnist"].classes


@pytest.mark.parametrize(
    "dataset", [entry for entry in DATASETS.entries() if entry.classes], ids=lambda entry: entry.title
)
def test_every_known_order_of_a_registered_data_set_is_an_order_of_its_names(dataset: Dataset) -> None:
    for names in (dataset.classes, tuple(reversed(dataset.classes)), tuple(sorted(dataset.classes))):
        for order in known_orders(names).values():
            assert sorted(order) == sorted(names)  # A and a are two classes of Street Characters


def test_imagenets_orders_are_known_for_ids_and_for_words() -> None:
    ids = ("n01440764", "n01518878", "n02123045")  # tench, ostrich, tabby
    assert known_orders(ids) == {"sorted by ImageNet's words": ("n01518878", "n02123045", "n01440764")}
    assert known_orders(("ostrich", "tabby", "tench"))["sorted by WordNet id (ImageNet)"] == (
        "tench",
        "ostrich",
        "tabby",
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_a_permutation(order: str) -> None:
    names = ["b2", "b10", "a", "C", "c"]
    assert sorted(ordered(names, order)) == sorted(names)
    assert np.array_equal(np.sort(positions(names, ordered(names, order), "x")), np.arange(5))


def test_imagenets_words_in_its_own_order_are_its_ids_though_two_are_called_crane() -> None:
    info = ImageNetInfo("imagenet-1k")
    words, ids = info.label_descriptions(), info.label_names()
    assert words.count("crane") == 2
    assert positions(words, ids[::-1], "x").tolist() == list(range(1000))[::-1]
    with pytest.raises(UsageError, match="x has 1000 names"):
        positions(words[::-1], ids, "x")
