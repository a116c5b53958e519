"""A tracked result made again: its commit, uncommitted differences, settings and `dvc.lock` entries in a worktree of
their own, run by force, and the digests compared. All of it, or from a stage on: then what that rests on is taken as
recorded from DVC's cache or a remote."""

import configparser
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from quee.errors import IntegrityError, QueeError, UsageError
from quee.settings.experiment import read_content
from quee.work.io import write_bytes
from tasks.dvc.dependencies import code_file, digest
from tasks.dvc.experiments import put_right
from tasks.dvc.lock import StageResult, dvc_digest, git, read_lock
from tasks.mlflow.journal import COMMIT, PATCH
from tasks.mlflow.memory import MADE, Memory, named
from tasks.verbs.differences import NONE

Tell = Callable[[str], None]
CACHE = "quee-reproduce-cache"
"""Name of the remote by which a worktree sees its checkout's cache."""


@dataclass(frozen=True)
class Compared:
    """One stage: the digests of its outputs as recorded and as they came out now."""

    stage: str
    recorded: dict[str, str]
    now: dict[str, str]
    seconds: float

    @property
    def equal(self) -> bool:
        return self.recorded == self.now


@dataclass(frozen=True)
class Reproduced:
    """What was run again, and which results it rests on were not but taken from where."""

    compared: list[Compared]
    taken: dict[str, str]


@dataclass(frozen=True)
class _Recorded:
    """What a run's artifacts say that made it."""

    experiment: str
    entries: dict[str, dict[str, Any]]
    """`dvc.lock` entries by stage, in the order in which they ran."""
    settings: bytes
    codes: list[tuple[str, bytes, str]]
    """Candidates for the code: commit, patch, where it was remembered."""
    threads: str | None
    chosen: tuple[str, ...] = ()
    """The stages that are run again."""

    def folder(self, stage: str) -> str:
        return f"artifacts/{self.experiment}/{stage}"

    def reads(self, stage: str) -> set[str]:
        """The stages whose results a stage reads."""
        deps = {str(dep["path"]) for dep in self.entries[stage].get("deps", [])}
        return {other for other in self.entries if self.folder(other) in deps}

    def starting(self, start: str | None) -> "_Recorded":
        """With every stage chosen, or `start` and what rests on it. Raises UsageError where it is not among them."""
        if start is None:
            return replace(self, chosen=tuple(self.entries))
        if start not in self.entries:
            raise UsageError(f"--from {start}: the run rests on {', '.join(self.entries)}")
        chosen = [start]
        for stage in self.entries:
            if stage != start and self.reads(stage) & set(chosen):
                chosen.append(stage)
        return replace(self, chosen=tuple(chosen))

    @property
    def given(self) -> list[str]:
        """The stages whose results are read and not made."""
        read = {other for stage in self.chosen for other in self.reads(stage)}
        return [stage for stage in self.entries if stage in read - set(self.chosen)]


def reproduce(root: Path, run_id: str, tell: Tell, keep: bool = False, start: str | None = None) -> Reproduced:
    """Run a tracked result again, with everything it rests on, and compare each stage's digests.

    From the stage `start` on, if one is named: the results before it are taken from the DVC cache of this checkout, or
    from a remote. Raises UsageError when the run, its commit or differences cannot be had, IntegrityError when no
    remembered state of the code has the digests that the run recorded, or a result to be taken is not to be had.
    """
    recorded = _remembered(root, run_id).starting(start)
    with _worktree(root, recorded.codes[0][0], keep, tell) as tree:
        _restore(root, tree, recorded, tell)
        taken = {stage: _take(root, tree, recorded, stage, tell) for stage in recorded.given}
        return Reproduced(_run_again(tree, recorded, tell), taken)


