"""The verb `quee gc`: remove files that no result needs from DVC's cache, resumable work and MLflow's store.

A file is needed if `dvc.lock` or a `.dvc` file names it, here or at a branch or tag, or if it is an input or output of a
result in MLflow.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from quee.cli import AsJson
from quee.errors import QueeError
from quee.work.counts import counted
from tasks.dvc.committing import KEPT
from tasks.dvc.healing import LAST_GOOD, heal
from tasks.dvc.lock import ABLATIONS, git, stage_names
from tasks.dvc.plan import opened
from tasks.mlflow.store import store_lock, tracking_uri
from tasks.mlflow.waste import remove_waste, store_waste
from tasks.partial import PARTIAL, stage_digest
from tasks.stage import SMOKE
from tasks.verbs.rehearsal import PLACE
from tasks.verbs.run import NoWait
from tasks.work.locks import exclusive, say
from tasks.work.space import size_of

MD5 = re.compile(r"\bmd5: ([0-9a-f]{32}(?:\.dir)?)\b")
LISTED = re.compile(rb'"md5": "([0-9a-f]{32})"')


@dataclass
class Waste:
    """What can be removed from one place."""

    place: str
    what: str
    items: list[Path] = field(default_factory=list)
    bytes: int = 0
    count: int = 0
    note: str = ""
    before: Callable[[], None] = field(default=lambda: None, repr=False)
    """Function to call before the items are removed."""

    def add(self, path: Path) -> None:
        self.items.append(path)
        self.count += 1
        self.bytes += size_of(path)

    def remove(self) -> None:
        self.before()
        for path in self.items:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    no_wait: NoWait = False,
    json_: AsJson = False,
) -> None:
    """Say what of DVC's cache, unfinished work and MLflow no current or tracked result needs; --yes removes it.

    Of MLflow, that is runs that were deleted or cut short: `mlflow gc` is called, which removes all that is marked as
    deleted in the project's own store. In a store of others nothing is removed.
    """
    with waste(Path.cwd(), wait=not no_wait) as found:
        if yes:
            for place in found:
                place.remove()
    total = sum(place.bytes for place in found)
    if json_:
        places = [{"place": p.place, "count": p.count, "bytes": p.bytes, "note": p.note} for p in found]
        typer.echo(json.dumps({"removed": yes, "bytes": total, "places": places}, indent=1))
        return
    for place in found:
        what = place.note or (f"{place.what}" if place.count else "nothing that is not needed")
        typer.echo(f"{place.place:<16} {place.count:6,}  {place.bytes / 1e6:10,.1f} MB  {what}")
    typer.echo(
        f"{total / 1e6:,.1f} MB {'removed' if yes else 'can go: `quee gc --yes` removes it' if total else 'can go'}"
    )


@contextmanager
def waste(root: Path, wait: bool = True) -> Iterator[list[Waste]]:
    """What can be removed. This checkout, DVC and the tracking store are locked meanwhile.

    Raises BusyError while DVC is at work, and without `wait` while a run is; UnreachableError where MLflow cannot tell the
    tracked results.
    """
    with exclusive("run", "this checkout", root=root, wait=wait):
        heal(root, say)
        with store_lock(root, tracking_uri(root), say), opened(root) as repo:
            named, store = _tracked_waste(root)
            cache = Path(repo.cache.local.path).parent.parent if repo.cache.local.path.endswith("md5") else None
            own = cache is not None and cache.resolve().is_relative_to(root.resolve())
            found = _cache_waste(cache, needed(root) | named) if own and cache else _shared_cache()
            yield [found, _partial_waste(root), smoke_waste(root), store]


def _tracked_waste(root: Path) -> tuple[set[str], Waste]:
    """The digests in tracked results, and what can be removed from MLflow's store."""
    lost = store_waste(root)
    found = Waste("MLflow", "runs that were deleted or cut short, their models, and files that belong to none")
    for folder in lost.folders:
        found.add(folder)
    found.count += len({run.info.run_id for run in lost.runs} - {folder.name for folder in lost.folders})
    if lost.own:
        found.before = lambda: remove_waste(root, lost) if found.count else None
    elif lost.runs:
        found.note = (
            f"{counted(len(lost.runs), 'run')} can go; where the store is kept: `mlflow gc --backend-store-uri …`"
        )
        found.count = 0
    return lost.named, found


