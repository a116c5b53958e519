"""What answers are compared with: labels that people gave, or the float network's own answers where images have none.

The comparison is called accuracy in the first case and agreement in the second. Results say which by entry `measure`, which
is left out for accuracy. The keys of results keep their names, so that everything that reads them reads both.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Name = Literal["accuracy", "agreement"]
KEY = "measure"
"""Entry of `dataset.json`, `tree.json`, `metrics.json` and `bundle.json`."""
LABELLED = "labelled"
"""Split of the images that people labelled beside images without labels."""
_WORD = re.compile("([Aa])ccurac(y|ies)")


@dataclass(frozen=True)
class Measure:
    """The share of answers that are as they should be."""

    name: Name
    against: str
    """What answers are compared with."""

    @property
    def facts(self) -> dict[str, str]:
        """The entry of results; empty for accuracy."""
        return {} if self is ACCURACY else {KEY: self.name}

    def said(self, text: str) -> str:
        """A text that speaks of accuracy, or the name of a metric, in the words of this measure."""
        if self is ACCURACY or text.endswith(f".{LABELLED}"):
            return text
        return _WORD.sub(_agreement, text).replace("is right on", "agrees with the float network on")


ACCURACY = Measure("accuracy", "labels")
AGREEMENT = Measure("agreement", "the float network's own answers")
MEASURES = {measure.name: measure for measure in (ACCURACY, AGREEMENT)}


def measure_of(facts: Mapping[str, Any]) -> Measure:
    """The measure of results, by their entry."""
    return MEASURES[facts.get(KEY, ACCURACY.name)]


def _agreement(found: "re.Match[str]") -> str:
    first, end = found.groups()
    return f"{first}greement{'' if end == 'y' else 's'}"