def _remembered(root: Path, run_id: str) -> _Recorded:
    memory = Memory(root)
    run = memory.run(run_id)
    chain = memory.upstream(run)
    experiment = run.data.tags["quee.settings.experiment"]
    entries: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    for stage in chain:
        content = yaml.safe_load(memory.artifact(stage, "dvc.lock") or b"") or {}
        entry = content[f"{stage.data.tags['quee.stage']}@{experiment}"]
        entries[stage.data.tags["quee.stage"]] = entry
        settings |= StageResult(experiment, stage.data.tags["quee.stage"], entry).settings
    path = f"experiments/{experiment}.yaml"
    said = read_content((memory.artifact(run, path) or b"{}").decode(), path)
    text = json.dumps({**said, **settings}, indent=1).encode()  # JSON is YAML that no reader takes otherwise
    codes: list[tuple[str, bytes, str]] = []
    missing = []
    for source in (run, *reversed(chain)):
        tags = source.data.tags
        commit, patch = tags.get(COMMIT), tags.get(PATCH, NONE)
        content = b"" if patch == NONE else memory.artifact(source, "uncommitted.patch")
        if commit is None or content is None:
            missing.append(
                f"{source.info.run_name}: {'made outside git' if commit is None else f'differences {patch}'}"
            )
        elif (commit, content) not in [(c, p) for c, p, _ in codes]:
            codes.append((commit, content, str(source.info.run_name)))
    if not codes:
        raise UsageError(f"the code of run {run_id} cannot be restored: {missing[0]}")
    for commit, _, _ in codes:
        if git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") is None:
            raise UsageError(f"commit {commit} is not in this clone; `git fetch` the branch that has it")
    return _Recorded(experiment, entries, text, codes, named(chain[-1], MADE).get("threads.torch"))


@contextmanager
def _worktree(root: Path, commit: str, keep: bool, tell: Tell) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="quee-reproduce-"))
    tree = folder / "checkout"
    done = subprocess.run(
        ["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise QueeError(f"git made no worktree of {commit}: {' '.join(done.stderr.split())}")
    try:
        yield tree
    finally:
        if keep:
            tell(f"kept in {tree}; `git worktree remove --force {tree}` takes it away")
        else:
            git(root, "worktree", "remove", "--force", str(tree))
            shutil.rmtree(folder, ignore_errors=True)
            git(root, "worktree", "prune")


def _restore(root: Path, tree: Path, recorded: _Recorded, tell: Tell) -> None:
    name = recorded.experiment
    faults = []
    for commit, patch, source in recorded.codes:
        git(tree, "checkout", "--quiet", "--force", "--detach", commit)
        git(tree, "clean", "--quiet", "--force", "-d")
        if patch:
            done = subprocess.run(["git", "apply", "--binary", "-"], cwd=tree, input=patch, capture_output=True)
            if done.returncode:
                faults.append(f"the differences of {source} do not apply: {' '.join(done.stderr.decode().split())}")
                continue
        if fault := _code_fault(tree, recorded):
            faults.append(fault)
            continue
        tell(f"code: git {commit[:12]}{f' and {len(patch):,} bytes of uncommitted differences' if patch else ''}")
        break
    else:
        raise IntegrityError(f"no remembered state of the code is the one that was recorded: {'; '.join(faults)}")
    _copy_inputs(root, tree, recorded)  # git clean would have taken them away
    _copy_remotes(root, tree)
    write_bytes(tree / "experiments" / f"{name}.yaml", recorded.settings)
    lock = yaml.safe_load((tree / "dvc.lock").read_text(encoding="utf-8")) if (tree / "dvc.lock").is_file() else None
    content = lock or {"schema": "2.0", "stages": {}}
    others = {key: entry for key, entry in content["stages"].items() if key.partition("@")[2] != name}
    own = {f"{stage}@{name}": entry for stage, entry in recorded.entries.items()}
    write_bytes(tree / "dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": {**others, **own}}).encode())
    if "foreach" not in (tree / "dvc.yaml").read_text(encoding="utf-8"):
        raise UsageError(
            f"the dvc.yaml of commit {commit[:12]} is of an earlier form: `quee reproduce` of that commit runs it"
        )
    put_right(tree, [name], tell)


def _code_fault(tree: Path, recorded: _Recorded) -> str | None:
    """The first file of code that is not as it was recorded; data and weights are looked at when they are read."""
    for stage in recorded.chosen:
        recorded_code = recorded.entries[stage].get("params", {}).get(code_file(recorded.experiment), {})
        for path, then in recorded_code.get(stage, {}).items():
            if not (tree / path).is_file():
                return f"{path} is not there"
            if (now := digest(tree, path)) != then:
                return f"{path} has digest {now}, recorded is {then}"
        for dep in recorded.entries[stage].get("deps", []):
            path = str(dep["path"])
            if path.startswith(("artifacts/", "experiments/", "data/")):
                continue
            if not (tree / path).exists():
                return f"{path} is not there"
            if (now := dvc_digest(tree / path)) != dep["md5"]:
                return f"{path} has digest {now}, recorded is {dep['md5']}"
    return None


