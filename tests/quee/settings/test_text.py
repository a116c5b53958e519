"""Text files that people write: another encoding is an error that names the file, a byte-order mark is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quee.errors import UsageError
from quee.settings.experiment import load_experiment
from quee.settings.text import read_text
from tasks.dvc.experiments import listed_experiments
from tasks.dvc.lock import default_experiments
from tasks.scale import read_scale

READERS = {
    ".quee/scale.yaml": lambda root: read_scale({}, root / ".quee/scale.yaml"),
    "params.yaml": listed_experiments,
    "params.yaml, as results read it": default_experiments,
    "experiments/own.yaml": lambda root: load_experiment("own", root / "experiments"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_in_another_encoding_is_named_with_its_first_strange_byte(tmp_path: Path, name: str) -> None:
    file = tmp_path / name.partition(",")[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(UsageError, match=rf"{file.name}: not UTF-8 text \(byte 0xf6 at position 4\): save it in UTF-8"):
        READERS[name](tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\n", encoding="utf-8-sig")
    assert read_text(tmp_path / "x.yaml") == "a: 1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiments: digits\n", "expected a mapping from names to data and weights; got 'digits'"),
        ("experiments: [1]\n", "expected a mapping from names"),
        ("- digits\n", "expected a mapping"),
        ("experiments: [digits\n  x: {\n", r"params.yaml: not YAML: line 2: "),
    ],
)
@pytest.mark.parametrize("reader", [listed_experiments, default_experiments])
def test_a_list_of_experiments_of_another_shape_is_refused_by_whoever_reads_it(
    tmp_path: Path, reader: Callable[[Path], object], text: str, said: str
) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        reader(tmp_path)
