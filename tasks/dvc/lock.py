"""Results in `dvc.lock`, now or at a revision: stages, experiments, their digests and files."""

import configparser
import functools
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from quee.errors import IntegrityError, QueeError, UsageError
from quee.settings.sets import DATASET
from quee.settings.text import read_text as read_utf8
from quee.settings.text import yaml_fault
from quee.work.io import canonical
from quee.work.registry import unknown
from tasks.dvc.dependencies import code_file
from tasks.dvc.experiments import FILE as PARAMS
from tasks.dvc.experiments import other_shape
from tasks.resolved import settings_file
from tasks.stages import SETTINGS
from tasks.work.published import FOLDER

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

ABLATIONS = "ablations/dvc.lock"


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


@dataclass(frozen=True, eq=False)
class StageResult:
    """One stage's entry in `dvc.lock`."""

    experiment: str
    stage: str
    entry: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        return digest_of(self.entry)

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.stage}"

    @property
    def title(self) -> str:
        """Name for people, such as `digits/targets 3f2a91c`."""
        return f"{self.name} {self.digest[:7]}"

    @property
    def folder(self) -> str:
        return f"artifacts/{self.experiment}/{self.stage}"

    @cached_property
    def deps(self) -> dict[str, str]:
        return {dep["path"]: dep.get("md5", "") for dep in self.entry.get("deps", [])}

    @cached_property
    def outs(self) -> dict[str, str]:
        return {out["path"]: out.get("md5", "") for out in self.entry.get("outs", [])}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The recorded settings of the stage's run, by block.

        They include defaults, except in old results whose stages took parameters from the YAML itself.
        """
        params = self.entry.get("params", {})
        found = params.get(settings_file(self.experiment)) or params.get(f"experiments/{self.experiment}.yaml") or {}
        return {block: value for block, value in found.items() if block != DATASET}

    @cached_property
    def code(self) -> dict[str, str]:
        """Digests of code by path, where they were recorded as parameters and not as dependencies."""
        found = self.entry.get("params", {}).get(code_file(self.experiment)) or {}
        return dict(found.get(self.stage) or {})

    @property
    def has_defaults(self) -> bool:
        """Whether the recorded settings include defaults."""
        return settings_file(self.experiment) in self.entry.get("params", {})


@dataclass(frozen=True, eq=False)
class ExperimentResult:
    """The entries of one experiment's stages in `dvc.lock`, in the order of `dvc.yaml`."""

    experiment: str
    stages: dict[str, StageResult]

    @cached_property
    def digest(self) -> str:
        return digest_of({name: result.digest for name, result in self.stages.items()})

    @property
    def title(self) -> str:
        return f"{self.experiment} {self.digest[:7]}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {block: value for result in self.stages.values() for block, value in result.settings.items()}

    @property
    def has_defaults(self) -> bool:
        """Whether the recorded settings include defaults."""
        return all(result.has_defaults for result in self.stages.values())

    @classmethod
    def read(cls, experiment: str, text: str, order: list[str]) -> "ExperimentResult":
        """The experiment's entries in the text of a `dvc.lock`; raises IntegrityError where it has none."""
        try:
            entries = dict((yaml.load(text, Loader=LOADER) or {}).get("stages", {}))
        except (yaml.YAMLError, AttributeError, TypeError, ValueError):
            entries = {}
        found = _by_experiment(entries, order)
        if experiment not in found:
            raise IntegrityError(f"dvc.lock of {experiment} has no entries of it")
        return found[experiment]

    def unfinished(self, expected: list[str]) -> str | None:
        """Why the entries are not one whole result: a stage is missing, or was run on an earlier output of another; or None."""
        missing = [stage for stage in expected if stage not in self.stages]
        if missing:
            return f"not run yet: {', '.join(missing)}"
        made = {path: md5 for result in self.stages.values() for path, md5 in result.outs.items()}
        for result in self.stages.values():
            for path, md5 in result.deps.items():
                if path in made and made[path] != md5:
                    return f"{result.stage} was run on an earlier {path}"
        return None


def read_lock(root: Path, revision: str | None = None) -> dict[str, ExperimentResult]:
    """The experiments in `dvc.lock`, of the working tree or of a git revision; empty without such a file.

    Stage `settings` is left out, because every stage's entry holds its own settings.
    """
    return _by_experiment(_entries(root, "dvc.lock", revision), stage_names(root, revision))


