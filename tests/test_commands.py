"""Every command of README.md, docs/, experiments' headers and the Makefile as the first thing in a bare clone.

Also verbs outside of projects.

A command passes when it succeeds, when it fails with a line that says what to do first, or when it is at work: a server
that answers, or a run whose first stage is done. Then it is ended, and nothing of it may be left.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import commands, documented, header_commands
from fresh_clone import ROOT, Clone, make_clone, make_origin
from marked import MARK, answers, clear, marked, new_mark, wait_until
from PIL import Image

from quee.cli.main import LIBRARY, main, resolve, verbs
from tasks.verbs.commands import ANYWHERE

EXCEPTED = {
    "make test": "runs these tests",
    "make test-all": "runs these tests",
    "make bench": "hours",
    "make constraints": "asks the package index for the newest releases",
    "make repro PYTHON=/path/to/python3.11": "the path is the reader's; `make repro` is run",
    "dvc repro": "DVC's own; data is pulled first, as docs/commands.md says, and that command is run",
    "dvc cache dir /DISK/cache && dvc config cache.type symlink": "the disk is the reader's",
    "dvc push": "writes to the reader's own remote",
}
"""Commands that are not run, by name, each with the reason."""

EXCEPTED_STARTS = {
    "prefect ": "Prefect's own: needs the reader's server, which docs/operations.md starts first",
    "MLFLOW_TRACKING_URI=": "MLflow's own: needs a registered model",
    "mlflow ": "MLflow's own: needs the reader's database, bucket or registry",
    "python benchmarks/": "a benchmark: minutes to hours",
    "dvc remote ": "changes settings alone, and names the reader's bucket",
    "QUEE_EXECUTOR=dask ": "needs the reader's cluster",
}

VALUES = {
    "EXPERIMENT…": "digits", "EXPERIMENT": "digits", "IMAGES…": "data/digits", "IMAGES": "data/digits",
    "BUNDLE": "artifacts/digits/bundle", "RUN": "0123456789abcdef" * 2,
    "A": "digits", "B": "0.1", "STAGE": "targets", "REV": "HEAD", "FOLDER": "folder", "FILE": "file",
    "HOST": "127.0.0.1", "N": "20", "PATH": "w4a4-w8a8", "DATASET": "digits",
    "WEIGHTS": "vit_digits", "FOLDER2": "folder", "MB": "240",
}  # fmt: skip
"""What stands for the placeholders."""

NAMES = {"run": "digits", "add": "mine", "check": "vit_digits", "compare": "HEAD", "cost": "digits", "verify": "torch"}
"""What NAME, or the B of a comparison, stands for, by verb."""

ADVICE = re.compile(
    r"`[^`]+`|\b[Mm]issing\b|\bset [A-Z]|\bvalid:|\bgive\b|\bis not there\b|\bneither\b|\b[Nn]o such\b|\bdoes not exist\b"
    r"|\brequires\b|--[a-z]+"
)
"""Patterns of advice in a failure: a command, a missing thing, or valid values."""

WORKS = (" && dvc repro", "make repro", "make flow", "quee run [")
"""Parts of commands that promise results in a bare clone, where even a well explained failure is wrong."""

QUICK = {"quee plan", "quee results", "quee experiments list", "make help", "quee verify BUNDLE", "quee track"}
MOST_SECONDS, END_SECONDS = 420, 60


def targets() -> list[str]:
    """The Makefile's targets that its help names."""
    return [f"make {name}" for name in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)]


def excepted(command: str) -> bool:
    return command in EXCEPTED or command.startswith(tuple(EXCEPTED_STARTS))


ALL = list(dict.fromkeys([*documented(), *targets()]))
RUN = [command for command in ALL if not excepted(command)]


def concrete(command: str) -> str:
    """The command with values for its placeholders, including optional ones."""
    text = re.sub(r"\[([^\]]*)\]", r"\1", command)
    verb = next((name for name in NAMES if f" {name} " in f" {text} "), "")
    values = {**VALUES, **({"NAME": NAMES[verb]} if verb else {}), **({"B": "HEAD"} if verb == "compare" else {})}
    return " ".join(values.get(word, word) for word in text.split(" "))


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Iterator[Clone]:
    yield make_clone(origin, tmp_path / "quee")
    shutil.rmtree(tmp_path / "quee", ignore_errors=True)


