"""Stage `report`: figures, and one page that opens in any browser without a network."""

from pathlib import Path
from typing import Any

from quee.measure import LABELLED
from quee.policies.registry import METHODS
from quee.report import Results
from quee.report.figures import draw
from quee.report.page import build_page
from quee.report.sentence import Summary, with_chosen
from quee.work.io import file_digest, read_json, read_table, write_bytes
from tasks.examples import inputs_of
from tasks.stage import Stage, main
from tasks.stages import read_by
from tasks.work import journal

MEASURED = Path("benchmarks/results")
GATES = "gates.json"


def run(stage: Stage) -> None:
    """Draw the figures and write the report from the results of the other stages."""
    folders = {name: stage.input(name) for name in read_by(stage.name)}
    measured = [name for name, folder in folders.items() if (folder / "metrics.json").is_file()]
    digests: dict[str, str] = {}

    def path(folder: str, name: str) -> Path:
        found = folders[folder] / name
        digests[f"{folder}/{name}"] = file_digest(found)
        return found

    def rows(folder: str, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = read_table(path(folder, f"{name}.parquet")).to_pylist()
        return found

    def some(folder: str, name: str) -> list[dict[str, Any]]:
        """Rows of a table; empty where the file is missing, because empty tables are not written."""
        return rows(folder, name) if (folders[folder] / f"{name}.parquet").exists() else []

    # No stage measures times, because they differ with every run; a benchmark may have written them.
    speeds = MEASURED / f"{stage.experiment.name}.json"
    if speeds.is_file():
        digests[speeds.as_posix()] = file_digest(speeds)
    results = Results(
        experiment=stage.experiment.name,
        title=stage.experiment.report.title or f"QuEE: {stage.experiment.name}",
        dataset=read_json(path("prepare", "dataset.json")),
        backbone=read_json(path("backbone", "backbone.json")),
        metrics={name: read_json(path(name, "metrics.json")) for name in measured},
        curve=rows("evaluate", "curve"),
        bands=rows("evaluate", "bands"),
        budgets=with_chosen(rows("evaluate", "budgets"), rows("evaluate", "operating_points")),
        usage=rows("evaluate", "usage"),
        calibration=rows("targets", "calibration"),
        clusters=rows("targets", "clusters"),
        quality=some("evaluate", "quality"),
        quality_curve=some("evaluate", "quality_curve"),
        sensitivity=rows("quantize", "sensitivity"),
        candidates=some("exits", "candidates"),
        resplits=some("evaluate", "resplits"),
        labelled=some("evaluate", LABELLED),
        gates=read_json(path("backbone", GATES)) if (folders["backbone"] / GATES).is_file() else {},
        tree=read_json(path("tree", "tree.json")),
        executed=read_json(speeds) if speeds.is_file() else {},
        digests=digests,
    )
    path("features", "tree.json")
    for name in ("targets", "predictors", "policies"):
        for file in sorted(folders[name].glob("*.safetensors")):
            path(name, file.name)
    bundle = stage.experiment.bundle
    deployed = METHODS[bundle.policy].shown
    summary = Summary(results.metrics["evaluate"], results.budgets, deployed, bundle.budget, results.labelled)
    figures = draw(results, summary)
    (stage.out / "figures").mkdir()
    for name, text in figures.items():
        write_bytes(stage.out / "figures" / f"{name}.svg", text.encode())
    records = Path("../../..") / journal.summary_file(stage.experiment.name)  # from artifacts/EXPERIMENT/report/
    folder = (stage.artifacts / "bundle").as_posix()
    inputs, against = inputs_of(stage, summary.deployed)
    page = build_page(results, figures, summary, folder, inputs, against, records.as_posix())
    write_bytes(stage.out / "report.html", page.encode())


if __name__ == "__main__":
    main(run)
