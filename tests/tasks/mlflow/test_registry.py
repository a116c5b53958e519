"""Which version is champion, by the tags of both, and what the registry says of it."""

import json
import re
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from mlflow.exceptions import MlflowException

from tasks.mlflow.registry import CHAMPION, compared, decide, finish

EARLIER = {
    "version": "1",
    "quee.validation.accuracy": "0.90",
    "quee.validation.low": "0.88",
    "quee.validation.budget": "0.2",
    "quee.validation.data": "a",
}
NOW = {"accuracy": "0.93", "accuracy at least": "0.91", "budget": "0.2", "quee.data": "a"}


def test_a_version_is_compared_with_one_of_an_earlier_release() -> None:
    moves, why = compared(EARLIER, NOW)
    assert moves
    assert "93.00 % against 90.00 % of version 1 on validation at budget 0.2, interval from 91.00 %" in why
    assert not compared({**NOW, "version": "2"}, {key: EARLIER[key] for key in EARLIER if key != "version"})[0]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"budget": "0.3"}, "the budgets differ"),
        ({"quee.data": "b"}, "the validation samples differ"),
        ({"accuracy at least": "0.90"}, "not better by more than its interval"),
    ],
)
def test_the_champion_stays_unless_the_other_is_better_on_the_same_images_at_the_same_budget(
    changed: dict[str, str], why: str
) -> None:
    moves, said = compared(EARLIER, {**NOW, **changed})
    assert not moves
    assert why in said


def test_a_version_without_results_does_not_become_champion_of_others() -> None:
    assert compared(None, {}) == (True, "as there was none")
    assert not compared(EARLIER, {})[0]
    assert not compared({"version": "1"}, NOW)[0]


class Registry:
    """The part of a client that a decision uses, with one model in memory."""

    def __init__(self, *versions: SimpleNamespace) -> None:
        self.versions = {version.version: version for version in versions}
        self.aliases: dict[str, str] = {}
        self.description, self.tags = "", dict[str, str]()

    def get_model_version_by_alias(self, _name: str, alias: str) -> SimpleNamespace:
        if alias not in self.aliases:
            raise MlflowException("no such alias")
        return self.versions[self.aliases[alias]]

    def set_registered_model_alias(self, _name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def set_model_version_tag(self, _name: str, version: str, key: str, value: str) -> None:
        self.versions[version].tags[key] = value

    def set_registered_model_tag(self, _name: str, key: str, value: str) -> None:
        self.tags[key] = value

    def update_registered_model(self, _name: str, description: str) -> None:
        self.description = description


def version(number: int, accuracy: float, **tags: str) -> SimpleNamespace:
    known = {**NOW, "accuracy": f"{accuracy}", "accuracy at least": f"{accuracy - 0.02}", "cost": "0.09"}
    known |= {"measured on": "180 validation images", "data": "digits", **tags}
    return SimpleNamespace(name="quee-digits", version=f"{number}", run_id=f"run{number}", tags=known)


def registered(*versions: SimpleNamespace) -> Registry:
    """A registry in which the versions were registered one after the other."""
    registry: Any = Registry(*versions)
    for one in versions:
        finish(registry, one, decide(registry, one), "About the model.")
    found: Registry = registry
    return found


def test_the_model_says_which_version_is_champion_and_with_what_results() -> None:
    alone = registered(version(1, 0.95))
    assert alone.description == (
        "About the model.\n\n**Champion: version 1.** Accuracy 95.0 % at cost 0.09 on 180 validation images, with budget 0.2."
    )
    assert alone.versions["1"].tags["quee.champion"] == "champion, as there was none"
    assert alone.tags == {"accuracy": "0.95", "cost": "0.09", "budget": "0.2", "data": "digits"}


def test_a_version_that_is_not_better_beyond_doubt_is_told_beside_the_champion_with_a_link_to_both() -> None:
    found = registered(version(1, 0.95), version(2, 0.96))
    _, champion, newest = found.description.split("\n\n")
    assert champion.startswith("**Champion: version 1.** Accuracy 95.0 %")
    assert newest.startswith(
        "Version 2 is not champion, version 1 stays, as this one is not better by more than its interval: 96.00 % against "
        "95.00 % of version 1 on validation at budget 0.2, interval from 94.00 %. [Versions 1 and 2 side by side]("
    )
    (address,) = re.findall(r"\(#/compare-model-versions\?(\S+)\)\.$", newest)
    name, runs = (json.loads(unquote(part.partition("=")[2])) for part in address.split("&"))
    assert (name, runs) == ("quee-digits", {"1": "run1", "2": "run2"})
    assert found.tags["accuracy"] == "0.95", "the model's tags are the champion's"


def test_a_version_that_is_better_beyond_doubt_takes_the_alias_and_the_former_champion_says_so() -> None:
    found = registered(version(1, 0.9), version(2, 0.96))
    assert found.aliases == {CHAMPION: "2"}
    assert "**Champion: version 2.** Accuracy 96.0 %" in found.description and "side by side" not in found.description
    assert found.versions["2"].tags["quee.champion"].startswith("champion, better by more than its interval: 96.00 %")
    said = "was champion until version 2, which is better by more than its interval"
    assert found.versions["1"].tags["quee.champion"] == said


def test_agreement_is_not_called_accuracy() -> None:
    found = registered(version(1, 0.95, **{"quee.measure": "agreement"}))
    assert "Agreement 95.0 % at cost 0.09" in found.description
