"""Benchmarks start: their imports are there and `--help` tells how they are called. A new file is taken by itself."""

import ast
import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FILES = sorted(FOLDER.rglob("*.py"))
SCRIPTS = [file for file in FILES if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")]
OURS = ("quee", "tasks", "flows")


def named(file: Path) -> str:
    return file.relative_to(FOLDER).as_posix()


@pytest.fixture(autouse=True)
def beside_their_own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Benchmarks find the modules of their folder, whose plain names are forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{FOLDER}/"):
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_a_script_tells_how_it_is_called(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script.name} ")


@pytest.mark.parametrize("file", FILES, ids=named)
def test_what_it_takes_from_the_library_is_there(file: Path) -> None:
    """Inside functions too, which `--help` does not reach."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
            for alias in node.names:
                taken_from(str(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in OURS:
                    importlib.import_module(alias.name)


def taken_from(module: str, name: str) -> None:
    """Import a name of a module, which may be a module itself."""
    if not hasattr(importlib.import_module(module), name):
        importlib.import_module(f"{module}.{name}")


def test_a_cpu_is_told_by_what_decides_its_fastest_number_format(tmp_path: Path) -> None:
    instructions = importlib.import_module("cpu").instructions
    (file := tmp_path / "cpuinfo").write_text("model name : Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni aes\n")
    assert instructions(file) == "avx2 avx512f avx512_vnni"
    assert instructions(tmp_path / "elsewhere") == ""
