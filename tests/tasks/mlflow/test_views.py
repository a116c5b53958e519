"""The columns of the list of results, and addresses of MLflow's pages."""

import json

from example_results import evaluation, method

from quee.settings.experiment import parse_experiment, resolved
from tasks.mlflow.headlines import Figures
from tasks.mlflow.values import settings_of
from tasks.mlflow.views import address, tags_of_home


def test_the_list_of_results_shows_metrics_and_settings_that_there_are() -> None:
    columns = json.loads(tags_of_home("experiment")["mlflow.sharedViewState.quee"])["selectedColumns"]
    metrics = [name.split("`")[1] for name in columns if name.startswith("metrics.")]
    assert len(metrics) >= 5
    reached = evaluation(methods={"quee_plan": method("quee_plan", half=0.5)})
    assert set(metrics) <= set(Figures(reached, "plan", 0.2).metrics())
    named = {name.split("`")[1] for name in columns if name.startswith("params.")}
    yaml = "prepare: {dataset: digits}\nbackbone: {name: vit_digits}\npaths: {precisions: [w3a3, w8a8]}\n"
    assert named <= set(settings_of(resolved(parse_experiment("digits", yaml, "digits.yaml"))))


def test_only_the_list_of_results_has_the_view() -> None:
    assert "mlflow.sharedViewState.quee" not in tags_of_home("stage")
    base = "http://127.0.0.1:5000"
    assert address(base, "quee", "2").endswith(
        "/#/experiments/2/runs?workflowType=machine_learning&viewStateShareKey=quee"
    )
    assert "viewStateShareKey" not in address(base, "quee/stages", "1")
