"""Tags of MLflow's experiments: what their pages show, and the columns of the list of results."""

import json

from tasks.mlflow.describe import NOTE, PAGES
from tasks.mlflow.headlines import CURVE, PER_UNIT
from tasks.mlflow.store import HOMES, RESULTS

VIEW = "quee"
"""Key of the view of the list of results, which is part of its address."""

COLUMNS = (
    "metrics.`accuracy of the default`",
    "metrics.`cost of the default`",
    "metrics.`cost at 0.5 points below float`",
    "metrics.`gain over static`",
    "metrics.`auc`",
    "params.`prepare.dataset`",
    "params.`backbone.name`",
    "params.`paths.precisions`",
    "params.`bundle.policy`",
)
"""Columns of the list of results, by MLflow's names. It shows neither metrics nor parameters by itself."""

ABOUT = {
    "experiment": f"One run per result of an experiment; those of stages are in `{HOMES['stage']}`. Charts `{CURVE}METHOD`: "
    f"accuracy over cost, the step is the cost in 1/{PER_UNIT} of the 8-bit network's.",
    "stage": f"One run per result of a stage. Each is described with the results in `{RESULTS}` that it is part of.",
    "point": "One run per point of an ablation, in which one setting is varied at a time.",
}
"""Description of MLflow's experiment for each kind of run."""


def tags_of_home(kind: str) -> dict[str, str]:
    """The tags of MLflow's experiment for a kind of run."""
    tags = {NOTE: ABOUT[kind], "mlflow.experimentKind": "custom_model_development"}
    if kind == "experiment":
        tags[f"mlflow.sharedViewState.{VIEW}"] = json.dumps({"selectedColumns": COLUMNS})
    return tags


def address(base: str, name: str, experiment_id: str) -> str:
    """Address of the list of an experiment's runs."""
    view = f"&viewStateShareKey={VIEW}" if name == RESULTS else ""
    return f"{base}/#/experiments/{experiment_id}/runs?{PAGES}{view}"
