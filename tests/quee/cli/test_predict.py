"""quee predict and quee verify: files, folders and Parquet in; a table, JSON, CSV or Parquet out; resumable."""

import csv
import json
import os
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quee.cli.main import main
from quee.cli.predict import _say
from quee.data.writer import Sample, write_images
from quee.errors import UsageError
from quee.runtime import AdaptiveClassifier, Options
from quee.runtime import scoring as module
from quee.runtime.inputs import Inputs
from quee.runtime.manifest import FORMAT
from quee.runtime.scoring import COLUMNS, rows_of, score, score_to_parquet


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(images, tmp_path: Path) -> Path:
    """Twelve images: nine files in two folders, and three rows of Parquet."""
    top = tmp_path / "images"
    (top / "b").mkdir(parents=True)
    for i in range(9):
        (top / ("b" if i > 5 else ".") / f"{i}.png").write_bytes(png(images[0][i]))
    (top / "notes.txt").write_text("no image")
    samples = [Sample(png(images[0][i]), f"{i}.png", int(images[1][i])) for i in range(9, 12)]
    write_images(top / "z.parquet", samples, tuple(map(str, range(10))))
    return top


def told(classifier: AdaptiveClassifier, inputs: Inputs, options: Options, **more: object) -> list[dict]:
    """One mapping per image."""
    return [row for answers in score(classifier, inputs, options, **more) for row in rows_of(answers)]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_folder_s_images_come_in_order_with_what_the_classifier_says(classifier, images, folder) -> None:
    inputs = Inputs([folder])
    rows = told(classifier, inputs, Options(budget=0.3), batch=5)
    expected = classifier.route(images[0][:12], budget=0.3)
    assert len(inputs) == len(rows) == 12 and all(list(row) == list(COLUMNS) for row in rows)
    assert [row["path"] for row in rows] == expected.path
    assert [row["label"] for row in rows] == expected.label.tolist()
    assert [row["cost"] for row in rows] == pytest.approx(expected.cost)
    assert rows[-1]["image"] == f"{folder / 'z.parquet'}#2 11.png"


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_rows_do_not_depend_on_the_batch(classifier, folder, batch) -> None:
    some = [told(classifier, Inputs([folder]), Options(), batch=b) for b in (batch, 4)]
    assert some[0] == some[1]