def _by_experiment(entries: dict[str, dict[str, Any]], order: list[str]) -> dict[str, ExperimentResult]:
    found: dict[str, dict[str, StageResult]] = {}
    for name, entry in sorted(entries.items(), key=lambda item: _rank(item[0].partition("@")[0], order)):
        stage, _, experiment = name.partition("@")
        if experiment and stage != SETTINGS:
            found.setdefault(experiment, {})[stage] = StageResult(experiment, stage, entry)
    return {name: ExperimentResult(name, found[name]) for name in sorted(found)}


def read_ablations(root: Path) -> dict[str, StageResult]:
    """By experiment, the results in `ablations/dvc.lock`; they are not part of an experiment's result."""
    found = {}
    for name, entry in sorted(_entries(root, ABLATIONS).items()):
        stage, _, experiment = name.partition("@")
        if experiment:
            found[experiment] = StageResult(experiment, stage, entry)
    return found


def _entries(root: Path, file: str, revision: str | None = None) -> dict[str, dict[str, Any]]:
    return dict(_content(root, file, revision).get("stages") or {})


def _content(root: Path, file: str, revision: str | None = None) -> dict[str, Any]:
    """The mapping in a YAML file of the project; empty without the file.

    Raises IntegrityError where it is none, and UsageError of params.yaml, which people write.
    """
    refused = UsageError if file == PARAMS else IntegrityError
    try:
        content = yaml.load(read_text(root, file, revision) or "", Loader=LOADER) or {}
    except yaml.YAMLError as error:
        raise refused(f"{file}: {yaml_fault(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("stages") or {}, dict):
        raise refused(f"{file}: expected a mapping, with a mapping under `stages` where it has one")
    return content


def _rank(stage: str, order: list[str]) -> tuple[int, str]:
    return (order.index(stage) if stage in order else len(order), stage)


def stage_names(root: Path, revision: str | None = None) -> list[str]:
    """The stages of `dvc.yaml` per experiment, in its order, without `settings`."""
    stages = (_content(root, "dvc.yaml", revision).get("stages") or {}).items()
    per_experiment = {"foreach", "matrix"}  # older revisions have a matrix of names
    return [
        name for name, stage in stages if isinstance(stage, dict) and per_experiment & set(stage) and name != SETTINGS
    ]


def default_experiments(root: Path) -> list[str]:
    """The experiments named in `params.yaml`."""
    found = _content(root, PARAMS).get("experiments") or []
    if not isinstance(found, dict | list) or not all(isinstance(name, str) for name in found):
        raise other_shape(found)
    return list(found)


def chosen(results: dict[str, ExperimentResult], names: list[str] | None) -> dict[str, ExperimentResult]:
    """The given experiments, all by default; raises UsageError for one without a result."""
    for name in names or []:
        if name not in results:
            raise UsageError(unknown("experiment with results in dvc.lock", name, list(results)))
    return {name: results[name] for name in dict.fromkeys(names or results)}


def out_problem(root: Path, result: StageResult) -> str | None:
    """Why the files on disk are not this result: an output is missing or differs; None where all outputs agree."""
    for out in result.entry.get("outs", []):
        path = root / out["path"]
        if not path.exists():
            return f"{out['path']} is not here"
        files = [path] if path.is_file() else sorted(_files(path))
        if len(files) != out.get("nfiles", len(files)) or sum(f.stat().st_size for f in files) != out.get("size", -1):
            return f"{out['path']} is not what dvc.lock records"
        if dvc_digest(path) != out.get("md5"):
            return f"{out['path']} is not what dvc.lock records"
    return None


def dvc_digest(path: Path) -> str:
    """DVC's MD5 of a file, or of a folder (ending in `.dir`)."""
    if path.is_file():
        return _md5(path)
    records = [{"md5": md5, "relpath": name} for name, md5 in listing(path).items()]
    return hashlib.md5(json.dumps(records, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def listing(folder: Path) -> dict[str, str]:
    """MD5 of every file of a folder by its name inside, sorted, in DVC's form."""
    files = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    return {name: _md5(files[name]) for name in sorted(files)}


def _files(folder: Path) -> list[Path]:
    walk = ((Path(where), names) for where, _, names in os.walk(folder))
    return [where / name for where, names in walk if "__pycache__" not in where.parts for name in names]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def git(root: Path, *arguments: str) -> str | None:
    """The output of a git command, or None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return None
    return done.stdout


def ignored_by(root: Path, path: Path) -> str | None:
    """The rule by which git ignores a path, with its file and line; None where git does not, or there is no git."""
    found = git(root, "check-ignore", "--verbose", "--no-index", "--", path.as_posix())
    if not found:
        return None
    file, line, rule = found.partition("\t")[0].split(":", 2)
    return None if rule.startswith("!") else f"the rule {rule!r} ({file}, line {line})"


def read_text(root: Path, path: str, revision: str | None = None) -> str | None:
    """Content of a file of the working tree or of a git revision; None where it does not exist."""
    if revision is not None:
        return git(root, "show", f"{revision}:./{path}")
    file = root / path
    return read_utf8(file, path) if file.is_file() else None


def is_revision(root: Path, name: str) -> bool:
    return git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") is not None


def read_out(root: Path, result: StageResult, name: str, here: bool) -> bytes | None:
    """File `name` of a stage's folder: from the working tree if `here`, else from DVC's cache, a remote folder on this
    machine, or the published results.

    None where the result has no such file; raises QueeError where the result cannot be found.
    """
    if here:
        file = root / result.folder / name
        return file.read_bytes() if file.is_file() else None
    listing = _cached(root, result.outs.get(result.folder, ""))
    if listing is None:
        if (published := _published(root, result)) is not None:
            return (published / name).read_bytes() if (published / name).is_file() else None
        raise QueeError(
            f"{result.title} is neither in DVC's cache nor in a remote on this machine; `dvc fetch` or `quee run` brings it"
        )
    for record in json.loads(listing.read_bytes()):
        if record["relpath"] == name:
            content = _cached(root, record["md5"])
            if content is None:
                raise QueeError(f"{name} of {result.title} is not in DVC's cache; `dvc fetch` or `quee run` brings it")
            return content.read_bytes()
    return None


def out_folder(root: Path, result: StageResult, here: bool, aside: Path) -> Path | None:
    """A folder with the files of a stage's result, to be read: that of the working tree if `here`, else one made in the empty
    folder `aside` of links into DVC's cache or a remote folder on this machine, or the published one.

    None where there is none of them. Of a published result and of an incomplete cache, files are missing.
    """
    if here:
        folder = root / result.folder
        return folder if folder.is_dir() else None
    listing = _cached(root, result.outs.get(result.folder, ""))
    if listing is None:
        return _published(root, result)
    for record in json.loads(listing.read_bytes()):
        if (content := _cached(root, record["md5"])) is not None:
            link = aside / record["relpath"]
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(content.resolve())
    return aside if any(aside.iterdir()) else None


def _published(root: Path, result: StageResult) -> Path | None:
    """The stage's folder among the published results, if this result is the published one."""
    folder = root / FOLDER / result.experiment
    try:
        entry = _stages(folder / "dvc.lock", (folder / "dvc.lock").stat().st_mtime_ns)[
            f"{result.stage}@{result.experiment}"
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    same = StageResult(result.experiment, result.stage, entry).outs == result.outs
    return folder / result.stage if same else None


@functools.cache
def _stages(file: Path, _changed: int) -> dict[str, Any]:
    """The entries of a `dvc.lock`, which takes a tenth of a second to parse and is asked for every stage."""
    found: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=LOADER)["stages"]
    return found


def _cached(root: Path, md5: str) -> Path | None:
    for store in _stores(root):
        file = store / "files" / "md5" / md5[:2] / md5[2:]
        if md5 and file.is_file():
            return file
    return None


def _stores(root: Path) -> list[Path]:
    """DVC's cache and its remotes that are folders on this machine; relative addresses start at `.dvc/`."""
    places = [root / ".dvc" / "cache"]
    for name in ("config", "config.local"):
        parser = configparser.ConfigParser()
        try:
            parser.read(root / ".dvc" / name)
        except configparser.Error:
            continue
        if parser.has_option("cache", "dir"):
            places.insert(0, root / ".dvc" / parser["cache"]["dir"])
        urls = [parser[section].get("url", "") for section in parser.sections() if "remote" in section]
        places += [root / ".dvc" / url for url in urls if url and "://" not in url]
    return places
