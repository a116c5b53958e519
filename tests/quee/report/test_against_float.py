"""The section on the float network: which classes lose, and images on which the two differ."""

import re
from dataclasses import replace

from quee.measure import AGREEMENT
from quee.report.against_float import AgainstFloat, against_float
from quee.report.inputs import Example, Inputs

LOST = Example("a<b", "w4a4-w8a8", 0.1, False, "data:image/webp;base64,AA", "answered c<d")
GAINED = replace(LOST, path="w4a4", right=True, answer="")
INPUTS = Inputs("quee_plan", 0.2, 1234, 2, ["w4a4", "w8a8"], [], [], 0, first_of=", of the first fold")
FOUND = AgainstFloat(
    [
        {
            "class": f"class <{k}>",
            "images": 10,
            "right": (9, right),
            "cost": (16.0, 0.2),
            "gained": gained,
            "lost": lost,
        }
        for k, (right, gained, lost) in enumerate([(9, 0, 0), (9, 1, 1), (10, 1, 0), (7, 0, 2)])
    ],
    [LOST],
    [GAINED, GAINED],
)


def test_classes_that_lose_most_stand_first_and_images_that_differ_are_counted_and_shown() -> None:
    text = against_float(INPUTS, FOUND)
    assert "Of 1,234 test images, of the first fold, the float network alone is right on 3, and the deployed" in text
    assert "classifier alone on 2." in text
    assert re.findall(r"class &lt;(\d)&gt;", text) == ["3", "1", "0", "2"]
    assert "<td>90.0 %</td><td>70.0 %</td><td>−20.00</td><td>0 / 2</td><td>20 %</td>" in text
    assert "Float right, deployed wrong: 3 images, 1 of them here<" in text and "<small>answered c&lt;d</small>" in text
    assert "Float wrong, deployed right: 2 images<" in text and text.count("<img") == 3


def test_many_classes_are_folded() -> None:
    many = replace(FOUND, classes=[dict(FOUND.classes[0], **{"class": f"{k}"}) for k in range(40)])
    assert "<summary>28 more classes</summary>" in against_float(INPUTS, many)


def test_without_labels_answers_agree_or_differ() -> None:
    text = against_float(INPUTS, replace(FOUND, gained=[]), AGREEMENT)
    assert "Float agrees, deployed differs: 3 images" in text and "wrong:" not in text


def test_what_is_not_known_is_left_out() -> None:
    assert against_float(None, FOUND) == against_float(INPUTS, None) == ""
    bare = against_float(INPUTS, replace(FOUND, lost=[], gained=[]))
    assert "<h3>" not in bare and "<table" in bare
