"""`quee predict BUNDLE IMAGES…`."""

import json
import sys
import time
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee.cli import AsJson, naming
from quee.work.counts import counted

if TYPE_CHECKING:
    from quee.runtime import AdaptiveClassifier

SHOWN = 1000
"""Rows of a table on the screen."""
OTHER_TABLES = (".csv", ".json", ".jsonl", ".tsv", ".txt", ".xlsx")
"""Endings of names that promise something else than Parquet."""


def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    images: Annotated[
        list[Path], typer.Argument(help="Images, folders of images, Parquet files, arrays (.npy, .npz).")
    ],
    budget: Annotated[float | None, typer.Option(help="Mean cost per image; 1 is the static w8a8 network.")] = None,
    accuracy_loss: Annotated[
        float | None,
        typer.Option(help="Instead: points of accuracy that may be lost to the float network; 0.5 is half a point."),
    ] = None,
    certified: Annotated[bool, typer.Option("--certified", help="With --accuracy-loss: by a certified point.")] = False,
    trade_off: Annotated[float | None, typer.Option(help="Instead: the price of a unit of cost, in errors.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Limit for every image.")] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Mean milliseconds per image, instead of a budget; needs `quee profile`."),
    ] = None,
    images_per_second: Annotated[float | None, typer.Option(help="The same, as a rate.")] = None,
    pixels: Annotated[str, typer.Option(help="Of arrays: uint8, or unit for floats from 0 to 1.")] = "uint8",
    engine: Annotated[str, typer.Option(help="auto, openvino, onnxruntime, torch (the reference) or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; results do not depend on it.")] = 128,
    out: Annotated[
        Path | None, typer.Option(help="Write Parquet (extra `parquet`); a repeated call goes on where one ended.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on where an image cannot be read.")] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Classify images: class, probability, path and cost of each."""
    from quee.errors import UsageError
    from quee.runtime import Options, load_bundle
    from quee.runtime.inputs import Inputs
    from quee.work.extras import require_package
    from quee.work.io import refuse_unwritable

    if sum((as_json, as_csv, out is not None)) > 1:
        raise UsageError("give one of --json, --csv and --out")
    if out is not None and out.suffix.lower() in OTHER_TABLES:
        raise UsageError(f"--out {out}: Parquet is written; give FILE.parquet, or print another form: --csv or --json")
    if out is not None:
        require_package("pyarrow", f"writing {out}", "parquet")
        refuse_unwritable(out)
    options = Options(budget, trade_off, max_cost, latency_ms, images_per_second, accuracy_loss, certified)
    inputs = Inputs(images, pixels, skip_bad)
    with naming(bundle):
        classifier = load_bundle(bundle, engine, threads)
    if options.milliseconds is not None:
        classifier = classifier.timed(batch)
    start = time.perf_counter()
    if out is not None:
        from quee.runtime.scoring import score_to_parquet

        sums = score_to_parquet(classifier, inputs, options, out, batch, skip_bad)
        summary = _summary(classifier, inputs, options, int(sums["images"]), int(sums["skipped"]), sums["cost"])
        _say(summary, time.perf_counter() - start, f" → {out}", _unlimited(classifier, options))
        return
    rows = list(_rows(classifier, inputs, options, batch, skip_bad))
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    summary = _summary(classifier, inputs, options, len(rows), len(rows) - len(costs), sum(costs))
    if isinstance(sys.stdout, TextIOWrapper):  # in every locale no name of a file breaks the output
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if as_json:
        typer.echo(json.dumps({"rows": rows, **summary}))
    elif as_csv:
        _print_csv(rows)
    else:
        _table(rows)
    _say(summary, time.perf_counter() - start, unlimited=_unlimited(classifier, options))


def _rows(classifier: "AdaptiveClassifier", inputs: Any, options: Any, batch: int, skip_bad: bool) -> Any:
    """Yields rows as they are computed, with progress."""
    from quee.runtime.scoring import rows_of, score
    from quee.work.progress import progress

    with progress("classifying", len(inputs)) as bar:
        for answers in score(classifier, inputs, options, batch=batch, skip_bad=skip_bad):
            rows = rows_of(answers)
            yield from rows
            bar.advance(len(rows))


def _print_csv(rows: list[dict[str, Any]]) -> None:
    """Prints all rows at once, so that a reader gets all or none."""
    import csv

    from quee.runtime.scoring import COLUMNS

    writer = csv.DictWriter(sys.stdout, [*COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _summary(
    classifier: "AdaptiveClassifier", inputs: Any, options: Any, images: int, skipped: int, cost: float
) -> dict[str, Any]:
    return {
        "bundle": classifier.description["experiment"],
        "accuracy_loss": options.accuracy_loss,
        "budget": classifier.budget if options.default else options.budget,
        "budget_met": classifier.operating(options).met,
        "certified": options.certified,
        "decided_by": classifier.operating(options).decided_by,
        "engine": classifier.engine.name,
        "expected": asdict(classifier.operating(options).expected),
        "images": images,
        "latency_ms": options.milliseconds,
        "measure": classifier.measure.name,
        "left_out": [text for text, _ in (*inputs.skipped.kinds(), *inputs.skipped.others())] + inputs.bad,
        "mean_cost": cost / max(images - skipped, 1),
        "policy": classifier.policy_name,
        "skipped": skipped,
        "validation_images": len(classifier.validation.get("error", ())),
    }


def _unlimited(classifier: "AdaptiveClassifier", options: Any) -> str | None:
    """What is said of a budget that no operating point reaches; None where a point does, or no budget is given."""
    dearest = classifier.points[-1].cost
    if options.budget is None or options.budget <= dearest:
        return None
    return f"the dearest operating point costs {dearest:.3g}"


def _say(summary: dict[str, Any], seconds: float, more: str = "", unlimited: str | None = None) -> None:
    skipped = f", {summary['skipped']} skipped" if summary["skipped"] else ""
    rate = summary["images"] / max(seconds, 1e-9)
    speed = f"{rate:.{0 if rate >= 10 else 1}f} images/s with {summary['engine']}{more}"
    cost = f"mean cost {summary['mean_cost']:.3f}"
    chose = "" if summary["decided_by"] == summary["policy"] else f" (here {summary['decided_by']})"
    policy = f"policy {summary['policy']}{chose}"
    line = f"{counted(summary['images'], 'image')}{skipped}, {cost}, {policy}, {speed}"
    print(line, file=sys.stderr)
    if unlimited is not None:
        print(f"the budget of {summary['budget']:g} limits nothing: {unlimited}", file=sys.stderr)
    if summary["left_out"]:
        print(f"left out: {', '.join(summary['left_out'])}", file=sys.stderr)
    expected = summary["expected"]
    if expected["cost_interval"] is not None:
        parts = (
            f"{name} {expected[key]:.3f} [{expected[f'{key}_interval'][0]:.3f}, {expected[f'{key}_interval'][1]:.3f}]"
            for name, key in (
                ("cost" if summary["latency_ms"] is None else "milliseconds", "cost"),
                (summary["measure"], "accuracy"),
            )
        )
        print(f"to expect of data like the validation data (95 %): {', '.join(parts)}", file=sys.stderr)
    if (labelled := expected["labelled"]) is not None:
        print("accuracy on labelled images (95 %): {:.3f} [{:.3f}, {:.3f}]".format(*labelled), file=sys.stderr)
    if (most := expected["accuracy_loss_limit"]) is not None:
        lost = expected["accuracy_loss"]
        side = f"{lost:.2f} points below" if lost >= 0 else f"{-lost:.2f} points above"
        print(f"on validation {side} the float network; on new data at most {most:.2f} below (95 %)", file=sys.stderr)
    if not summary["budget_met"]:
        asked = "accuracy loss" if summary["accuracy_loss"] is not None else "budget"
        why = ""
        if summary["accuracy_loss"] is not None and not summary["certified"] and (of := summary["validation_images"]):
            why = f" ({counted(of, 'validation image')} cannot show that any point loses less than {most:.2f} points)"
        print(f"the {asked} cannot be met{why}: served at the nearest operating point", file=sys.stderr)


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("image", "class", "probability", "path", "cost"):
        table.add_column(name, justify="right" if name in ("probability", "cost") else "left", overflow="fold")
    for row in rows[:SHOWN]:
        if row["error"]:
            table.add_row(row["image"], f"– {row['error']}", "", "", "")
        else:
            table.add_row(row["image"], row["class"], f"{row['probability']:.3f}", row["path"], f"{row['cost']:.3f}")
    Console().print(table)
    if len(rows) > SHOWN:
        print(f"{len(rows) - SHOWN} more: see --csv, --json or --out", file=sys.stderr)