def at_work(clone: Clone, said: str) -> bool:
    """Whether a run has finished its first stage, or a server that named its address answers."""
    if any(clone.root.glob("artifacts/*/prepare/*.json")) or any(clone.root.glob(".quee/smoke/*/prepare/*.json")):
        return True
    address = re.search(r"http://127\.0\.0\.1:\d+", said)
    return address is not None and answers(address[0])


@pytest.mark.timeout(MOST_SECONDS + 120)
@pytest.mark.parametrize("command", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in RUN])
def test_a_command_is_fit_to_be_the_first(clone: Clone, command: str, tmp_path: Path) -> None:
    mark, log = new_mark(), tmp_path / "said"
    with log.open("w") as output:
        started = clone.start(concrete(command), output, **{MARK: mark})
    try:
        end = time.monotonic() + MOST_SECONDS
        while started.poll() is None and not at_work(clone, log.read_text(errors="replace")):
            assert time.monotonic() < end, f"neither ends nor gets to work:\n{log.read_text(errors='replace')[-2000:]}"
            time.sleep(0.5)
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGTERM)
            started.wait(END_SECONDS)
        else:
            check_outcome(command, started.returncode, log.read_text(errors="replace"))
        wait_until(f"the end of {marked(mark)}", lambda: not marked(mark), END_SECONDS)
    finally:
        clear(started, mark)


def check_outcome(command: str, status: int, said: str) -> None:
    """Whether a command succeeded, or failed in a few lines with advice and a documented status."""
    assert "Traceback" not in said, said[-3000:]
    if status == 0:
        return
    assert not any(part in command for part in WORKS), said
    ours = not command.startswith("dvc ")
    if ours and not command.startswith("make "):
        assert 1 <= status <= 5, said
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("make: ***", "pulling "))]
    assert lines, "failed without a word"
    assert "failed: " not in lines[-1], f"an error that nobody foresaw: {lines[-1]}"
    assert len(lines) <= 8 or not ours, said
    assert ADVICE.search("\n".join(lines)), said


def test_exceptions_are_of_commands_that_are_there() -> None:
    assert set(EXCEPTED) <= set(ALL)
    for start in EXCEPTED_STARTS:
        assert any(command.startswith(start) for command in ALL), start
    assert len(RUN) > 60


@pytest.mark.parametrize("command", RUN)
def test_no_placeholder_is_left(command: str) -> None:
    left = re.findall(r"(?<![\w/.$@:-])(?:[A-Z]{1,}(?:\|[A-Z]+)?…?)(?![\w/.=:])|…", concrete(command))
    assert [word for word in left if word != "HEAD"] == [], f"{command}: add the placeholder to VALUES"


def test_commands_are_found_where_pages_have_them() -> None:
    page = (
        "Say `quee plan --check` or `quee`, not `code`.\n| `quee a \\| b` |\n```sh\nquee run  # all\nls\n```\n"
        "```python\nquee.fit()\n```\n    quee ablate X   # grid\n"
    )
    assert list(commands(page)) == ["quee plan --check", "quee a | b", "quee run", "quee ablate X"]
    header = "# About it.\n# Commands: make a && quee b   (or: c)\n#   quee d\n# No `quee e`.\nprepare:\n"
    assert list(header_commands(header)) == ["make a && quee b", "quee d"]


GROUPS = ("experiments", "data", "weights")


def every_verb() -> Iterator[list[str]]:
    """The words of every command, with the commands of groups."""
    for name, (where, _) in verbs().items():
        for sub in getattr(resolve(name, where), "commands", {None: None}):
            yield [name] if sub is None else [name, sub]


def leaves() -> Iterator[list[str]]:
    """Every verb of a project but those that make one, with the commands of groups, and a value for each argument."""
    for name, (where, _) in verbs().items():
        if name in (*LIBRARY, *ANYWHERE):
            continue
        command = resolve(name, where)
        for words, leaf in [([name, sub], item) for sub, item in getattr(command, "commands", {}).items()] or [
            ([name], command)
        ]:
            yield [*words, *("x" for item in leaf.params if item.param_type_name == "argument" and item.required)]


