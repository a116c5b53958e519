"""What a run shows of its stages' output, with and without a terminal."""

import io
import re
import sys
import time

import pytest
from rich.console import Console

from quee.work import progress
from tasks.work.screen import Ahead, Screen, clock

OUTPUT = [
    "Running stage 'targets@digits':", "> python -m tasks.targets digits", "calibration: 3/10, about 12 s left",
    "ensembles: left out, because", "", "Updating lock file 'dvc.lock'",
    "Use `dvc push` to send your updates to remote storage.",
]  # fmt: skip


def test_without_a_terminal_only_what_a_stage_has_to_say_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(terminal=False)
    with screen.bars([Ahead("targets@digits", 3.0)]), screen.stage("targets@digits"):
        for line in OUTPUT:
            screen.line(line)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "ensembles: left out, because\n")


def test_lines_of_progress_are_known_from_what_bars_print(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(progress.EVERY, "0")
    with progress.progress("fitting exit heads", 4) as bar:
        bar.advance()
        bar.advance(2, note="loss 0.3: 1/2")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(progress.is_line(line) for line in lines)
    assert not any(progress.is_line(line) for line in ("stage targets: 3", "smoke run: 9 images of 3/4 classes", ""))


def shown(screen: Screen) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(screen.shown())
    return console.export_text()


def test_a_bar_shows_the_stage_its_own_progress_and_what_is_left_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    screen = Screen(terminal=False)
    stages = [Ahead("tree@digits", 20.0), Ahead("exits@digits", 60.0), Ahead("features@digits")]
    with screen.bars(stages):
        with screen.stage("tree@digits"):
            now = 105.0
            screen.line("quantizing: 3/10")
            text = shown(screen)
            assert re.search(r"^tree@digits ━+.* 0:05 of about 0:20  quantizing: 3/10$", text, re.MULTILINE)
            assert "0 of 3 stages done, about 1:15 left, 1 that never ran here not counted" in text
            now = 200.0
            assert "about 1:00 left" in shown(screen), "late stages do not eat into the time of the others"
        with screen.stage("exits@digits"):
            pass
        with screen.stage("features@digits"):
            now = 210.0
            text = shown(screen)
            assert (
                "features@digits" in text
                and " 0:10\n" in re.sub(r" +\n", "\n", text)
                and "2 of 3 stages done, 1 that" in text
            )
        assert shown(screen).strip() == ""


def test_what_is_printed_stands_above_the_bar_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with screen.bars([Ahead("tree@digits", 20.0)]), screen.stage("tree@digits"):
        screen.line("a line of the stage")
        time.sleep(0.4)
    text = terminal.getvalue()
    assert "a line of the stage" in text and "tree@digits" in text


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00"), (67, "1:07"), (3600, "1:00:00"), (11100, "3:05:00")])
def test_times_are_told_like_clocks(seconds: float, said: str) -> None:
    assert clock(seconds) == said
