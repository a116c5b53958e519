"""The order of an experiment's parameters."""

from quee.settings.experiment import parse_experiment, resolved
from tasks.mlflow.rows import own_first
from tasks.mlflow.values import settings_of

YAML = """
prepare: {dataset: digits}
backbone: {name: vit_digits, epochs: 3}
targets: {clusters: 7}
"""


def test_settings_that_are_not_at_their_default_come_first() -> None:
    settings = settings_of(resolved(parse_experiment("own", YAML, "own.yaml")))
    found = own_first(settings)
    assert list(found)[:4] == ["prepare.dataset", "backbone.name", "backbone.epochs", "targets.clusters"]
    assert found == settings


def test_settings_of_a_network_that_is_gone_keep_their_order() -> None:
    settings = {"backbone.epochs": "3", "backbone.name": "gone", "targets.clusters": "7"}
    assert list(own_first(settings)) == list(settings)
