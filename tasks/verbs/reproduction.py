"""The verb `quee reproduce`: make a tracked result again in a temporary git worktree, and compare the digests.

The worktree gets the result's recorded commit, uncommitted differences, settings and `dvc.lock` entries. With
`--from STAGE` the earlier stages do not run: their recorded outputs are taken from DVC's cache or a remote.
"""

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
from typing import Annotated, Any

import typer
import yaml

from quee.cli import AsJson
from quee.errors import IntegrityError, QueeError, UsageError
from quee.settings.experiment import read_content
from quee.work.counts import counted
from quee.work.io import write_bytes
from tasks.dvc.dependencies import code_file, digest
from tasks.dvc.experiments import put_right
from tasks.dvc.lock import StageResult, dvc_digest, git, read_lock
from tasks.mlflow.journal import COMMIT, DIFFERENCES, PATCH
from tasks.mlflow.memory import Memory, named
from tasks.mlflow.store import MADE
from tasks.verbs.lineage import find_run
from tasks.work.differences import NONE

Tell = Callable[[str], None]
CACHE = "quee-reproduce-cache"
"""Name of the remote by which the worktree reads this checkout's cache."""


@dataclass(frozen=True)
class Compared:
    """One stage: the recorded and the new digests of its outputs."""

    stage: str
    recorded: dict[str, str]
    now: dict[str, str]
    seconds: float

    @property
    def equal(self) -> bool:
        return self.recorded == self.now


@dataclass(frozen=True)
class Reproduced:
    """The stages that were run again, and the origin of each result that was taken instead."""

    compared: list[Compared]
    taken: dict[str, str]


@dataclass(frozen=True)
class _Recorded:
    """The inputs of a run, from its artifacts."""

    experiment: str
    entries: dict[str, dict[str, Any]]
    """`dvc.lock` entries by stage, in the order in which they ran."""
    settings: bytes
    codes: list[tuple[str, bytes, str]]
    """Candidates for the code: commit, patch, and where it was recorded."""
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
        """A copy with all stages chosen, or `start` and the stages that depend on it. Raises UsageError for an unknown stage."""
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
        """The stages whose results are read but not made again."""
        read = {other for stage in self.chosen for other in self.reads(stage)}
        return [stage for stage in self.entries if stage in read - set(self.chosen)]


def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="MLflow run id, or a file under artifacts/ or in a bundle.")
    ],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Take what comes before from DVC's cache or a remote."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the worktree where it is.")] = False,
    json_: AsJson = False,
) -> None:
    """Make a result again from what is remembered of it, in a temporary worktree; exit 4 when a digest differs."""
    root = Path.cwd()
    run_id = find_run(Memory(root), name)
    made = make_again(root, run_id, lambda message: typer.echo(message, err=json_), keep, start)
    compared = made.compared
    differing = [c.stage for c in compared if not c.equal]
    if json_:
        stages = [{"stage": c.stage, "equal": c.equal, "recorded": c.recorded, "now": c.now} for c in compared]
        found = {"run": run_id, "equal": not differing, "stages": stages, "taken": made.taken}
        typer.echo(json.dumps(found, indent=1))
    if differing:
        raise IntegrityError(
            f"{len(differing)} of {counted(len(compared), 'stage')} came out with other digests: {', '.join(differing)} "
            "(another processor or other library versions give other last bits; `quee lineage` has those of the run)"
        )
    if not json_:
        rest = f"; taken as recorded: {', '.join(made.taken)}" if made.taken else ""
        typer.echo(f"the recorded digests came out of {counted(len(compared), 'stage')}{rest}")


def make_again(root: Path, run_id: str, tell: Tell, keep: bool = False, start: str | None = None) -> Reproduced:
    """Run a tracked result again, with everything it depends on, and compare each stage's digests.

    With `start`, stages before it do not run: their results are taken from this checkout's DVC cache or a remote. `tell`
    is called with each line of progress. Raises UsageError where the run, its commit or its differences are missing, and
    IntegrityError where no state of the code has the recorded digests, or a result to be taken is missing.
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
    experiment = memory.facts(run)["quee.experiment"]
    entries: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    for stage in map(memory.result, chain):
        entries[stage.stage] = stage.entry
        settings |= stage.settings
    path = f"experiments/{experiment}.yaml"
    said = read_content((memory.artifact(run, path) or b"{}").decode(), path)
    text = json.dumps({**said, **settings}, indent=1).encode()  # all readers of YAML agree on JSON
    codes: list[tuple[str, bytes, str]] = []
    missing = []
    for source in (run, *reversed(chain)):
        tags = memory.facts(source)
        commit, patch = tags.get(COMMIT), tags.get(PATCH, NONE)
        content = b"" if patch == NONE else memory.artifact(source, DIFFERENCES)
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
    return _Recorded(experiment, entries, text, codes, named(chain[-1].data.tags, MADE).get("threads.torch"))


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
    _copy_inputs(root, tree, recorded)  # after `git clean`, which would remove them
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
    """The first file of code whose digest differs from the recorded one; data and weights are checked when they are read."""
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
    """Recorded digests of the data set and weights by path: of the files themselves, or of links to them."""
    deps = [dep for stage in recorded.chosen for dep in recorded.entries[stage].get("deps", [])]
    return {dep["path"]: dep["md5"] for dep in deps if str(dep["path"]).startswith(("data/", "experiments/"))}


def _copy_inputs(root: Path, tree: Path, recorded: _Recorded) -> None:
    """Copy data and weights from this checkout if they have the recorded digests; the others are pulled later."""
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
    """Give the worktree the remotes of this clone's `config.local`, and this clone's cache as one more remote."""
    from tasks.dvc.process import run_dvc

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
    """Bring a recorded result into the worktree; returns its origin. Raises IntegrityError if no place has it."""
    from tasks.dvc.process import run_dvc

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
        os.environ["OMP_NUM_THREADS"] = recorded.threads  # the last bits depend on the number of threads
    found = []
    name = recorded.experiment
    with dvc.session(tree, [name], force=True, notify=tell, stages=recorded.chosen) as session:
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