def test_a_bad_image_is_named_or_skipped_with_its_reason(classifier, folder) -> None:
    (folder / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png: not a readable"):
        list(score(classifier, Inputs([folder]), Options()))
    rows = told(classifier, Inputs([folder]), Options(), skip_bad=True)
    assert [row["image"].endswith("/3.png") for row in rows] == [row["error"] is not None for row in rows]
    assert rows[3]["label"] is None and rows[4]["label"] is not None


def test_bad_images_are_named_together_with_their_number(classifier, folder) -> None:
    for i in range(25):
        (folder / f"bad{i:02}.png").write_bytes(b"no image")
    with pytest.raises(UsageError) as raised:
        list(score(classifier, Inputs([folder]), Options(), batch=4))
    first, *lines = str(raised.value).splitlines()
    assert first == "25 of 37 images cannot be used; --skip-bad goes on without what cannot be used:"
    assert raised.value.exit_status == 4
    assert len(lines) == 21 and "bad00.png: not a readable" in lines[0] and lines[-1].strip() == "and 5 more"


def test_hidden_and_other_files_are_no_images_and_counted(folder, images) -> None:
    for name in (".ipynb_checkpoints/0-checkpoint.png", "b/@eaDir/6.png/THUMB.jpg", "b/._6.png", "b/x.tif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(images[0][0]))
    inputs = Inputs([folder])
    assert len(inputs) == 12
    assert str(inputs.skipped) == "1 .tif, 1 .txt, 3 hidden files"


def test_paths_that_hold_no_images_are_named_together(folder, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    for i in range(2):
        pq.write_table(pa.table({"a": [i]}), tmp_path / "other" / f"{i}.PARQUET")
    with pytest.raises(UsageError, match="3 paths hold no images:") as raised:
        Inputs([tmp_path / "none.png", tmp_path / "other"])
    assert "0.PARQUET: no column image" in str(raised.value) and "none.png" in str(raised.value)
    inputs = Inputs([folder, tmp_path / "other"], skip_bad=True)
    assert len(inputs) == 12 and len(inputs.bad) == 2


@pytest.fixture
def latin(folder, images) -> Path:
    """A folder with an image and another file, both with Latin-1 names."""
    for name, data in ((b"caf\xe9.png", png(images[0][0])), (b"h\xf6h.png", b"no image")):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(data)
    return folder


@pytest.mark.parametrize("kind", ["--csv", "--json", "table", "--out"])
def test_names_that_are_not_utf_8_are_written_with_their_bytes(
    bundle, latin, tmp_path, capfdbinary, monkeypatch, kind
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # names are not cut
    out = tmp_path / "out.parquet"
    options = {"table": [], "--out": ["--out", out]}.get(kind, [kind])
    assert run("predict", bundle, latin, "--engine", "torch", "--skip-bad", *options) == 0
    printed = capfdbinary.readouterr().out.decode()  # valid UTF-8
    if kind == "--csv":
        rows = list(csv.DictReader(StringIO(printed)))
    elif kind == "--json":
        rows = json.loads(printed)["rows"]
    else:
        rows = pq.read_table(out).to_pylist() if kind == "--out" else []
    if kind == "table":
        assert "caf\\xe9" in printed.replace("\n", "")
    else:
        assert len(rows) == 14
        assert [bool(row["error"]) for row in rows if "\\x" in row["image"]] == [False, True]


def test_csv_is_whole_or_not_at_all(bundle, latin, capfd) -> None:
    assert run("predict", bundle, latin, "--engine", "torch", "--csv", "--batch", "2") == 4
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "h\\xf6h.png: not a readable" in shown.err


class Stopping:
    """An engine that is interrupted after so many steps."""

    def __init__(self, engine, steps: float) -> None:
        self.engine, self.name, self.steps, self.done = engine, engine.name, steps, 0

    def run(self, segment, precision, state):
        if self.done >= self.steps:
            raise KeyboardInterrupt
        self.done += 1
        return self.engine.run(segment, precision, state)

    def executed(self, precision):
        return self.engine.executed(precision)


def on(classifier: AdaptiveClassifier, steps: float = float("inf")) -> tuple[AdaptiveClassifier, Stopping]:
    c, engine = classifier, Stopping(classifier.engine, steps)
    return c.on(engine), engine


def test_what_was_interrupted_goes_on_and_ends_in_the_same_bytes(classifier, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SHARD", 4)
    whole, engine = on(classifier)
    sums = score_to_parquet(whole, Inputs([folder]), Options(budget=0.3), tmp_path / "whole.parquet", batch=3)
    assert sums["images"] == 12 and sums["skipped"] == 0
    steps, out = engine.done, tmp_path / "out.parquet"
    stopped, _ = on(classifier, steps // 2)
    with pytest.raises(KeyboardInterrupt):
        score_to_parquet(stopped, Inputs([folder]), Options(budget=0.3), out, batch=3)
    assert not out.exists() and list(tmp_path.glob(".out.parquet.*.parts/*-*"))
    again, engine = on(classifier)
    score_to_parquet(again, Inputs([folder]), Options(budget=0.3), out, batch=3)
    assert 0 < engine.done < steps
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("other", ["options", "files"])
def test_other_work_for_the_same_file_begins_anew(classifier, images, folder, tmp_path, monkeypatch, other) -> None:
    monkeypatch.setattr(module, "SHARD", 2)
    out = tmp_path / "out.parquet"
    stopped, _ = on(classifier, 9)
    with pytest.raises(KeyboardInterrupt):
        score_to_parquet(stopped, Inputs([folder]), Options(budget=0.3), out)
    options = Options(budget=0.1 if other == "options" else 0.3)
    if other == "files":
        (folder / "0.png").write_bytes(png(images[0][40]))
    score_to_parquet(classifier, Inputs([folder]), options, out)
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    expected = pa.Table.from_pylist(told(classifier, Inputs([folder]), options), schema)
    assert pq.read_table(out).cast(schema).equals(expected)
    assert not list(tmp_path.glob(".out*"))


def test_predict_prints_json(bundle, classifier, images, folder, capsys) -> None:
    assert run("predict", bundle, folder, "--budget", 0.3, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    expected = classifier.route(images[0][:12], budget=0.3)
    assert [row["path"] for row in value["rows"]] == expected.path
    assert value["mean_cost"] == pytest.approx(expected.cost.mean())
    assert value["budget_met"] and value["images"] == 12 and value["skipped"] == 0


def test_predict_prints_csv(bundle, folder, capsys) -> None:
    assert run("predict", bundle, folder / "0.png", folder / "b", "--csv") == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert len(rows) == 4 and list(rows[0]) == list(COLUMNS)
    assert 0 < float(rows[0]["probability"]) <= 1 and rows[0]["error"] == ""


def test_predict_prints_a_table_and_says_when_a_budget_cannot_be_met(bundle, folder, capsys) -> None:
    assert run("predict", bundle, folder / "0.png", "--budget", 0.0001) == 0
    shown = capsys.readouterr()
    assert "probability" in shown.out and "w4a4" in shown.out
    assert "1 image, mean cost" in shown.err and "cannot be met" in shown.err


@pytest.mark.parametrize(("lost", "side"), [(-1.67, "1.67 points above"), (0.4, "0.40 points below")])
def test_an_accuracy_loss_that_cannot_be_met_says_why(lost: float, side: str, capsys) -> None:
    expected = {"cost_interval": None, "labelled": None, "accuracy_loss": lost, "accuracy_loss_limit": 1.98}
    counts = {"images": 1, "skipped": 0, "left_out": [], "mean_cost": 0.1, "engine": "torch", "measure": "accuracy"}
    counts |= {"policy": "auto", "decided_by": "plan", "budget": None, "latency_ms": None}
    asked = {"accuracy_loss": 0.5, "budget_met": False, "certified": False, "validation_images": 180}
    _say({"expected": expected, **counts, **asked}, 2.0)
    said = capsys.readouterr().err
    assert f"on validation {side} the float network; on new data at most 1.98 below (95 %)" in said
    assert "(180 validation images cannot show that any point loses less than 1.98 points)" in said
    assert "policy auto (here plan), 0.5 images/s" in said
    _say({"expected": expected, **counts, **asked, "certified": True}, 2.0)
    assert "cannot be met: served" in capsys.readouterr().err


def test_a_budget_that_limits_nothing_is_told(bundle, folder, classifier, capsys) -> None:
    dearest = classifier.points[-1].cost
    assert run("predict", bundle, folder, "--budget", 50, "--json") == 0
    found = capsys.readouterr()
    assert f"the budget of 50 limits nothing: the dearest operating point costs {dearest:.3g}" in found.err
    facts = json.loads(found.out)
    assert (facts["policy"], facts["decided_by"], facts["budget_met"]) == ("fitted_q", "fitted_q", True)
    assert run("predict", bundle, folder, "--budget", dearest / 2) == 0
    assert "limits nothing" not in capsys.readouterr().err


def test_predict_writes_parquet(bundle, folder, tmp_path, capsys) -> None:
    out = tmp_path / "out.parquet"
    assert run("predict", bundle, folder, "--out", out) == 0
    assert pq.read_table(out).num_rows == 12 and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.png"], "no such image, folder or Parquet file: none.png"),
        (["{empty}"], "no images in this folder"),
        (["{folder}", "--budget", "-1"], "budget=-1.0"),
        (["{folder}", "--budget", "nan"], "budget=nan"),
        (["{folder}", "--budget", "0.2", "--trade-off", "0.1"], "not both"),
        (["{folder}", "--json", "--csv"], "one of"),
        (["{folder}", "--out", "{empty}"], "it is a folder"),
        (["{folder}", "--out", "{empty}/no/where.parquet"], "there is no folder"),
        (["{folder}", "--engine", "coal"], "unknown engine"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what(bundle, folder, tmp_path, capsys, arguments, reason) -> None:
    (tmp_path / "empty").mkdir()
    given = [a.format(folder=folder, empty=tmp_path / "empty") for a in arguments]
    assert run("predict", bundle, *given) == 2
    shown = capsys.readouterr().err
    assert reason in shown and "Traceback" not in shown


def test_a_damaged_file_or_one_of_another_format_ends_with_4(bundle, folder, capsys) -> None:
    assert run("predict", bundle, folder / "notes.txt") == 4
    shown = capsys.readouterr().err
    assert "not a readable" in shown and "Traceback" not in shown


@pytest.mark.parametrize("out", ["none/x.parquet", "/proc/x.parquet", "."])
def test_answers_that_cannot_be_written_are_refused_before_anything_is_computed(out, folder, tmp_path, capsys) -> None:
    assert run("predict", tmp_path / "no-bundle", folder, "--out", tmp_path / out) == 2
    assert f"cannot write {tmp_path / out}: " in capsys.readouterr().err


@pytest.mark.parametrize("what", ["an image", "a table", "text"])
def test_what_is_there_and_no_answers_is_not_written_over(what, bundle, folder, tmp_path, capsys) -> None:
    out = (
        next(path for path in sorted(folder.iterdir()) if path.suffix == ".png")
        if what == "an image"
        else tmp_path / "o"
    )
    if what == "a table":
        pq.write_table(pa.table({"a": [1]}), out)
    elif what == "text":
        out.write_text("mine")
    before = out.read_bytes()
    assert run("predict", bundle, folder, "--skip-bad", "--out", out) == 2
    assert f"cannot write {out}: it is there, and holds something else than answers" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize("there", [False, True])
def test_an_array_s_name_may_end_in_capitals_and_answers_are_renewed(there, bundle, tmp_path) -> None:
    with (tmp_path / "A.NPY").open("wb") as file:
        np.save(file, np.random.default_rng(0).integers(256, size=(3, 8, 8), dtype=np.uint8))
    out = tmp_path / "o.parquet"
    if there:
        out.write_bytes(b"")
    for _ in range(2):
        assert run("predict", bundle, tmp_path / "A.NPY", "--out", out) == 0
        assert pq.read_table(out).num_rows == 3


def test_parquet_without_images_is_refused(bundle, tmp_path, capsys) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    assert run("predict", bundle, path) == 2
    assert "no column image" in capsys.readouterr().err
    path.write_bytes(b"PAR1 and nothing")
    assert run("predict", bundle, path) == 4


def test_verify_tells_good_from_bad(bundle, tmp_path, capsys) -> None:
    assert run("verify", bundle) == 0
    assert "good" in capsys.readouterr().out
    assert run("verify", bundle, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == FORMAT and facts["digest"] == json.loads((bundle / "bundle.json").read_text())["digest"]
    assert run("verify", tmp_path) == 4
    assert "holds no bundle" in capsys.readouterr().err
    assert run("predict", tmp_path / "none", "x.png") == 2  # images are checked first, because that is cheap
    assert run("predict", tmp_path / "none", bundle / "README.md") == 2


def test_verify_says_that_format_1_has_no_digest(capsys) -> None:
    assert run("verify", Path(__file__).parents[2] / "fixtures" / "bundle_format_1") == 0
    assert "no digest in format 1" in capsys.readouterr().out
