"""Examples for the page: a folder's visible images, without files of the system."""

import os
from io import BytesIO

import numpy as np
from PIL import Image

from quee.serving.page_routes import read_examples


def png(value: int) -> bytes:
    file = BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_hidden_files_are_no_examples_and_any_name_is_shown(tmp_path) -> None:
    for i, name in enumerate((b"a.png", b"._a.png", b".b.png", b"caf\xe9.png", b"notes.txt")):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"text" if name.endswith(b".txt") else png(i))
    assert [example.name for example in read_examples(tmp_path)] == ["a", "caf\\xe9"]
