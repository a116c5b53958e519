"""Published results: one archive per experiment in `reference/`, unpacked into `.quee/reference/` for whoever reads them.

An archive is a sixth of the files it holds, so that the embedded remote has room for weights.
"""

import lzma
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

from quee.errors import IntegrityError
from quee.work.io import file_digest, write_bytes

ARCHIVES = Path("reference")
POINTER = Path("reference.dvc")
FOLDER = Path(".quee") / "reference"
"""Where archives are unpacked: `EXPERIMENT/STAGE/…`, `EXPERIMENT/dvc.lock`, `EXPERIMENT/made.json`."""
SUFFIX = ".tar.xz"
MOST_UNPACKED = 64 << 20
"""Largest size in bytes of what is unpacked from one archive."""
_DIGEST = ".digest"


def archive_of(root: Path, experiment: str) -> Path:
    return root / ARCHIVES / (experiment + SUFFIX)


def published(root: Path) -> list[str]:
    """The experiments with published results here."""
    return sorted(file.name.removesuffix(SUFFIX) for file in (root / ARCHIVES).glob(f"[!.]*{SUFFIX}"))


def evaluated(base: Path) -> list[str]:
    """The experiments with results of stage `evaluate` in a folder, sorted."""
    return sorted(file.parent.parent.name for file in base.glob("*/evaluate/metrics.json"))


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder into an archive, whole or not at all; the same files give the same bytes."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(file.relative_to(folder).as_posix())
            member.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(member, content)
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(archive, lzma.compress(packed.getvalue(), preset=9))


def unpack(root: Path) -> None:
    """Make `.quee/reference/` hold what the archives hold; those unpacked before are left as they are.

    Raises IntegrityError for an archive that is damaged, that is too large or that holds more than plain files.
    """
    from tasks.work.locks import exclusive

    with exclusive("published", f"{FOLDER}/", root=root):
        for name in published(root):
            _unpack(archive_of(root, name), root / FOLDER / name)
        for folder in (root / FOLDER).glob("*"):
            if not archive_of(root, folder.name).is_file():
                shutil.rmtree(folder)


def _unpack(archive: Path, folder: Path) -> None:
    digest = file_digest(archive)
    if (folder / _DIGEST).is_file() and (folder / _DIGEST).read_text() == digest:
        return
    aside = folder.with_name(f".{folder.name}.aside")
    for old in (aside, folder):
        shutil.rmtree(old, ignore_errors=True)
    try:
        with lzma.open(archive) as packed:
            content = packed.read(MOST_UNPACKED + 1)
        if len(content) > MOST_UNPACKED:
            raise IntegrityError(f"{archive}: more than {MOST_UNPACKED:,} bytes unpacked")
        with tarfile.open(fileobj=BytesIO(content)) as tar:
            if other := next((member.name for member in tar if not member.isfile()), None):
                raise IntegrityError(f"{archive}: {other!r} is no plain file")
            tar.extractall(aside, filter="data")
    except (lzma.LZMAError, tarfile.TarError, tarfile.FilterError, EOFError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise IntegrityError(f"{archive} is damaged: {error}; `dvc pull -f {POINTER}` brings it") from None
    (aside / _DIGEST).write_text(digest)
    aside.rename(folder)
