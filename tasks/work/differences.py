"""The differences between a checkout and its commit, as a patch for `git apply` that is kept with results."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from quee.work.io import write_bytes

PATCHES = Path(".quee") / "patches"
LIMIT = 1_000_000
"""Most bytes of differences that are kept."""

NONE = "none"
LEFT_OUT = (":(exclude)dvc.lock", ":(exclude)remote", ":(exclude)reference.dvc")
"""Files outside of the patch: entries of `dvc.lock` are kept anyway, and published results change no other result."""


@dataclass(frozen=True)
class Snapshot:
    """The commit checked out and the patch from it to the working tree."""

    commit: str
    patch: str
    """Name of the patch in `.quee/patches`, `none` without differences, or why the patch was not kept."""

    @property
    def dirty(self) -> bool:
        return self.patch != NONE


def snapshot(root: Path) -> Snapshot | None:
    """Keep the present differences; None outside git or before the first commit."""
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    index = _git(root, "rev-parse", "--git-path", "index")
    if commit is None or index is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "index"  # new files are added to a copy of the index
        if (root / index.decode().strip()).is_file():
            shutil.copyfile(root / index.decode().strip(), aside)
        environment = {**os.environ, "GIT_INDEX_FILE": str(aside)}
        new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", ".", *LEFT_OUT) or b""
        size = sum(_size(root / os.fsdecode(name)) for name in new.split(b"\0") if name)
        if size > LIMIT:
            return Snapshot(commit.decode().strip(), _too_large(size))
        if new:
            _git(root, "add", "--intent-to-add", "--", ".", *LEFT_OUT, environment=environment)
        patch = _git(root, "diff", "--binary", "--no-ext-diff", "HEAD", "--", ".", *LEFT_OUT, environment=environment)
    return Snapshot(commit.decode().strip(), _keep(root, patch or b""))


def read_patch(root: Path, name: str) -> bytes | None:
    """The content of a kept patch; None for an unknown name."""
    file = root / PATCHES / f"{name}.patch"
    return file.read_bytes() if name.isalnum() and file.is_file() else None


def _keep(root: Path, patch: bytes) -> str:
    if not patch:
        return NONE
    if len(patch) > LIMIT:
        return _too_large(len(patch))
    name = hashlib.sha256(patch).hexdigest()[:32]
    file = root / PATCHES / f"{name}.patch"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, patch)
    return name


def _too_large(size: int) -> str:
    return f"not kept: {size:,} bytes, more than {LIMIT:,}"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _git(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
