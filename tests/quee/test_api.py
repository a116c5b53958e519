"""`quee.fit`: accepted arguments, and refusals before it computes, which leave no files."""

import gc
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_heads import plain_heads as plain_heads
from torch import nn

import quee
from quee.api import BATCH, drawn
from quee.errors import QueeError, UsageError
from quee.fitting.checks import check_pixels
from quee.fitting.given import read_images
from quee.network.architectures import create_backbone
from quee.runtime import Options, load_bundle
from quee.settings.paths import Paths

KWARGS = {"embed_dim": 16, "depth": 2, "num_heads": 2}
SECONDS = 5.0
"""Seconds within which a refusal must come; on an equally busy machine computing takes longer."""


def made(**more: Any) -> Any:
    torch.manual_seed(0)
    return create_backbone("vit_digits", (1, 2), **{**KWARGS, **more})


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * 255 / 16).astype(np.uint8)[:400], found.target[:400]


def halved() -> Any:
    return made().half()


def with_nan() -> Any:
    backbone = made()
    with torch.no_grad():
        backbone.head.bias[0] = float("nan")
    return backbone


def with_another_head() -> Any:
    backbone = made()
    backbone.head, backbone.num_classes = nn.Linear(16, 5), 5
    return backbone


def with_another_activation() -> Any:
    backbone = made()
    for block in backbone.blocks:
        block.mlp.act = nn.ReLU()
    return backbone


def with_another_input() -> Any:
    from dataclasses import replace

    backbone = made()
    backbone.input = replace(backbone.input, mean=(0.5,))
    return backbone


def of_one_answer() -> Any:
    backbone = made()
    with torch.no_grad():
        backbone.head.bias[4] = 1e4
    return backbone


def of_ones_own() -> Any:
    backbone = made()
    backbone.made_with = None  # as of a class of one's own
    return backbone


