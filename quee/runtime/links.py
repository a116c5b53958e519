"""A bundle's folder may hold plain files, and links that DVC made of them.

With `cache.type symlink` DVC keeps a result's files in its cache and puts links in their places. Such a link is followed
when the bundle lies in a DVC project and the link leads to an object of that project's cache. Any other link could lead
anywhere on the machine and is refused.
"""

import configparser
import contextlib
import os
import re
import stat
from pathlib import Path

from quee.errors import IntegrityError

OBJECT = re.compile(r"(?:files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")
"""Form of the path of a file's content in DVC's cache."""


def check_plain(path: Path) -> os.stat_result:
    """Facts of a bundle's file; raises IntegrityError where it is missing, not a file, or a link to another place."""
    try:
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            _check_link(path)
            facts = path.stat()
    except OSError:
        raise IntegrityError(f"missing file: {path}") from None
    if not stat.S_ISREG(facts.st_mode):
        raise IntegrityError(f"{path} is not a plain file")
    return facts


def _check_link(path: Path) -> None:
    target, cache = Path(os.path.realpath(path)), project_cache(path.parent)
    if cache is None or not target.is_relative_to(cache) or not OBJECT.fullmatch(str(target.relative_to(cache))):
        where = f"into the project's DVC cache ({cache})" if cache else "into a DVC cache: it lies in no DVC project"
        raise IntegrityError(f"{path} is not a plain file, but a link to {target}, which does not lead {where}")
    if not target.exists():
        raise IntegrityError(
            f"{path} is not a plain file, but a link to {target}, which is gone: `quee run` restores it"
        )


def project_of(folder: Path) -> Path | None:
    """The folder `.dvc` of the DVC project that a folder lies in; None outside of projects."""
    places = (folder.absolute(), *folder.absolute().parents, *folder.resolve().parents)
    return next((place / ".dvc" for place in places if (place / ".dvc").is_dir()), None)


def project_cache(folder: Path) -> Path | None:
    """The cache of the DVC project that a folder lies in, resolved; None outside of projects."""
    project = project_of(folder)
    if project is None:
        return None
    found = project / "cache"
    for file in (
        *_user_configs(),
        project / "config",
        project / "config.local",
    ):  # the last setting that is given counts
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read(file, encoding="utf-8")
        if said := parser.get("cache", "dir", fallback=""):
            found = file.parent / said
    return found.resolve()


def _user_configs() -> list[Path]:
    """DVC's settings of the machine and of the user."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    folders = [
        os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc",
        os.environ.get("DVC_GLOBAL_CONFIG_DIR") or f"{home}/dvc",
    ]
    return [Path(folder) / "config" for folder in folders]
