"""Committing `dvc.lock` after an unattended run: to a branch, or not at all because MLflow has a copy."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from quee.errors import QueeError, UsageError
from quee.work.io import write_bytes
from tasks.dvc.healing import committed, whole
from tasks.dvc.lock import git

Committer = Literal["nobody", "branch", "mlflow"]
KEPT = Path(".quee") / "unattended"


def commit_lock(root: Path, branch: str, message: str) -> str | None:
    """Commit `dvc.lock` on a branch without changing working tree, index and HEAD; returns the new commit, or None.

    The commit's tree is HEAD's with the new `dvc.lock`; its first parent is the branch. Nothing is committed if the branch
    already has that tree. Raises UsageError where the branch is checked out, QueeError where git fails.
    """
    reference = f"refs/heads/{branch}"
    if _git(root, "symbolic-ref", "--quiet", "HEAD", check=False) == reference:
        raise UsageError(f"branch {branch!r} is checked out: name another to commit dvc.lock on")
    if git(root, "check-ref-format", reference) is None:
        raise UsageError(f"{branch!r} is no name for a branch")
    head = _git(root, "rev-parse", "HEAD")
    tip = (git(root, "rev-parse", "--verify", "--quiet", reference) or "").strip()
    blob = _git(root, "hash-object", "-w", "dvc.lock")
    path = f"{_git(root, 'rev-parse', '--show-prefix')}dvc.lock"
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", "HEAD", environment=own)
        _git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=own)
        tree = _git(root, "write-tree", environment=own)
    if tree == _git(root, "rev-parse", f"{tip or head}^{{tree}}"):
        return None
    parents = [tip or head]
    if tip and git(root, "merge-base", "--is-ancestor", head, tip) is None:
        parents.append(head)
    flags = [flag for parent in parents for flag in ("-p", parent)]
    commit = _git(root, "commit-tree", tree, *flags, "-m", message, environment=_identity(root))
    _git(root, "update-ref", "-m", message, reference, commit, tip or "0" * 40)
    return commit


def put_away(root: Path) -> bool:
    """Keep `dvc.lock` aside and restore HEAD's, so that the checkout is clean; False where HEAD has none."""
    before = committed(root)
    here = root / "dvc.lock"
    if before is None or not here.is_file():
        return False
    content = here.read_bytes()
    if content != before:
        (root / KEPT).mkdir(parents=True, exist_ok=True)
        write_bytes(root / KEPT / "base.lock", before)
        write_bytes(root / KEPT / "dvc.lock", content)
        write_bytes(here, before)
    return True


def take_out(root: Path) -> bool:
    """Restore the lock that `put_away` kept, unless `dvc.lock` has changed since."""
    try:
        base, kept = ((root / KEPT / name).read_bytes() for name in ("base.lock", "dvc.lock"))
        here = (root / "dvc.lock").read_bytes()
    except OSError:
        return False
    if here != base or not whole(kept):
        return False
    write_bytes(root / "dvc.lock", kept)
    return True


def _identity(root: Path) -> dict[str, str]:
    if git(root, "config", "user.email"):
        return {}
    who = {"NAME": "quee", "EMAIL": "quee@localhost"}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}


def _git(root: Path, *arguments: str, environment: dict[str, str] | None = None, check: bool = True) -> str:
    whole_environment = {**os.environ, **(environment or {})}
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=whole_environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise QueeError(f"git {arguments[0]} failed, dvc.lock is not committed: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
