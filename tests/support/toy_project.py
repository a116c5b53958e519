"""A small project for tests with real git, real DVC and three stages of quick arithmetic."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from shared import made_once

from quee.cli.main import main

ROOT = Path(__file__).parent.parent.parent

BLOCKS = (
    "prepare", "backbone", "paths", "quantize", "exits", "features", "targets", "predictors", "policies", "evaluate",
    "report", "bundle",
)  # fmt: skip

PREPARE = """
from quee.work.io import write_json
from tasks.stage import Stage, main

def run(stage: Stage) -> None:
    \"\"\"Count the images' bytes.\"\"\"
    size = sum(file.stat().st_size for file in stage.data.iterdir())
    write_json(stage.out / "metrics.json", {"size": size, "seed": stage.experiment.prepare.seed, "limit": stage.limit})

if __name__ == "__main__":
    main(run)
"""

TARGETS = """
import os, time
from pathlib import Path
from helpers.helper import OFFSET
from quee.errors import IntegrityError
from quee.work.io import read_json, write_json
from tasks.stage import Stage, main

def run(stage: Stage) -> None:
    \"\"\"Five parts, each computed once.\"\"\"
    seed = read_json(stage.input("prepare") / "metrics.json")["seed"]
    if Path("fail").exists():
        print("a line from the stage")
        raise IntegrityError("shard 3 is truncated")
    parts = []
    for part in range(5):
        file = stage.partial / f"{part}.json"
        if not file.exists():
            with open("computed.log", "a") as log:
                log.write(f"{part}\\n")
            time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
            write_json(file, part * stage.experiment.targets.clusters + seed + OFFSET)
        parts.append(read_json(file))
    write_json(stage.out / "metrics.json", {"parts": parts})

if __name__ == "__main__":
    main(run)
"""

EVALUATE = """
from quee.work.io import read_json, write_json
from tasks.stage import Stage, main

def run(stage: Stage) -> None:
    \"\"\"Whether the sum is positive.\"\"\"
    parts = read_json(stage.input("targets") / "metrics.json")["parts"]
    write_json(stage.out / "metrics.json", {"positive": sum(parts) > 0})

if __name__ == "__main__":
    main(run)
"""

DVC_YAML = """
stages:
  settings:
    foreach: ${experiments}
    do:
      cmd: python -m tasks.settings ${key}
      params:
        - experiments/${key}.yaml:
      outs: ["artifacts/${key}/settings"]
  prepare:
    foreach: ${experiments}
    do:
      cmd: python -m stages.prepare ${key}
      params:
        - artifacts/${key}/settings/settings.json:
            - prepare
      deps: [stages/prepare.py, "${item.data}"]
      outs: ["artifacts/${key}/prepare"]
  targets:
    foreach: ${experiments}
    do:
      cmd: python -m stages.targets ${key}
      params:
        - artifacts/${key}/settings/settings.json:
            - targets
      deps: [stages/targets.py, helpers, "artifacts/${key}/prepare"]
      outs: ["artifacts/${key}/targets"]
  evaluate:
    foreach: ${experiments}
    do:
      cmd: python -m stages.evaluate ${key}
      params:
        - artifacts/${key}/settings/settings.json:
            - evaluate
      deps: [stages/evaluate.py, "artifacts/${key}/targets"]
      outs: ["artifacts/${key}/evaluate"]
"""

PARAMS = """# which to build
experiments:
  toy:
    data: data/digits
    weights: data/weights/none
"""


@dataclass(frozen=True)
class Project:
    """A project in a temporary folder, and commands in it."""

    root: Path

    def environment(self, **extra: str) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        code = os.pathsep.join([str(self.root), str(ROOT)])
        return {**os.environ, "PATH": path, "PYTHONPATH": code, "DVC_NO_ANALYTICS": "1", **extra}

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command as leader of its own process group that ignores no signal (tests in the background ignore some)."""
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment(**environment), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def do(self, *command: str, status: int | None = 0, **environment: str) -> str:
        """Run a command to its end, check its status unless that is None, and return its output."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**environment), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=280, check=False,
        )  # fmt: skip
        assert status is None or done.returncode == status, done.stdout
        return done.stdout

    def quee(self, *arguments: str, status: int = 0, **environment: str) -> str:
        return self.do("quee", *arguments, status=status, **environment)

    def commit(self) -> str:
        """Commit everything; returns the commit's name."""
        someone = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")
        self.do("git", "add", "-A")
        self.do("git", *someone, "commit", "-q", "-m", "now")
        return self.do("git", "rev-parse", "HEAD").strip()

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = self.read(path)
        assert old in text
        self.write(path, text.replace(old, new))

    def results(self) -> dict[str, str]:
        """Every file of artifacts/ by name, and dvc.lock."""
        files = [file for file in (self.root / "artifacts").rglob("*") if file.is_file()]
        return {file.relative_to(self.root).as_posix(): file.read_text() for file in [*files, self.root / "dvc.lock"]}

    def computed(self) -> list[str]:
        """Parts of `targets` computed so far, in order."""
        file = self.root / "computed.log"
        return file.read_text().split() if file.exists() else []


def experiment(**blocks: str) -> str:
    known = {"prepare": "{dataset: digits, seed: 1}", "backbone": "{name: vit_digits}", "targets": "{clusters: 20}"}
    return "".join(f"{block}: {({**known, **blocks}).get(block, '{}')}\n" for block in BLOCKS)


def make_template(folder: Path) -> None:
    project = Project(folder)
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": PARAMS,
        "experiments/toy.yaml": "# A toy.\n" + experiment(),
        "stages/__init__.py": "",
        "stages/prepare.py": PREPARE,
        "stages/targets.py": TARGETS,
        "stages/evaluate.py": EVALUATE,
        "helpers/helper.py": "OFFSET = 1\n",
        "data/digits/train-0.parquet": "images",
        ".gitignore": "/artifacts/\n/.quee/\n__pycache__/\n/computed.log\n",
        ".dvcignore": "__pycache__\n",
    }
    for path, text in files.items():
        project.write(path, text)
    project.do("git", "init", "-q")
    project.do("dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc" / "config", project.root / ".dvc" / "config")
    (project.root / "remote").mkdir()
    project.do("dvc", "add", "-q", "data/digits")
    (project.root / "data" / "digits.dvc").rename(project.root / "data.dvc")
    project.edit("data.dvc", "path: digits", "path: data/digits")
    project.do("dvc", "push", "-q")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project as it is before anything runs; tests do not change it."""
    return made_once(tmp_path_factory, "toy", make_template)


@pytest.fixture(scope="session")
def ran_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The toy project after `quee run`; tests do not change it."""

    def make(folder: Path) -> None:
        shutil.copytree(template, folder, symlinks=True, dirs_exist_ok=True)
        Project(folder).quee("run")

    return Project(made_once(tmp_path_factory, "toy-ran", make))


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    """A fresh copy of the toy project, nothing run yet."""
    shutil.copytree(template, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


@pytest.fixture
def told(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """As `project.quee`, without a process: for commands that start no stage."""
    monkeypatch.chdir(project.root)

    def quee(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = "".join(capsys.readouterr())
        assert (ended.value.code or 0) == status, said
        return said

    return quee


@pytest.fixture
def ran(ran_template: Project, tmp_path: Path) -> Project:
    """A copy of the toy project in which `quee run` has been called."""
    shutil.copytree(ran_template.root, tmp_path / "ran", symlinks=True)
    return Project(tmp_path / "ran")