def _inputs(recorded: _Recorded) -> dict[str, str]:
    """Digests of the data set and weights that are read, by path: the files themselves, or links that lead to them."""
    deps = [dep for stage in recorded.chosen for dep in recorded.entries[stage].get("deps", [])]
    return {dep["path"]: dep["md5"] for dep in deps if str(dep["path"]).startswith(("data/", "experiments/"))}


def _copy_inputs(root: Path, tree: Path, recorded: _Recorded) -> None:
    """Copy data and weights from this checkout where they are as recorded; the others are pulled later."""
    for path, md5 in _inputs(recorded).items():
        source = (root / path).resolve()
        if not source.exists() or not source.is_relative_to(root.resolve()):
            continue
        target = tree / source.relative_to(root.resolve())
        if target.exists() or dvc_digest(source) != md5:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


def _copy_remotes(root: Path, tree: Path) -> None:
    """The remotes that only this clone knows, and its cache as another: the worktree's own cache goes with it."""
    from tasks.dvc.session import run_dvc

    local, parser = root / ".dvc" / "config.local", configparser.ConfigParser()
    with contextlib.suppress(configparser.Error):
        parser.read(local)
    parser.remove_section("cache")
    for section in parser.sections():
        url = parser[section].get("url", "")
        if "remote" in section and url and "://" not in url:
            parser[section]["url"] = str((root / ".dvc" / url).resolve())
    cache = Path(run_dvc(root, "cache", "dir").out.strip())
    parser[f'remote "{CACHE}"'] = {"url": str((root / cache).resolve()), "verify": "true"}
    with (tree / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        parser.write(file)


def _take(root: Path, tree: Path, recorded: _Recorded, stage: str, tell: Tell) -> str:
    """Bring a recorded result into the worktree; returns from where. Raises IntegrityError where nobody has it."""
    from tasks.dvc.session import run_dvc

    name, folder = f"{stage}@{recorded.experiment}", recorded.folder(stage)
    (md5,) = StageResult(recorded.experiment, stage, recorded.entries[stage]).outs.values()
    reasons = []
    for place, remote in (("DVC's cache here", ["--remote", CACHE]), ("a DVC remote", [])):
        done = run_dvc(tree, "pull", "--force", *remote, name)
        if (tree / folder).is_dir() and dvc_digest(tree / folder) == md5:
            tell(f"  {name:<36} taken from {place} as recorded ({md5[:7]})")
            return place
        reasons.append(f"{place}: {done.reason if done.status else 'it has other content'}")
    raise IntegrityError(
        f"{folder} ({md5}) is neither in DVC's cache of this checkout nor on a remote: "
        f"--from {stage}, or a stage before it, makes it again ({'; '.join(reasons)})"
    )


def _run_again(tree: Path, recorded: _Recorded, tell: Tell) -> list[Compared]:
    from tasks.dvc import session as dvc

    if recorded.threads:
        os.environ["OMP_NUM_THREADS"] = recorded.threads  # more or fewer give other last bits
    found = []
    name = recorded.experiment
    with dvc.session(tree, [name], force=True, show=False, notify=tell, stages=recorded.chosen) as session:
        for path, md5 in _inputs(recorded).items():
            if (here := dvc_digest(tree / path)) != md5:
                raise IntegrityError(f"{path} has digest {here}, recorded is {md5}: nobody has the data of then")
        for step in session.steps:
            outcome = session.execute(step)
            now = read_lock(tree)[name].stages[step.stage].outs
            then = StageResult(name, step.stage, recorded.entries[step.stage]).outs
            found.append(Compared(step.stage, then, now, outcome.seconds))
            tell(f"  {step.name:<36} {'equal' if found[-1].equal else 'DIFFERS':<8}{outcome.seconds:8.1f} s")
    return found
