"""Numbers of a result as MLflow takes them."""

from tasks.mlflow.values import experiment_metrics, of_run

EVALUATION = {
    "fp32_accuracy": 0.9,
    "methods": {"quee_plan": {"auc": 0.8, "auc_by_seed": [0.8], "accuracy": 0.85}},
    "oracle_gap_closed": {"quee_plan": 0.4},
}


def test_what_means_something_else_in_an_earlier_format_is_not_logged_and_not_compared() -> None:
    now = experiment_metrics(lambda _: {**EVALUATION, "format": 2}, ["evaluate"])
    earlier = experiment_metrics(lambda _: EVALUATION, ["evaluate"])
    assert {"methods/quee_plan.auc", "oracle_gap_closed/quee_plan", "evaluate/format"} <= set(now)
    assert set(earlier) == {"fp32_accuracy", "methods/quee_plan.accuracy"}
    assert of_run(now) == now
    logged_earlier = {name: value for name, value in now.items() if name != "evaluate/format"}
    assert of_run(logged_earlier) == earlier, "a run that was logged before format 2"
