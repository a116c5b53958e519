"""Which policy `auto` takes at which budget, in words and tables."""

from html import escape
from itertools import groupby
from typing import Any

from quee.policies.auto import NAME
from quee.report import Results
from quee.report.markup import table
from quee.work.percentages import percent

BEST = "\0"
"""Beginning of a table's best cell."""


def chosen_policies(results: Results) -> str:
    """The policies that `auto` takes by budget and the candidates' accuracies; empty where no policies were chosen."""
    found: dict[str, Any] = results.metrics.get("policies", {}).get(NAME, {})
    if not found.get("budgets"):
        return ""
    rising = sorted(found["budgets"].items(), key=lambda item: float(item[0]))
    taken = [(name, [budget for budget, _ in run]) for name, run in groupby(rising, key=lambda item: item[1])]
    spans = [[_between(budgets), escape(name)] for name, budgets in taken]
    text = (
        f"<p>quee_{NAME} takes, of all policies that can be deployed, the one that "
        f"validation shows to be best at a budget, and else the default, which is {escape(found['default'])} here: the simplest "
        f"that is not worse than the best beyond doubt.</p>" + table(["budgets", "policy"], spans)
    )
    if known := found.get("accuracy"):
        best = max((name for name in known if name != NAME), key=lambda name: known[name])
        rows = [
            [f"quee_{NAME}" if name == NAME else escape(name), f"{BEST if name == best else ''}{percent(value, 2)}"]
            for name, value in sorted(known.items(), key=lambda item: (-item[1], item[0]))
        ]
        text += (
            "<p>What it was chosen from: accuracy on validation over the budgets that all candidates can serve, cross-fitted; "
            f"for quee_{NAME} itself, with the choice made anew in each fold.</p>" + table(["policy", "accuracy"], rows)
        )
    return text


def _between(budgets: list[str]) -> str:
    first, last = f"{float(budgets[0]):.2g}", f"{float(budgets[-1]):.2g}"
    return first if first == last else f"{first} to {last}"
