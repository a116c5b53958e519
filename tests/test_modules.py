"""Modules that are run by name, `python -m MODULE`: they tell how, and refuse what they do not know."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PASSED_ON = {"tasks.dvc.child"}
"""Modules that pass their arguments on to another tool, which tells its own usage."""
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("tasks", "flows")
    for file in (ROOT / folder).rglob("*.py")
    if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
)


def run(monkeypatch: pytest.MonkeyPatch, module: str, *arguments: str) -> int | str | None:
    """The exit status of a module run in this process."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("module", [name for name in MODULES if name not in PASSED_ON])
def test_a_module_tells_how_it_is_called(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, module, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {module} ")


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("tasks.dvc.dependencies", ["evalute"], "unknown stage 'evalute' (did you mean 'evaluate'?)"),
        ("tasks.dvc.dependencies", ["evaluate", "digitz"], "digitz"),
        ("flows.schedules", ["digits"], "unrecognized arguments: digits"),
        ("tasks.work.keeper", ["3", "15", "1"], "no command"),
    ],
)
def test_an_unknown_name_is_wrong_usage(
    module: str, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, module, *arguments) == 2
    assert said in capsys.readouterr().err