@pytest.mark.parametrize("words", list(leaves()), ids=" ".join)
@pytest.mark.parametrize("where", ["elsewhere", "below"])
def test_outside_of_the_projects_folder_a_verb_says_so_and_makes_nothing(
    words: list[str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project" / "below").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / "project" / name).touch()
    folder = tmp_path / "elsewhere" if where == "elsewhere" else tmp_path / "project" / "below"
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"quee: no params.yaml and no dvc.yaml in {folder}: run this in the project's folder" in said
    assert (str(tmp_path / "project") in said.replace(str(folder), "")) == (where == "below")
    assert list(folder.iterdir()) == []


LIBRARY_CALLS = [
    ["predict", "bundle", "images"], ["verify", "bundle"], ["profile", "bundle"], ["serve", "bundle"], ["cost", "digits"],
]  # fmt: skip


@pytest.mark.parametrize("words", LIBRARY_CALLS, ids=" ".join)
def test_a_verb_of_the_library_names_what_is_missing_and_makes_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.search(r"quee: .*(no bundle at |no such image|digits)", said), said
    assert list(tmp_path.iterdir()) == []


def test_every_verb_of_the_library_is_tried() -> None:
    assert {words[0] for words in LIBRARY_CALLS} == set(LIBRARY)


NAMING = [
    "profile absent", "cost absent", "predict absent images", "predict absent absent.png", "verify absent",
    "verify absent --execute", "serve absent", "start absent --weights weights.pth", "start images --weights absent.pth",
    "run absent", "plan absent", "plan absent --measure 8", "experiments show absent", "experiments new mine --like absent",
    "ablate absent", "track absent", "results absent", "results absent --reference", "compare absent absent", "lineage absent",
    "reproduce absent", "shift absent", "data add mine absent", "data add mine images --answers absent",
    "data add mine images --class-order absent", "data check absent", "data sheet absent picture.png",
    "weights add mine absent.pth", "weights add mine --from absent", "weights add mine folder/absent --backbone vit_digits",
    "weights check absent digits",
]  # fmt: skip
"""Calls that name something that is not there."""
NAMING_NOTHING = {"init", "doctor", "gc", "ui", "experiments list", "data list", "weights list"}
"""Verbs that take no name of something that has to be there."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with images and a file of weights, of which nothing is added."""
    folder = tmp_path_factory.mktemp("named") / "project"
    with pytest.raises(SystemExit) as ended:
        main(["init", str(folder)])
    assert not ended.value.code
    for label in ("cat", "dog"):
        (folder / "images" / label).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (32, 32), (60 * index, 0, 0)).save(folder / "images" / label / f"{index}.png")
    (folder / "weights.pth").write_bytes(b"")
    return folder


@pytest.mark.parametrize("call", NAMING)
def test_what_a_command_names_and_is_not_there_is_wrong_usage_for_every_verb(
    call: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    before = {path for path in made.rglob("*") if not {".dvc", ".git", ".quee"} & {*path.parts}}
    with pytest.raises(SystemExit) as ended:
        main(call.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert (
        re.search(r"^quee: .*(absent|nothing is tracked)", said, re.MULTILINE | re.DOTALL) and "Traceback" not in said
    )
    assert {path for path in made.rglob("*") if not {".dvc", ".git", ".quee"} & {*path.parts}} == before


def test_every_verb_is_tried_with_what_is_not_there() -> None:
    tried = {" ".join(words[: 2 if words[0] in GROUPS else 1]) for words in map(str.split, NAMING)}
    assert tried | NAMING_NOTHING == {" ".join(words) for words in every_verb()}


def test_what_is_there_and_damaged_is_told_from_what_is_not_there(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    for call in ("verify images", "verify weights.pth", "predict images images", "weights add mine weights.pth"):
        with pytest.raises(SystemExit) as ended:
            main(call.split())
        assert ended.value.code == 4, capsys.readouterr().err


MODULES = [
    "tasks.prepare digits",
    "tasks.bundle digits",
    "tasks.verbs.readme",
    "tasks.verbs.reference digits",
    "flows.pipeline",
    "flows.schedules",
]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_so_too(module: str, tmp_path: Path) -> None:
    clone = Clone(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", *module.split()],
        cwd=tmp_path,
        env=clone.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "no params.yaml and no dvc.yaml in" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_is_had_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["run", "--help"], ["data", "add", "--help"], ["--help"], ["ui", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "Usage" in capsys.readouterr().out
