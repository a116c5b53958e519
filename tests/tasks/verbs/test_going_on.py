"""What stays of a call of `quee start` that ended early."""

import subprocess
from pathlib import Path

import pytest

from quee.errors import UsageError
from tasks.verbs.going_on import FOLDER, Begun

ASKED = {"images": ["/photos", None], "set": []}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def begun() -> Begun:
    """A call that has added a data set and weights."""
    call = Begun.of("mine", ASKED)
    for name in ("data/mine/a.parquet", "data/mine.dvc", "data/weights/mine.safetensors", "data/weights/mine.dvc"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")
    call.add(Path("data/weights/mine.safetensors"), [])
    call.add(Path("data/mine"), ["a line"])
    return call


def test_the_same_call_knows_what_was_added_and_another_one_does_not() -> None:
    assert not Begun.of("mine", ASKED).before
    begun()
    again = Begun.of("mine", ASKED)
    assert again.before and again.added == {"data/weights/mine.safetensors": [], "data/mine": ["a line"]}
    assert not Begun.of("mine", {**ASKED, "set": ["depth=2"]}).before and not Begun.of("other", ASKED).before
    Path("data/weights/mine.safetensors").unlink()
    assert list(Begun.of("mine", ASKED).added) == ["data/mine"]
    again.end()
    assert not Begun.of("mine", ASKED).before


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_says_in_one_line_what_stays_and_how_to_remove_it(
    signal: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    call = begun()
    with pytest.raises(type(signal)), call.saying(lambda: ["data/mine"]):
        raise signal
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "interrupted: data/weights/mine.safetensors and data/mine stay here; the same command goes on"
    )
    subprocess.run(line.split("`")[1], shell=True, check=True)
    assert not any(path.is_file() for path in Path("data").rglob("*"))
    assert Begun.of("mine", ASKED).added == {}


def test_before_anything_is_added_an_interruption_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Begun.of("mine", ASKED).saying(list):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted: nothing was added yet; the same command begins again\n"


def test_a_refusal_says_how_to_go_on_with_what_was_added() -> None:
    words = r"^no\n.* stay here: go on with `quee start data/mine --weights mine …`$"
    with pytest.raises(UsageError, match=words), begun().saying(lambda: ["data/mine", "--weights", "mine"]):
        raise UsageError("no")
    assert (FOLDER / "mine.json").is_file()
