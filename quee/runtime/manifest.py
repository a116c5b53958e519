"""`bundle.json`: the description of a bundle, and the checks before its other files are read.

Format 2 added a digest of the description, preprocessing and exported graphs; format 3 added a canary; in format 4 exit
heads may have a hidden layer and read a grid; in format 5 exits may answer with ensembles of the heads visited; in format 6
an operating point names its policy, and says what serves a budget and what it loses to the float network, in points, as
guarantees do; predictors may start from confidence; in format 7 there are graphs of the gates, for other runtimes
(docs/bundle-format.md). Bundles of older formats are read through migrations. The digests show
damage and mix-ups, but not who made a bundle, because anyone who can write a bundle can write digests that agree. Trust
comes from the place where a bundle is kept, or from comparing `digest` with a known digest.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from quee.data.preprocessing import Preprocessing
from quee.ensembles import FILE as ENSEMBLES
from quee.errors import IntegrityError
from quee.measure import Name
from quee.policies.registry import deployable
from quee.runtime.links import check_plain
from quee.runtime.operating import Guarantee, Point, Positive
from quee.work.io import file_digest, json_bytes, verify_digests, write_bytes
from quee.work.registry import unknown

NAME = "bundle.json"
CANARY = "canary.safetensors"
FORMAT = 7
MAX_BYTES = 16 << 20
"""Largest size of a description."""
_FILE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*")
_SUFFIXES = (".json", ".md", ".onnx", ".safetensors")

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _deployable(name: str) -> str:
    if name not in (valid := deployable()):
        raise ValueError(unknown("policy", name, sorted(valid)))
    return name


class Manifest(_Strict):
    """The description of a bundle, of the current format."""

    format: Literal[7]
    experiment: str
    budget: Positive
    canary: bool
    """Whether there is a canary to compare engines with; false in formats 1 and 2."""
    ensembles: bool
    """Whether exits answer with ensembles of the heads visited; false before format 5."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    embedding: bool
    measure: Name = "accuracy"
    """What the points' `accuracy` is: of answers as labelled, or as the float network's own."""
    policy: Annotated[str, AfterValidator(_deployable)]
    preprocessing: Preprocessing | None
    """None in format 1, which uses the backbone's own."""
    operating_points: Annotated[tuple[Point, ...], Field(min_length=1)]
    guarantees: tuple[Guarantee, ...] = ()
    """Empty if the experiment has no certification split."""
    precision_files: dict[str, str]
    graphs: dict[str, tuple[str, ...]]
    """Exported graphs by precision, in the order of the segments."""
    gates: dict[str, tuple[str, ...]]
    """Graphs of the gates by policy that decides, in the order of the gates; empty before format 7."""
    files: dict[str, Digest]
    """SHA-256 of every other file by name."""
    digest: Digest | None = None
    """SHA-256 of this description without this entry; None in format 1."""

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        for name in self.files:
            if not _FILE.fullmatch(name) or not name.endswith(_SUFFIXES) or name == NAME:
                raise ValueError(f"file name {name!r} is not allowed")
        graphs = (*self.graphs.values(), *self.gates.values())
        named = {*self.precision_files.values(), *(name for names in graphs for name in names)}
        if missing := sorted(named - set(self.files)):
            raise ValueError(f"{missing[0]!r} is not among its files")
        if self.canary != (CANARY in self.files):
            raise ValueError(f"canary is {self.canary}, which {CANARY} contradicts")
        if self.ensembles != (ENSEMBLES in self.files):
            raise ValueError(f"ensembles is {self.ensembles}, which {ENSEMBLES} contradicts")
        for point in self.operating_points:
            _deployable(point.policy)
        costs = [point.cost for point in self.operating_points]
        if costs != sorted(costs):
            raise ValueError("operating_points do not rise in cost")
        for number, point in enumerate(self.operating_points):
            if point.taken is not None and point.taken > number:
                raise ValueError(f"operating point {number} is served by {point.taken}, which costs more")
        return self


def _from_1(value: dict[str, Any]) -> dict[str, Any]:
    if extra := {"digest", "graphs", "preprocessing"} & set(value):
        raise IntegrityError(f"format 1 has no {min(extra)}")
    return {**value, "format": 2, "graphs": {}, "preprocessing": None, "digest": None}


def _from_2(value: dict[str, Any]) -> dict[str, Any]:
    if "canary" in value:
        raise IntegrityError("format 2 has no canary")
    return {**value, "format": 3, "canary": False}


def _from_3(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "format": 4}


def _from_4(value: dict[str, Any]) -> dict[str, Any]:
    if "ensembles" in value:
        raise IntegrityError("format 4 has no ensembles")
    return {**value, "format": 5, "ensembles": False}


def _from_5(value: dict[str, Any]) -> dict[str, Any]:
    points = value.get("operating_points")
    if any({"policy", "taken", "accuracy_loss"} & set(point) for point in _mappings(points)):
        raise IntegrityError("in format 5 no operating point names a policy, serves others or knows what it loses")
    found = {**value, "format": 6}
    if isinstance(points, list):
        found["operating_points"] = [{**p, "policy": value.get("policy")} if isinstance(p, dict) else p for p in points]
    if isinstance(given := value.get("guarantees"), list):
        found["guarantees"] = [_in_points(g) if isinstance(g, dict) else g for g in given]
    return found


