"""All entry points accept and refuse the same images: one table, every door."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doors import Door, RefusedError, command_doors, endpoint_doors, pyfunc_doors, python_doors
from endpoint import serving
from plain_heads import read_plainly

import quee
from quee.network.architectures import create_backbone
from quee.runtime import AdaptiveClassifier, load_bundle

ROOT = Path(__file__).parents[1]
JSON = ("quee serve, JSON", "scoring, inputs", "scoring, instances")
"""Doors that get numbers without a type; there whole numbers from 0 to 255 stand for uint8."""
DOORS = (
    "predict", "predict_proba", "route", "explain", "a list", "the scheduler", "quee.fit", "quee predict .npy",
    "quee predict .npz", "quee serve, binary", "pyfunc", *JSON,
)  # fmt: skip


def digits(count: int) -> np.ndarray:
    from sklearn.datasets import load_digits

    return np.rint(load_digits().images[:count] * 255 / 16).astype(np.uint8)


X = digits(6)
RGB = np.repeat(X[..., None], 3, axis=3)
UNIT = X / 255
GOOD: dict[str, tuple[np.ndarray, str]] = {
    "uint8 (n, h, w)": (X, "uint8"),
    "uint8 (n, h, w, 1)": (X[..., None], "uint8"),
    "uint8 (n, h, w, 3)": (RGB, "uint8"),
    "opaque": (np.concatenate([RGB, np.full_like(RGB[..., :1], 255)], axis=3), "uint8"),
    "another memory order": (np.asfortranarray(X), "uint8"),
    "float16": (UNIT.astype(np.float16), "unit"),
    "float32": (UNIT.astype(np.float32), "unit"),
    "float64": (UNIT, "unit"),
    "float32 (n, h, w, 3)": ((RGB / 255).astype(np.float32), "unit"),
}
BAD: dict[str, tuple[np.ndarray, str, str]] = {
    "floats from 0 to 1, not said": (UNIT.astype(np.float32), "uint8", "unit|UINT8"),
    "floats from 0 to 255": (X.astype(np.float32), "uint8", "uint8|UINT8"),
    "floats from 0 to 255 as unit": (X.astype(np.float32), "unit", "from 0 to 1"),
    "floats that are whole and black": (np.zeros((2, 8, 8), np.float32), "uint8", "uint8|UINT8"),
    "normalised": ((UNIT - 0.3) / 0.4, "unit", "from 0 to 1"),
    "beyond 1": (UNIT * 1.01, "unit", "from 0 to 1"),
    "NaN": (np.where(X == 255, np.nan, UNIT), "unit", "nan|finite|NaN|0 to 1"),
    "infinite": (np.where(X == 255, np.inf, UNIT), "unit", "inf|Inf|finite|0 to 1"),
    "16 bits": (X.astype(np.uint16) * 257, "uint8", "0 to 255|uint8|UINT8"),
    "negative": (X.astype(np.int64) - 128, "uint8", "0 to 255|uint8|UINT8"),
    "beyond 255": (X.astype(np.int64) + 60, "uint8", "0 to 255|uint8|UINT8"),
    "bool": (X > 100, "uint8", "bool|BOOL"),
    "bool as unit": (X > 100, "unit", "bool|BOOL"),
    "uint8 as unit": (X, "unit", "uint8|0 to 1|UINT8"),
    "text": (X.astype(str), "uint8", "str|number|dtype|BYTES|bytes"),
    "nothing in between": (np.where(X > 99, X, None), "uint8", "None|number|dtype|object|array|BYTES|bytes"),
    "an image alone": (X[0], "uint8", "shape|axes"),
    "a colour image alone": (np.repeat(digits(1)[0][..., None], 3, axis=2), "uint8", "shape"),
    "five axes": (X[:, None, :, :, None], "uint8", "shape|axes"),
    "channels first": (RGB.transpose(0, 3, 1, 2), "uint8", "transpose|shape"),
    "a channel first": (X[:, None], "uint8", "transpose|shape"),
    "two channels": (RGB[..., :2], "uint8", "channels|shape"),
    "five channels": (np.concatenate([RGB, RGB[..., :2]], axis=3), "uint8", "channels|shape"),
    "transparent": (np.concatenate([RGB, RGB[..., :1]], axis=3), "uint8", "opaque"),
    "no images": (X[:0], "uint8", "no images|shape|no pixels|empty|Input|input"),
    "no pixels": (X[:, :0], "uint8", "shape|no pixels"),
    "a word that is no way to read": (X, "float", "unit"),
}
TYPED: dict[str, np.ndarray] = {"int64": X.astype(np.int64), "uint16": X.astype(np.uint16), "int32": X.astype(np.int32)}
"""Whole numbers from 0 to 255 of another type than uint8."""
ONE_BY_ONE = {"an image alone", "a colour image alone", "no images", "text", "nothing in between"}
"""Arrays that mean something else as a list of their rows."""


@pytest.fixture(scope="module")
def backbone() -> Any:
    torch.manual_seed(0)
    return create_backbone("vit_digits", (1, 2), depth=2, embed_dim=16, num_heads=2)


@pytest.fixture(scope="module")
def bundle(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = digits(120)
    out = tmp_path_factory.mktemp("fit") / "bundle"
    with pytest.MonkeyPatch.context() as monkeypatch:
        read_plainly(monkeypatch)
        quee.fit(backbone, images, np.arange(len(images)) % 10, out, precisions=["w8a8"])
    return out


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> AdaptiveClassifier:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def doors(
    bundle: Path, classifier: AdaptiveClassifier, backbone: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Door]]:
    import mlflow
    from mlflow.models import Model

    from tasks.mlflow.registry import save_bundle_model

    folder = tmp_path_factory.mktemp("doors")
    save_bundle_model(folder / "model", bundle, ROOT / "quee/runtime/pyfunc.py", Model(), ROOT / "quee")
    model = mlflow.pyfunc.load_model(str(folder / "model"))
    with serving(bundle, control=False) as endpoint:
        found = {**python_doors(classifier, backbone, folder), **command_doors(bundle, folder)}
        yield {**found, **endpoint_doors(endpoint), **pyfunc_doors(model)}


def test_the_table_has_every_door(doors: dict[str, Door]) -> None:
    assert set(DOORS) == set(doors)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_good_gets_the_same_answer(doors: dict[str, Door], classifier: AdaptiveClassifier, door: str) -> None:
    expected = classifier.predict(X).tolist()
    assert {name: doors[door](*given) for name, given in GOOD.items()} == dict.fromkeys(GOOD, expected)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_bad_is_refused_with_what_to_do(doors: dict[str, Door], door: str) -> None:
    import re

    for name, (images, pixels, reason) in BAD.items():
        if door == "a list" and name in ONE_BY_ONE:
            continue
        with pytest.raises(RefusedError) as refused:
            print(name, doors[door](images, pixels))
        assert re.search(reason, str(refused.value)), (name, str(refused.value))


@pytest.mark.parametrize("door", DOORS)
def test_whole_numbers_of_another_type_are_cast_nowhere(doors: dict[str, Door], door: str) -> None:
    """JSON has no types, so there these numbers are valid."""
    for images in TYPED.values():
        if door in JSON:
            assert doors[door](images, "uint8") == doors["predict"](X, "uint8")
            continue
        with pytest.raises(RefusedError, match=r"astype\(np.uint8\)|UINT8"):
            doors[door](images, "uint8")


@pytest.mark.parametrize("door", JSON)
def test_a_black_image_of_floats_written_as_whole_numbers_is_unit_where_said(doors: dict[str, Door], door: str) -> None:
    """JavaScript writes 1.0 as 1."""
    whole = (X > 100).astype(np.int64)
    kind = (
        whole.astype(np.float32) if door == "quee serve, JSON" else whole
    )  # whose datatype is said beside the numbers
    assert doors[door](kind, "unit") == doors["predict"]((X > 100).astype(np.float32), "unit")