Y = "labels"
EVERY = [f"w{weights}a{activations}" for weights in range(2, 9) for activations in range(3, 9)]
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "images of floats": (lambda a: {"images": a["images"] / 255}, "pixels=\"unit\""),
    "images of 16 bits": (lambda a: {"images": a["images"].astype(np.uint16) * 257}, "uint16"),
    "images of 0 and 1": (lambda a: {"images": a["images"] // 255}, "no pixel is above 1"),
    "images of one colour": (lambda a: {"images": np.full_like(a["images"], 7)}, "all pixels of all images are 7"),
    "images of bool": (lambda a: {"images": a["images"] > 9}, "bool"),
    "transparent images": (lambda a: {"images": np.repeat(a["images"][..., None], 4, -1)}, "opaque"),
    "channels first": (lambda a: {"images": a["images"][:, None]}, "transpose"),
    "a bad image in a list": (lambda a: {"images": [*a["images"][:-1], a["images"][0] / 255]}, "image 399 have"),
    "no images": (lambda a: {"images": a["images"][:0], Y: a[Y][:0]}, "no pixels"),
    "a file name": (lambda a: {"images": "a.png"}, "."),
    "fewer labels": (lambda a: {Y: a[Y][:-1]}, "400 images but 399 labels"),
    "float labels": (lambda a: {Y: a[Y].astype(float)}, r"astype\(int\)"),
    "one-hot labels": (lambda a: {Y: np.eye(10)[a[Y]]}, "argmax"),
    "an unlabelled image": (lambda a: {Y: np.where(np.arange(400) == 3, -1, a[Y])}, "label -1 of image 3"),
    "a label beyond": (lambda a: {Y: np.where(np.arange(400) == 3, 10, a[Y])}, "label 10 of image 3"),
    "names of too few classes": (lambda a: {Y: np.array(["a", "b"])[a[Y] % 2]}, "2 names"),
    "classes that do not fit": (lambda a: {"classes": ["a", "b"]}, "2 names; the backbone has 10"),
    "few images": (lambda a: {"images": a["images"][:30], Y: a[Y][:30]}, "30 images to fit on; give at least 40"),
    "a class without images": (lambda a: {Y: a[Y] % 9}, r"1 of 10 classes .*'9' \(0\)"),
    "budget 0": (lambda a: {"budget": 0}, "bundle.budget"),
    "budget -1": (lambda a: {"budget": -1.0}, "bundle.budget"),
    "budget nan": (lambda a: {"budget": float("nan")}, "bundle.budget"),
    "budget inf": (lambda a: {"budget": float("inf")}, "bundle.budget"),
    "budget beyond floats": (lambda a: {"budget": 10**400}, "bundle.budget"),
    "budget as text": (lambda a: {"budget": "0.2"}, "bundle.budget"),
    "budget as bool": (lambda a: {"budget": True}, "bundle.budget"),
    "seed -1": (lambda a: {"seed": -1}, "prepare.seed"),
    "seed 0.5": (lambda a: {"seed": 0.5}, "prepare.seed"),
    "precision int8": (lambda a: {"precisions": ("int8",)}, "unknown precision 'int8'; valid: fp32"),
    "precisions as text": (lambda a: {"precisions": "w8a8"}, "give a list"),
    "no precision": (lambda a: {"precisions": ()}, "paths.precisions"),
    "a precision twice": (lambda a: {"precisions": ("w8a8", "w8a8")}, "named twice"),
    "too many nodes": (lambda a: {"precisions": EVERY}, "42 precisions over 2 segments make a tree of 1806 nodes"),
    "out exists": (lambda a: {"out": a["out"].parent}, "exists; give a new path"),
    "out below a file": (lambda a: {"out": Path(__file__) / "bundle"}, "is not a folder"),
    "no out": (lambda a: {"out": None}, "give the path"),
    "out empty": (lambda a: {"out": ""}, "give the path"),
    "out with a zero": (lambda a: {"out": "a\0b"}, "no path"),
    "out too long": (lambda a: {"out": a["out"].parent / ("x" * 300)}, "no path"),
    "out at an address": (lambda a: {"out": "s3://bucket/bundle"}, "is an address"),
    "out at home": (lambda a: {"out": "~/bundle"}, "expanduser"),
    "masked labels": (lambda a: {Y: np.ma.array(a[Y], mask=a[Y] == 3)}, "masked"),
    "classes without an order": (lambda a: {"classes": {str(i) for i in range(10)}}, "classes are a set: give a list"),
    "pixels unknown": (lambda a: {"pixels": "float"}, "unknown pixels 'float'; valid: uint8, unit"),
    "other kwargs": (lambda a: {"kwargs": {**KWARGS, "depth": 8}}, "leave kwargs out"),
    "another's network": (lambda a: {"model": nn.Linear(3, 3)}, "quee.create_backbone"),
    "a backbone of one's own": (lambda a: {"model": of_ones_own()}, "not made by quee.create_backbone"),
    "a backbone of half precision": (lambda a: {"model": halved()}, r"backbone.float\(\)"),
    "weights that are not finite": (lambda a: {"model": with_nan()}, "head.bias has values that are not finite"),
    "another head": (lambda a: {"model": with_another_head()}, "was changed since"),
    "another activation": (lambda a: {"model": with_another_activation()}, "answers otherwise"),
    "another input": (lambda a: {"model": with_another_input()}, "preprocessing="),
    "a class as kwarg": (lambda a: {"model": made(norm_layer=nn.LayerNorm)}, "cannot keep"),
    "a generator that is used up": (lambda a: {"images": iter([]), Y: None}, "used up"),
    "batches that are no pairs": (lambda a: {"images": iter([3]), Y: None}, "pairs"),
    "batches of one image": (lambda a: {"images": iter(a["images"]), Y: None}, r"shape \(8, 8\); without labels give"),
    "an image of too many": (lambda a: {"images": [a["images"]], Y: None}, "image 0 ha"),
    "batches of both kinds": (lambda a: {"images": [(a["images"], a[Y]), a["images"][..., None]], Y: None}, "or none"),
    "labelled beside labels": (lambda a: {"labelled": (a["images"], a[Y])}, "labelled= goes with images without"),
    "labelled beside pairs": (
        lambda a: {"images": [(a["images"], a[Y])], Y: None, "labelled": (a["images"], a[Y])}, "labelled= goes with"
    ),
    "few labelled": (lambda a: {Y: None, "labelled": (a["images"][:9], a[Y][:9])}, "labelled: 9 images; give at least 40"),
    "labelled without labels": (lambda a: {Y: None, "labelled": a["images"]}, "labelled is a ndarray; give a pair"),
    "labelled of another class": (lambda a: {Y: None, "labelled": (a["images"], a[Y] + 1)}, "label 10 of image"),
    "no labels, classes that do not fit": (lambda a: {Y: None, "classes": ["a"]}, "1 names; the backbone has 10"),
    "no labels, one answer": (lambda a: {Y: None, "model": of_one_answer()}, "answers class 4 to each of 400 images"),
    "a bad batch": (lambda a: {"images": [(a["images"], a[Y][:-1])], Y: None}, "batch 0: 400 images but 399"),
    "a bad type in a batch": (lambda a: {"images": [(a["images"] / 255, a[Y])], Y: None}, "images of batch 0 have"),
}  # fmt: skip


@pytest.mark.parametrize("which", CHANGES)
def test_what_cannot_be_fitted_is_refused_at_once_and_leaves_nothing(which, digits, tmp_path) -> None:
    given = {
        "model": made(),
        "images": digits[0],
        "labels": digits[1],
        "out": tmp_path / "bundle",
        "precisions": ["w8a8"],
    }
    change, reason = CHANGES[which]
    arguments = {**given, **change(given)}
    start = time.process_time()
    with pytest.raises(UsageError, match=reason) as refused:
        quee.fit(**arguments)
    assert time.process_time() - start < SECONDS
    assert len(str(refused.value)) < 450
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_refused_at_once(digits, tmp_path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(UsageError, match="cannot be made"):
        quee.fit(made(), *digits, tmp_path / "locked" / "bundle")


@pytest.fixture(scope="module")
def trained(digits: tuple[np.ndarray, np.ndarray]) -> Any:
    """A backbone that classifies these digits."""
    backbone = made()
    transform = backbone.input
    x = transform.normalise(torch.from_numpy(digits[0])[:, None].float() / 255)
    y = torch.from_numpy(digits[1])
    optimizer = torch.optim.AdamW(backbone.parameters(), 5e-3)
    for _ in range(50):
        for rows in torch.randperm(len(x)).split(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(backbone(x[rows]), y[rows]).backward()
            optimizer.step()
    assert float((backbone(x).argmax(1) == y).float().mean()) > 0.8
    return backbone


NAMES = [f"digit {i}" for i in range(10)]


def test_labels_in_another_order_than_the_outputs_are_refused(digits, trained, tmp_path) -> None:
    turned = (digits[1] + 1) % 10
    for labels, more in ((turned, {}), (np.array(NAMES)[turned], {}), (np.array(NAMES)[turned], {"classes": NAMES})):
        with pytest.raises(UsageError, match=r"another order: output \d is class"):
            quee.fit(trained, digits[0], labels, tmp_path / "bundle", **more)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("plain_heads")
def test_names_that_the_backbone_confirms_are_taken_without_a_word_and_it_is_left_as_it_is(
    digits, trained, tmp_path
) -> None:
    backbone = trained.train()
    batches = lambda: ((digits[0][i : i + 64] / 255, np.array(NAMES)[digits[1][i : i + 64]]) for i in range(0, 400, 64))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = quee.fit(
            backbone, batches, out=tmp_path / "new" / "bundle", precisions=["w8a8"], pixels="unit", kwargs=KWARGS
        )
    assert backbone.training and all(p.requires_grad for p in backbone.parameters())
    assert found.classes == NAMES == load_bundle(tmp_path / "new" / "bundle").classes
    assert np.mean(found.predict(digits[0], budget=1.0) == digits[1]) > 0.7
    assert os.listdir(tmp_path / "new") == ["bundle"] and os.listdir(tmp_path) == ["new"]


def test_the_tree_is_chosen_where_no_precisions_are_named(digits, trained, tmp_path) -> None:
    found = quee.fit(trained, *digits, tmp_path / "bundle")
    names = [str(precision) for precision in found.tree.precisions]
    assert len(names) == 3 and {*names} < {*Paths().candidates}
    answers = found.predict(digits[0][:50], budget=1.0)
    assert np.mean(np.asarray(answers) == digits[1][:50]) > 0.5


@pytest.mark.usefixtures("plain_heads")
def test_an_order_that_is_a_guess_is_said(digits, tmp_path) -> None:
    labels = np.array(NAMES)[digits[1]][:80]
    with pytest.warns(UserWarning, match="sorted order .*0 is 'digit 0'.*give classes="):
        found = quee.fit(made(), list(digits[0][:80]), labels, tmp_path / "bundle", precisions=["fp32"])
    assert found.classes == NAMES


def of_pairs(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    yield from zip(x, y, strict=True)


class Rows:
    """An object with items and a length, like PyTorch's data sets."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        if row >= len(self):
            raise IndexError(row)
        return self.x[row], int(self.y[row])


FORMS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[Any, Any, str]]] = {
    "an array with channels": (lambda x, y: (x[..., None], y, "uint8")),
    "three channels": (lambda x, y: (np.repeat(x[..., None], 3, -1), y, "uint8")),
    "floats": (lambda x, y: (x / 255, y, "unit")),
    "a list": (lambda x, y: (list(x), y, "uint8")),
    "a list of floats": (lambda x, y: (list(x / 255), list(y), "unit")),
    "batches": (lambda x, y: ([(x[:70], y[:70]), (x[70:], y[70:])], None, "uint8")),
    "batches of lists": (lambda x, y: ([(list(x[:70]), list(y[:70])), (x[70:], y[70:])], None, "uint8")),
    "pairs": (lambda x, y: (list(zip(x, y, strict=True)), None, "uint8")),
    "a generator": (lambda x, y: (of_pairs(x, y), None, "uint8")),
    "a function": (lambda x, y: (lambda: of_pairs(x, y), None, "uint8")),
    "a data set": (lambda x, y: (Rows(x, y), None, "uint8")),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_are_the_same_in_whatever_form_they_come(form, digits, tmp_path) -> None:
    x, y = digits[0][:130], digits[1][:130]
    transform = made().input
    images, labels, pixels = FORMS[form](x, y)
    expected, found = (
        read_images(x, y, transform, "uint8", tmp_path),
        read_images(images, labels, transform, pixels, tmp_path),
    )
    rows = np.random.default_rng(0).permutation(130)
    assert torch.equal(expected.batch(rows), found.batch(rows))
    assert found.labels.values.tolist() == y.tolist() and found.extremes() == (0, 255)
    found.close()


def test_images_of_other_sizes_are_resized_as_the_classifier_does(tmp_path) -> None:
    from quee.runtime.images import prepare

    images = [np.random.default_rng(i).integers(256, size=(20 + i, 14, 3), dtype=np.uint8) for i in range(5)]
    transform = made().input
    found = read_images(images, range(5), transform, "uint8", tmp_path)
    assert np.array_equal(found.batch(np.arange(5)).numpy(), prepare(images, transform))


def test_memory_does_not_grow_with_the_number_of_draws(digits, tmp_path) -> None:
    transform = made().input
    given = read_images(list(digits[0]), digits[1], transform, "uint8", tmp_path)
    rows = np.arange(0, 400)
    alive: list[weakref.ref[torch.Tensor]] = []
    seen, most = 0, 0
    for x, y in chain.from_iterable(drawn(given, digits[1], rows) for _ in range(50)):
        alive.append(weakref.ref(x))
        seen += len(y)
        gc.collect(0)
        most = max(most, sum(ref() is not None for ref in alive))
    assert seen == 50 * 400 and most <= 2 and len(alive) == 50 * -(-400 // BATCH)


def test_a_disk_that_is_full_is_named(tmp_path) -> None:
    from quee.fitting.given import Spool

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(QueeError, match="images cannot be kept"):
        Spool(Path("/dev/full"), (8, 8, 1)).add(np.zeros((1, 8, 8, 1), np.uint8))


def ending(x: np.ndarray, y: np.ndarray, error: BaseException) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield x[:50], y[:50]
    raise error


@pytest.mark.parametrize("error", [RuntimeError("gone"), KeyboardInterrupt(), OSError(5, "gone")])
def test_what_a_generator_raises_is_the_callers_and_nothing_stays_open(error, digits, tmp_path) -> None:
    transform = made().input
    with pytest.raises(type(error)) as raised:
        read_images(ending(*digits, error), None, transform, "uint8", tmp_path)
    assert raised.value is error
    open_files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not any(name.startswith(str(tmp_path)) for name in open_files)


class Short(Rows):
    """A data set that ends before its length."""

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        if row >= 90:
            raise IndexError(row)
        return super().__getitem__(row)


def test_batches_that_end_before_their_length_are_said(digits, tmp_path) -> None:
    transform = made().input
    with pytest.warns(UserWarning, match="ended early: 90 came of the 400"):
        read_images(Short(*digits), None, transform, "uint8", tmp_path).close()


def test_images_that_are_all_dark_are_said() -> None:
    with pytest.warns(UserWarning, match="no pixel is above 16 of 255; if 16 is to be white, multiply images by 15"):
        check_pixels(0, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pixels(0, 200)


@pytest.mark.usefixtures("plain_heads")
def test_images_without_labels_are_fitted_to_the_networks_own_answers_and_the_bundle_says_so(
    digits, trained, tmp_path
) -> None:
    """The same bundle as with these answers given as labels, except for what it says of them."""
    images, beside = digits[0][:300], (digits[0][300:], digits[1][300:])
    trained.eval()
    x = trained.input.normalise(torch.from_numpy(images)[:, None].float() / 255)
    answers = trained(x).argmax(dim=1).numpy()
    options: Any = {"precisions": ["w4a4", "w8a8"]}
    found = quee.fit(trained, images, out=tmp_path / "alone", labelled=beside, **options)
    told = quee.fit(trained, images, answers, tmp_path / "told", **options)
    assert (found.measure.name, told.measure.name) == ("agreement", "accuracy")
    assert [(p.cost, p.accuracy) for p in found.points] == [(p.cost, p.accuracy) for p in told.points]
    for point in found.points[:: max(1, len(found.points) // 4)]:
        right = found.predict(beside[0], budget=point.cost) == beside[1]
        accuracy, low, high = found.operating(Options(budget=point.cost)).expected.labelled
        assert low <= accuracy <= high
        assert accuracy == pytest.approx(right.mean(), abs=0.03), "executed as simulated"
    assert found.expect(budget=0.3).labelled is not None
    assert all(point.labelled is None for point in told.points) and told.expect(budget=0.3).labelled is None
    card, other = ((tmp_path / name / "README.md").read_text() for name in ("alone", "told"))
    assert "| mean cost | agreement | points below the float network | accuracy, labelled images |" in card
    assert "had no labels: agreement is with the float network's own answers" in card and "100 labelled images" in card
    assert "| mean cost | accuracy |" in other and "agreement" not in other


@pytest.mark.parametrize("form", ["a list", "batches", "a generator"])
def test_images_without_labels_come_in_any_form(form, digits, tmp_path) -> None:
    forms = {
        "a list": lambda x: list(x),
        "batches": lambda x: [x[:70, ..., None], x[70:, ..., None]],
        "a generator": lambda x: (x[i : i + 50, ..., None] for i in range(0, 130, 50)),
    }
    transform = made().input
    found = read_images(forms[form](digits[0][:130]), None, transform, "uint8", tmp_path)
    expected = read_images(digits[0][:130], None, transform, "uint8", tmp_path)
    rows = np.arange(130)
    assert found.labels is None and expected.labels is None
    assert torch.equal(found.batch(rows), expected.batch(rows))
    found.close()
