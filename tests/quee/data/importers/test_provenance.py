"""Names of sources that last."""

import gzip
from pathlib import Path

import pytest

from quee.data.importers.provenance import lasting, package_of

ENTRY = b"dataset-fashion-mnist (0.0~git20200523.55506a9-1) unstable; urgency=medium\n\n  * Own entry.\n"


def unpacked(root: Path, content: bytes) -> Path:
    """A folder as `dpkg-deb -x` leaves it."""
    source, about = root / "usr/share/datasets/fashion-mnist", root / "usr/share/doc/dataset-fashion-mnist"
    source.mkdir(parents=True)
    about.mkdir(parents=True)
    (about / "changelog.Debian.gz").write_bytes(content)
    return source


def test_a_package_that_was_unpacked_aside_is_named_with_its_version(tmp_path: Path) -> None:
    source = unpacked(tmp_path, gzip.compress(ENTRY))
    assert lasting(source) == package_of(source) == "Debian's package dataset-fashion-mnist 0.0~git20200523.55506a9-1"


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(ENTRY)[:20], gzip.compress(b"other text\n"), b"plain"],
    ids=["empty", "truncated", "other", "plain"],
)
def test_without_a_readable_changelog_the_own_name_is_told(tmp_path: Path, content: bytes) -> None:
    source = unpacked(tmp_path, content)
    assert package_of(source) is None
    assert lasting(source) == "fashion-mnist"


def test_a_folder_that_lasts_is_told_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert lasting(tmp_path / "mine") == str(tmp_path / "mine")
    assert lasting(tmp_path / "temporary" / "tmp.x" / "mine") == "mine"
