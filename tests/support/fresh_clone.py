"""A bare clone of this project, like a reader's, and commands that run first in it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent.parent
SETTINGS = ("QUEE_", "MLFLOW_", "PREFECT_", "DVC_", "AWS_")
IDENTITY = ("-c", "user.name=quee", "-c", "user.email=quee@localhost")


@dataclass(frozen=True)
class Clone:
    """A clone with this environment's `.venv` and nothing else done in it."""

    root: Path

    def environment(self, **extra: str) -> dict[str, str]:
        """A reader's environment: no settings of quee, MLflow, Prefect and DVC, and the clone's code."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        path = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]])
        ours = {"PATH": path, "PYTHONPATH": str(self.root), "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
        return {**kept, **ours, "AWS_EC2_METADATA_DISABLED": "true", **extra}

    def start(self, command: str, output: IO[str], **extra: str) -> "subprocess.Popen[str]":
        """Start a line of shell in a session of its own; its output goes to a file."""
        return subprocess.Popen(
            ["bash", "-c", command], cwd=self.root,
            env=self.environment(**extra), text=True, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def make_origin(folder: Path) -> Path:
    """A repository of one commit with the working tree's files that git would track, without results."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    for step in (["init", "-q"], ["add", "-A", "-f"], [*IDENTITY, "commit", "-q", "-m", "as it is"]):
        subprocess.run(["git", *step], cwd=folder, check=True)
    return folder


def make_clone(origin: Path, folder: Path) -> Clone:
    """Clone it; the shared `.venv` is newer than the files it is made from, so that make installs nothing."""
    subprocess.run(["git", "clone", "-q", "--shared", str(origin), str(folder)], check=True)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (1, 1))
    return Clone(folder)