def _from_6(value: dict[str, Any]) -> dict[str, Any]:
    if "gates" in value:
        raise IntegrityError("format 6 has no gates")
    return {**value, "format": 7, "gates": {}}


def _mappings(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; anything else is refused later, when the description is validated."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _in_points(guarantee: dict[str, Any]) -> dict[str, Any]:
    limit = guarantee.get("limit")
    if guarantee.get("what") != "accuracy_loss" or not isinstance(limit, int | float):
        return guarantee
    return {**guarantee, "limit": 100 * limit, "reference": HIGHEST}


HIGHEST = "the static network at the tree's highest precision"
"""What guarantees of accuracy referred to before format 6, in shares of accuracy."""
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4, 5: _from_5, 6: _from_6,
}  # fmt: skip
"""Format to the migration of its description to the next format."""


def require_fit(good: bool, where: Path, what: str) -> None:
    """Raises IntegrityError naming a file of the bundle unless something holds."""
    if not good:
        raise IntegrityError(f"{where}: {what}")


def own_digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes({key: v for key, v in value.items() if key != "digest"})).hexdigest()


def seal(folder: Path, description: dict[str, Any]) -> None:
    """Write `bundle.json` for a folder: `description` with format, digests of all files, and a digest of itself."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != NAME}
    value = {**description, "files": files, "format": FORMAT}
    write_bytes(folder / NAME, json_bytes({**value, "digest": own_digest(value)}))


def read_manifest(folder: Path) -> Manifest:
    """The description of a bundle, migrated to the current format; no other file is read.

    Raises IntegrityError with the reason where it is missing, not a plain file, of another format, altered or
    inconsistent.
    """
    if not (folder.is_dir() and os.path.lexists(folder / NAME)):
        raise IntegrityError(no_bundle(folder))
    path = folder / NAME
    value = _read(path)
    number = value.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number not in (*MIGRATIONS, FORMAT):
        valid = ", ".join(map(str, sorted({*MIGRATIONS, FORMAT})))
        hint = "update quee" if isinstance(number, int) and number > FORMAT else "make the bundle anew with `quee run`"
        raise IntegrityError(f"{folder}: bundle format {number!r}; this version reads {valid}: {hint}")
    if number > 1 and value.get("digest") != own_digest(value):
        raise IntegrityError(f"{path}: its own digest does not fit; the description was altered")
    try:
        for step in range(number, FORMAT):
            value = MIGRATIONS[step](value)
        return Manifest.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise IntegrityError(f"{path}: {where + ': ' if where else ''}{reason}") from None
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from None


def no_bundle(folder: Path) -> str:
    """What is said of a place that holds no bundle: what one is, and those that are near."""
    if folder.is_dir():
        what = f"{folder} holds no bundle: it has no {NAME}"
    elif folder.name == NAME and folder.is_file():
        return f"{folder} describes a bundle; give the folder that it lies in: {folder.parent}"
    else:
        what = f"no bundle at {folder}: {'that is a file' if folder.exists() else 'there is no such folder'}"
    near = nearby(folder)
    found = f"; near by: {', '.join(map(str, near))}" if near else ""
    return f"{what}. A bundle is the folder that `quee.fit` or stage `bundle` of `quee run` writes{found}"


def nearby(folder: Path, most: int = 3) -> list[Path]:
    """Bundles in the usual places around a folder and around the working directory, at most so many."""
    places = [
        path
        for base in (folder, folder.parent, Path())
        for pattern in ("*", "*/bundle", "artifacts/*/bundle")
        for path in sorted(base.glob(f"{pattern}/{NAME}"))
    ]
    return list({path.resolve(): path.parent for path in places}.values())[:most]


def _read(path: Path) -> dict[str, Any]:
    facts = check_plain(path)
    if facts.st_size > MAX_BYTES:
        raise IntegrityError(f"{path} has {facts.st_size:,} bytes; a description has at most {MAX_BYTES:,}")
    data = path.read_bytes()
    try:
        value = json.loads(data.decode())
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        same = json_bytes(value) == data
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not a bundle's description: {path} ({error})") from None
    if not same:  # so that every byte counts, even those that JSON ignores
        raise IntegrityError(f"{path}: not in the form it was written in")
    return value


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises IntegrityError naming a file that is missing, unexpected, not a plain file, or altered."""
    present = set()
    for entry in sorted(folder.iterdir()):
        check_plain(entry)
        present.add(entry.name)
    expected = {*manifest.files, NAME}
    if present != expected:
        names = [f"{name} ({'missing' if name in expected else 'left over'})" for name in sorted(present ^ expected)]
        raise IntegrityError(f"{folder}: {', '.join(names[:5])}")
    verify_digests(folder, manifest.files)
