"""`quee shift EXPERIMENT`: the bundle under corruptions and class imbalance. It is not a stage of the pipeline."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from quee.cli import AsJson

OUT = "shift.parquet"


def shift(
    experiment: str,
    samples: Annotated[int, typer.Option(min=10, help="Test images, drawn at random.")] = 1000,
    budget: Annotated[
        list[float] | None, typer.Option(help="Mean cost; may be repeated. The bundle's if none.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="noise, blur, contrast, rotation, imbalance; all if none.")
    ] = None,
    severity: Annotated[list[int] | None, typer.Option(help="1 to 5; all if none.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_: AsJson = False,
) -> None:
    """Measure an experiment's bundle under shift: accuracy, realised cost, gap to static networks at that cost, and
    the cost of a stream of 1,000 images that holds its budget.

    Writes artifacts/EXPERIMENT/shift/shift.parquet.
    """
    import pyarrow as pa

    from quee.errors import UsageError
    from quee.evaluation.shift import LEVELS, SEVERITIES, shift_rows
    from quee.work.io import write_table
    from quee.work.progress import progress
    from quee.work.registry import unknown

    known = [*LEVELS, "imbalance"]
    for name in kind or []:
        if name not in known:
            raise UsageError(unknown("shift", name, known))
    for number in severity or []:
        if number not in SEVERITIES:
            raise UsageError(f"--severity {number}: give 1 to 5")
    classifier, images, labels, groups = load(Path.cwd(), experiment, samples, seed)
    budgets, kinds, levels = budget or [classifier.budget], kind or known, severity or list(SEVERITIES)
    rows = []
    with progress("shifts", 1 + len(kinds) * len(levels)) as bar:
        for row in shift_rows(classifier, images, labels, budgets, kinds, levels, seed=seed, groups=groups):
            rows.append(row)
            if row["budget"] == budgets[-1]:
                bar.advance()
    out = Path("artifacts") / experiment / "shift"
    out.mkdir(exist_ok=True)
    write_table(out / OUT, pa.Table.from_pylist(rows))
    typer.echo(json.dumps(rows, indent=1) if json_ else classifier.measure.said(table(rows)))


def load(root: Path, experiment: str, samples: int, seed: int) -> tuple[Any, Any, Any, Any]:
    """The bundle, a random sample of its test images, uint8 (n, h, w, c) at the backbone's size, their labels and groups."""
    import numpy as np

    from quee.data.decode import to_array
    from quee.data.source import open_dataset
    from quee.data.splits import split_groups
    from quee.errors import IntegrityError
    from quee.runtime import load_bundle
    from quee.settings.experiment import load_experiment
    from quee.work.io import read_json, read_table

    settings = load_experiment(experiment, root / "experiments")
    artifacts = root / "artifacts" / experiment
    for folder in ("prepare", "bundle"):
        if not (artifacts / folder).is_dir():
            raise IntegrityError(f"missing folder: {artifacts / folder}; `quee run {experiment}` makes it")
    classifier = load_bundle(artifacts / "bundle")
    splits = read_table(artifacts / "prepare" / "splits.parquet")
    ids = splits["sample_id"].to_numpy()[np.array(splits["split"].to_pylist()) == "test"]
    ids = np.sort(np.random.default_rng(seed).permutation(ids)[:samples])
    digests = read_json(artifacts / "prepare" / "dataset.json")["files"]
    source = open_dataset(root / "data" / settings.prepare.dataset, settings.prepare.dataset, digests)
    images = np.stack([to_array(classifier.transform.fit(source.decode_image(i))) for i in ids])
    groups = split_groups(artifacts / "prepare" / "splits.parquet", ids)
    return classifier, images, source.labels[ids], groups


def table(rows: list[dict[str, Any]]) -> str:
    from quee.work.percentages import DIFFERENCE, figure

    lines = [
        f"{'shift':<12}{'severity':>8}{'budget':>8}{'cost':>8}{'held':>8}{'accuracy':>10}{'static':>8}   gap at equal cost"
    ]
    for row in rows:
        gap, low, high = (figure(row[key], 1, *DIFFERENCE, sign=True) for key in ("gap", "gap_low", "gap_high"))
        lines.append(
            f"{row['kind']:<12}{row['severity']:>8}{row['budget']:>8g}{row['cost']:>8.3f}{row['held_cost']:>8.3f}"
            f"{figure(row['accuracy'], 1):>10}{figure(row['static_accuracy'], 1):>8}   {gap} [{low}, {high}]"
        )
    return "\n".join(lines)