def needed(root: Path) -> set[str]:
    """Digests in `dvc.lock` and `.dvc` files: in the working tree, in copies kept aside, at every branch and tag."""
    found: set[str] = set()
    files = [
        root / "dvc.lock",
        root / ABLATIONS,
        root / LAST_GOOD,
        *(root / KEPT).glob("*.lock"),
        *root.glob("*.dvc"),
        *root.glob("data/**/*.dvc"),
    ]
    for file in files:
        if file.is_file():
            found |= set(MD5.findall(file.read_text(encoding="utf-8", errors="replace")))
    references = (
        git(root, "for-each-ref", "--format=%(objectname)", "refs/heads", "refs/remotes", "refs/tags") or ""
    ).split()
    head = (git(root, "rev-parse", "--verify", "--quiet", "HEAD") or "").split()
    for commit in dict.fromkeys([*head, *references]):
        names = (git(root, "ls-tree", "-r", "--name-only", commit) or "").splitlines()
        for name in names:
            if name in ("dvc.lock", ABLATIONS) or name.endswith(".dvc"):
                found |= set(MD5.findall(git(root, "show", f"{commit}:./{name}") or ""))
    return found


def _cache_waste(cache: Path, keep: set[str]) -> Waste:
    found = Waste("DVC's cache", "files that no result or data set here, at a branch or tag, or in MLflow has")
    objects = cache / "files" / "md5"
    keep = set(keep)
    for name in [name for name in keep if name.endswith(".dir")]:
        listing = objects / name[:2] / name[2:]
        if listing.is_file():
            keep |= {digest.decode() for digest in LISTED.findall(listing.read_bytes())}
    gone = set()
    for file in sorted(objects.glob("[0-9a-f][0-9a-f]/*")):
        digest = file.parent.name + file.name
        if digest not in keep:
            found.add(file)
            gone.add(digest)
    for file in sorted((cache / "runs").rglob("*")):  # they would restore removed outputs
        if file.is_file() and gone & set(MD5.findall(_outs(file))):
            found.add(file)
    return found


def _outs(run: Path) -> str:
    """The outputs in a record of the run cache."""
    return run.read_text(encoding="utf-8", errors="replace").partition("\nouts:")[2]


def _shared_cache() -> Waste:
    return Waste("DVC's cache", "", note="outside this checkout: others may need what is in it; `dvc gc` there")


def _partial_waste(root: Path) -> Waste:
    found = Waste("unfinished work", "shards and checkpoints of runs with other code, settings or data")
    wanted = _wanted(root) if (root / PARTIAL).is_dir() else set()
    for folder in sorted((root / PARTIAL).glob("*/*")):
        if (folder.parent.name, folder.name) not in wanted:
            found.add(folder)
    return found


def _wanted(root: Path) -> set[tuple[str, str]]:
    """(stage, digest) of the work that a run would continue now."""
    from quee.settings.names import experiment_names

    here = {folder.name for folder in (root / PARTIAL).iterdir() if any(folder.iterdir())}
    found = set()
    for experiment in experiment_names(root / "experiments"):
        places: list[tuple[Path, int | None]] = [(root / "artifacts" / experiment, None)]
        for smoke in (root / SMOKE).glob(f"{experiment}-*"):
            if (number := smoke.name.removeprefix(f"{experiment}-")).isdigit():
                places.append((smoke, int(number)))
        for stage in here & set(stage_names(root)):
            for artifacts, limit in places:
                try:
                    found.add((stage, stage_digest(stage, experiment, artifacts, limit)))
                except (OSError, QueeError):
                    continue
    return found


def smoke_waste(root: Path) -> Waste:
    found = Waste("smoke runs", "results of `quee run --limit`, and what a failed `quee plan --measure` left")
    for folder in sorted([*(root / SMOKE).glob("*"), *(root / PLACE).glob("*")]):
        found.add(folder)
    return found
