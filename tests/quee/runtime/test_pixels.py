"""Accepted pixels: 8 bits, or floats from 0 to 1 if the caller says so; the rest is refused with the conversion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from quee.errors import UsageError
from quee.runtime.pixels import BATCH, SINGLE, accepted, numbers

IMAGES = np.random.default_rng(0).integers(256, size=(3, 6, 7, 3), dtype=np.uint8)


@given(st.sampled_from([np.float16, np.float32, np.float64, ">f4"]), st.integers(0, 255))
def test_a_255th_is_the_byte_it_came_from(kind, level) -> None:
    unit = (np.full((2, 5, 5), level) / 255).astype(kind)
    assert (accepted(unit, "images", pixels="unit") == level).all()


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int8, np.int64, np.bool_, np.float32, np.float64, np.complex64, "U2", "M8[s]"]),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6),
    ),
    st.sampled_from(["uint8", "unit"]),
    st.sampled_from([BATCH, SINGLE]),
)  # fmt: skip
def test_whatever_is_taken_is_what_was_given(array, pixels, axes) -> None:
    try:
        found = accepted(array, "images", axes, pixels)
    except UsageError as error:
        reason = str(error)
    else:
        reason = None
    if reason is not None:
        assert reason.startswith("images ") and len(reason) < 400
        return
    assert found.dtype == np.uint8 and found.ndim == len(axes) + 1 and found.shape[-1] in (1, 3)
    given_ = array if array.ndim == found.ndim else array[..., None]
    expected = given_[..., :3] if given_.shape[-1] == 4 else given_
    assert array.dtype == np.uint8 if pixels == "uint8" else array.dtype.kind == "f"
    scale = 1 if pixels == "uint8" else 255
    assert np.abs(expected.astype(np.float64) * scale - found).max() <= 0.5


CONVERSIONS = {
    "unit": (IMAGES / 255, lambda a: np.rint(a * 255).astype(np.uint8), "np.rint(images * 255).astype(np.uint8)"),
    "floats": (IMAGES.astype(float), lambda a: np.rint(a).astype(np.uint8), "np.rint(images).astype(np.uint8)"),
    "16 bits": (IMAGES.astype(np.uint16) * 257, lambda a: (a // 257).astype(np.uint8), "(images // 257).astype(np.uint8)"),
    "int64": (IMAGES.astype(np.int64), lambda a: a.astype(np.uint8), "images.astype(np.uint8)"),
    "first": (IMAGES.transpose(0, 3, 1, 2), lambda a: a.transpose(0, 2, 3, 1), "images.transpose(0, 2, 3, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("which", CONVERSIONS)
def test_the_conversion_that_is_named_is_the_right_one(which) -> None:
    array, conversion, words = CONVERSIONS[which]
    with pytest.raises(UsageError) as refused:
        accepted(array, "images")
    assert words in str(refused.value)
    assert np.array_equal(accepted(conversion(array), "images"), IMAGES)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((224, 224, 3), np.uint8), r"images\[None\]"),
        (np.zeros((8, 8), np.uint8), r"images\[None\]"),
        (np.ma.masked_array(IMAGES, IMAGES > 9), "filled"),
        (IMAGES > 9, "255"),
        ((IMAGES / 255 - 0.5) / 0.2, "before normalisation"),
        (np.array([IMAGES, None], dtype=object)[:1], "list where sizes differ|axes"),
    ],
)
def test_the_advice_fits_what_is_wrong(array, advice) -> None:
    with pytest.raises(UsageError, match=advice):
        accepted(array, "images")


@pytest.mark.parametrize("pixels", [None, "float", 1, "UINT8"])
def test_an_unknown_way_to_read_is_refused_with_those_there_are(pixels) -> None:
    with pytest.raises(UsageError, match="valid: uint8, unit"):
        accepted(IMAGES, "images", pixels=pixels)


@given(st.lists(st.lists(st.integers(0, 255), min_size=4, max_size=4), min_size=1, max_size=5))
def test_json_s_whole_numbers_are_uint8(values) -> None:
    found = numbers(values, "data")
    assert found.dtype == np.uint8 and found.tolist() == values


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 255.0, -1, 256, 10**30, 10**400, True, None, "1", {}, float("nan")])
def test_json_s_other_values_are_refused_beside_whole_numbers(value) -> None:
    with pytest.raises(UsageError, match="whole numbers from 0 to 255"):
        numbers([[0, 1], [2, value]], "data")
    with pytest.raises(UsageError, match="data"):
        numbers([0, [value]], "data")


@pytest.mark.parametrize("value", [1.5, 2, -0.1, 10**400, True, None, "1", float("inf")])
def test_json_s_values_that_are_no_unit_are_refused(value) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        numbers([[0, 1], [0.5, value]], "data", "unit")


def test_pil_images_whose_white_is_not_known_are_refused(classifier, tmp_path) -> None:
    unit = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    deep = Image.fromarray(np.full((8, 8), 200, np.int32))
    for image in (unit, deep):
        with pytest.raises(UsageError, match="mode [FI].*astype"):
            classifier.predict([image])
    file = tmp_path / "16.png"
    Image.fromarray((np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)).save(file)
    by_path, by_image = classifier.prepare([file]), classifier.prepare([Image.open(file)])
    assert np.array_equal(by_path, by_image)  # a file says how deep it is


def test_tensors_are_refused_with_what_to_give(classifier) -> None:
    import torch

    for images in (torch.zeros(2, 1, 8, 8), [torch.zeros(1, 8, 8)]):
        with pytest.raises(UsageError, match=r"Tensor.*\.numpy\(\)"):
            classifier.predict(images)


def test_labels_are_scored_by_index_or_name_and_nothing_else(classifier, images) -> None:
    x, y = images[0][:30], images[1][:30]
    assert classifier.score(x, y.astype(str)) == classifier.score(x, y) == classifier.score(x / 255, y, pixels="unit")
    for labels in (y.astype(float), [f"digit {v}" for v in y], y[:5], np.eye(10)[y].astype(int)):
        with pytest.raises(UsageError, match="label"):
            classifier.score(x, labels)
