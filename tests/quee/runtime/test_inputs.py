"""`.npy` and `.npz` as sources of images."""

from pathlib import Path

import numpy as np
import pytest

from quee.errors import UsageError
from quee.runtime import Options
from quee.runtime.inputs import Inputs
from quee.runtime.scoring import rows_of, score

X = np.random.default_rng(0).integers(256, size=(5, 8, 8), dtype=np.uint8)


def test_rows_come_by_name_in_order(classifier, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.savez_compressed(tmp_path / "b.npz", labels=np.arange(5), images=X[::-1])
    inputs = Inputs([tmp_path / "a.npy", tmp_path / "b.npz"])
    rows = [row for answers in score(classifier, inputs, Options(), batch=3) for row in rows_of(answers)]
    assert [row["image"] for row in rows] == [f"{tmp_path / n}#{i}" for n in ("a.npy", "b.npz") for i in range(5)]
    assert [row["label"] for row in rows] == classifier.predict(np.concatenate([X, X[::-1]])).tolist()


def test_a_bad_row_is_named_or_skipped(classifier, tmp_path: Path) -> None:
    unit = X / 255
    unit[3, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", unit)
    inputs = Inputs([tmp_path / "a.npy"], "unit")
    with pytest.raises(UsageError, match=r"a\.npy#3: hold values from nan"):
        list(score(classifier, inputs, Options()))
    rows = [row for answers in score(classifier, inputs, Options(), skip_bad=True) for row in rows_of(answers)]
    assert [row["error"] is not None for row in rows] == [False, False, False, True, False]


def test_how_arrays_are_read_is_part_of_what_work_is_resumed_by(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(X[0]).save(tmp_path / "a.png")
    assert Inputs([tmp_path / "a.png"]).identity() != Inputs([tmp_path / "a.png"], "unit").identity()


def objects(path: Path) -> None:
    np.save(path, np.array([X, None], dtype=object), allow_pickle=True)


BAD = {
    "floats.npy": (lambda p: np.save(p, X / 255), "unit"),
    "one.npy": (lambda p: np.save(p, X[0]), "images.None"),
    "none.npy": (lambda p: np.save(p, X[:0]), "no pixels"),
    "objects.npy": (objects, "no array that can be read"),
    "two.npz": (lambda p: np.savez(p, a=X, b=X), "arrays a, b; give one"),
    "text.npy": (lambda p: p.write_text("no array"), "no array that can be read"),
    "text.npz": (lambda p: p.write_text("no archive"), "no array that can be read"),
    "empty.npy": (lambda p: p.write_bytes(b""), "no array that can be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_array_of_images_is_refused_at_once_by_name(tmp_path: Path, name: str) -> None:
    write, reason = BAD[name]
    write(tmp_path / name)
    with pytest.raises(UsageError, match=f"{name}.*{reason}"):
        Inputs([tmp_path / name])
