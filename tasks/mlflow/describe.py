"""Descriptions for MLflow's pages, in Markdown with links inside MLflow."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from quee.work.counts import counted
from tasks.dvc.lock import ExperimentResult
from tasks.mlflow.headlines import UNITS, Figures
from tasks.mlflow.store import model_name

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

NOTE = "mlflow.note.content"
"""Tag of MLflow with a description."""

PAGES = "workflowType=machine_learning"
"""Part of an address without which MLflow opens with pages for agents."""

FIGURE = "report/figures/curves.svg"
"""The artifact that a run's description shows."""


def run_link(run: "Run", text: str = "") -> str:
    """Link to a run's page, with the run's name by default."""
    return f"[{text or run.info.run_name}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{PAGES})"


def version_link(version: "ModelVersion") -> str:
    """Link to the page of a model's version."""
    return f"[{version.name} version {version.version}](#/models/{version.name}/versions/{version.version})"


def comparison_link(first: "ModelVersion", second: "ModelVersion") -> str:
    """Link to the page of two versions of a model side by side, with the numbers of the runs that made them."""
    runs = {str(version.version): version.run_id for version in (first, second)}
    address = f"name={quote(json.dumps(quote(first.name)))}&runs={quote(json.dumps(runs, separators=(',', ':')))}"
    return f"[Versions {first.version} and {second.version} side by side](#/compare-model-versions?{address})."


def artifact_address(run_id: str, path: str) -> str:
    """Address of a run's artifact, relative to MLflow's pages."""
    return f"get-artifact?path={quote(path, safe='')}&run_uuid={run_id}"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with the same keys as a table; empty without rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)], *([*row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def title_of(result: ExperimentResult) -> str:
    """The title of an experiment's report, or the experiment's name."""
    return str(result.settings.get("report", {}).get("title") or result.experiment)


def of_experiment(
    result: ExperimentResult,
    figures: Figures,
    run_id: str,
    stages: Mapping[str, "Run"],
    version: "ModelVersion | None",
    decision: str,
    drawn: bool,
) -> str:
    """What an experiment's run is, its main numbers, how to make it again, and what belongs to it.

    `drawn` tells whether the run has the figure, and `decision` what was said when the version was registered.
    """
    settings = result.settings
    backbone, data = settings.get("backbone", {}).get("name"), settings.get("prepare", {}).get("dataset")
    samples = figures.evaluate.get("test_samples")
    facts = [
        f"Data `{data}`, backbone `{backbone}`" if data and backbone else "",
        counted(samples, "test image") if samples else "",
        UNITS if figures.shown else "",
        "the float accuracy is not told: fp32 is not among the precisions" if figures.untold else "",
    ]
    model = f"Not registered yet as `{model_name(result.experiment)}`."
    if version is not None:
        use = f"`models:/{version.name}/{version.version}`"
        model = f"{version_link(version)}, in code {use}. When registered: {decision}."
    if result.stages.get("bundle") is None:
        model = "The experiment has no bundle."
    blocks = [
        f"### {title_of(result)}",
        f"**{figures.sentence()}**" if figures.sentence() else "",
        " ".join(filter(None, [figures.summary.nearest(), figures.summary.instead()])),
        figures.measure.said(f"{'; '.join(fact for fact in facts if fact)}."),
        figures.measure.said(markdown_table(figures.table())),
        f"![Accuracy over cost]({artifact_address(run_id, FIGURE)})" if drawn else "",
        f"**Compare it:** `quee compare {run_id} OTHER --html` makes a page: which is better, both curves, what changes.",
        f"**Make it again:** `quee run {result.experiment}`; exactly as it was made, `quee reproduce {run_id}`.",
        f"**Model:** {model}",
        f"**Stages:** {', '.join(run_link(run, name) for name, run in stages.items())}.",
        "**More:** all numbers are in the table `metrics`, the report in the artifact `report/report.html`.",
    ]
    return "\n\n".join(block for block in blocks if block)


def of_stage(name: str, command: str, rows: "Iterable[Run]") -> str:
    """What a stage's run is, and the results of experiments that it is part of."""
    links = ", ".join(map(run_link, rows))
    return f"Result of `{name}`, made by `{command}`." + (f" Part of {links}." if links else "")


def of_model(result: ExperimentResult, figures: Figures) -> str:
    """What a registered model is and how to use it, with the result of its newest version."""
    name, said = model_name(result.experiment), figures.sentence()
    blocks = [
        f"{title_of(result)}: an adaptive image classifier.{f' Its newest version: {said}' if said else ''}",
        f"The version to use has the alias `champion`. In Python: `mlflow.pyfunc.load_model('models:/{name}@champion')`. "
        f"As a server: `mlflow models serve -m models:/{name}@champion --env-manager local`.",
        "Versions: tag `quee.champion` says why a version is champion or not. Accuracies and costs in the tags are those on "
        "the validation images at the version's budget.",
    ]
    return "\n\n".join(blocks)
