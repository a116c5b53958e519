"""A wrong command line is told the value that was given, and where an option is found that a verb does not have."""

import errno

import pytest

from quee.cli.main import _report, main


def told(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["predict", "b", "x", "--budget", "0,2"],
            "'--budget': '0,2' is no number; write the number with a point: 0.2",
        ),
        (["predict", "b", "x", "--budget="], "'--budget': '' is no number"),
        (["predict", "b", "x", "--accuracy-loss", "half"], "'--accuracy-loss': 'half' is no number"),
        (["predict", "b", "x", "--batch", "1,5"], "'--batch': '1,5' is no whole number"),
        (["predict", "b", "x", "--batch", "0"], "greater than or equal to 1, not '0'"),
        (["serve", "b", "--deadline", "0,5"], "'--deadline': '0,5' is no number; write the number with a point: 0.5"),
        (["profile", "b", "--repeats", "many"], "'--repeats': 'many' is no whole number"),
    ],
)
def test_a_value_that_is_no_number_is_named(capsys: pytest.CaptureFixture, arguments: list[str], said: str) -> None:
    assert said in told(capsys, *arguments)


@pytest.mark.parametrize("option", ["--trade-off", "--max-cost", "--certified"])
def test_what_only_a_request_can_ask_for_is_told_to_be_each_request_s(
    capsys: pytest.CaptureFixture, option: str
) -> None:
    said = told(capsys, "serve", "b", option, "0.2")
    assert f"No such option: {option}. `quee predict` has it; under `quee serve` every request chooses its own" in said


def test_an_option_of_another_verb_is_told_with_the_verb(capsys: pytest.CaptureFixture) -> None:
    assert told(capsys, "verify", "b", "--latency-ms", "2").endswith("--latency-ms. `quee predict` has it\n")
    assert "curl" not in told(capsys, "serve", "b", "--latency-ms", "2")


def test_an_option_that_nothing_has_is_told_alone(capsys: pytest.CaptureFixture) -> None:
    said = told(capsys, "profile", "b", "--nosuch")
    assert "No such option: --nosuch" in said and "has it" not in said


@pytest.mark.parametrize(
    ("arguments", "before"),
    [
        (["predict", "b", ""], "b"),
        (["predict", "", "x.png"], "predict"),
        (["serve", "b", "--examples", ""], "--examples"),
        (["serve", "b", "--token", ""], "--token"),
        ([""], "quee"),
    ],
)
def test_an_empty_argument_is_refused_instead_of_meaning_this_folder(
    capsys: pytest.CaptureFixture, arguments: list[str], before: str
) -> None:
    assert f"an empty argument behind {before!r}" in told(capsys, *arguments)


@pytest.mark.parametrize("name", ["out.csv", "OUT.JSON", "x.txt"])
def test_parquet_is_not_written_under_another_ending(capsys: pytest.CaptureFixture, name: str) -> None:
    assert f"--out {name}: Parquet is written" in told(capsys, "predict", "b", "x", "--out", name)


def test_a_batch_of_no_images_is_refused_before_the_bundle_is_read(capsys: pytest.CaptureFixture) -> None:
    assert "--batch '0,8'; valid: sizes from 1" in told(capsys, "profile", "nosuch", "--batch", "0,8")


def test_a_place_that_cannot_be_written_is_named_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert _report(OSError(errno.EROFS, "Read-only file system", "project/.quee")) == 1
    assert capsys.readouterr().err.startswith(
        "quee: Read-only file system: project/.quee (quee keeps locks and its own files"
    )
    assert _report(OSError(errno.EIO, "Input/output error", "x")) == 1
    assert "quee: failed: OSError" in capsys.readouterr().err


def test_a_terminal_of_no_width_gets_tables_as_one_of_eighty_columns(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    with pytest.raises(SystemExit) as ended:
        main(["cost", "vit_digits", "--set", "depth=4"])
    assert not ended.value.code and "whole" in capsys.readouterr().out
