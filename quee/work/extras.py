"""The extras that quee is installed with: `pip install 'quee[EXTRA]'`. pyproject.toml says which packages each brings."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

from quee.errors import QueeError

DISTRIBUTIONS = {"ruamel": "ruamel.yaml", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules whose distribution has another name."""


def require_package(package: str, what: str, extra: str) -> None:
    """Raises QueeError that names the extra to install where a package is not installed."""
    if find_spec(package) is None:
        raise _needs(what, package, extra)


def missing_extra(error: ModuleNotFoundError, what: str, extra: str | None = None) -> QueeError | None:
    """The error for users behind a failed import: the extra that brings the module, or `extra` where one is given.

    None where no extra of quee brings it.
    """
    module = (error.name or "").partition(".")[0]
    own = extra_of(module)
    return None if own is None else _needs(what, module, extra or own)


def _needs(what: str, package: str, extra: str) -> QueeError:
    return QueeError(f"{what} needs the package {package}: pip install 'quee[{extra}]'")


def extra_of(module: str) -> str | None:
    """The first extra that brings a module; None where none does."""
    wanted = _plain(DISTRIBUTIONS.get(module, module))
    return next((extra for extra, entry in _stated() if extra and _plain(name_of(entry)) == wanted), None)


def distributions(extra: str = "") -> set[str]:
    """The distributions that quee needs with an extra, those of other extras that it takes in included; by default the base."""
    found: set[str] = set()
    for own, entry in _stated():
        if own == extra:
            taken = re.match(r"quee\[([\w,-]+)\]", entry)
            found |= (
                {name for other in taken[1].split(",") for name in distributions(other)} if taken else {name_of(entry)}
            )
    return found


def _stated() -> Iterator[tuple[str, str]]:
    """quee's requirements as its metadata state them, each with its extra; the base's is empty."""
    try:
        found = requires("quee") or []
    except PackageNotFoundError:  # code that was copied without its metadata, as MLflow copies it
        return
    for entry in found:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", entry)
        yield extra[1] if extra else "", entry


def name_of(requirement: str) -> str:
    """The distribution that a requirement names."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
