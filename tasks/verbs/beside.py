"""Two results in the terminal: what each is, and its main methods beside the other's."""

from collections.abc import Iterator

from rich.table import Table

from quee.evaluation.near import DROPS
from quee.policies.names import named
from quee.report.comparison import LETTERS
from quee.settings.bundle import Bundle
from quee.work.columns import tables
from quee.work.percentages import DASH, DIFFERENCE, figure, percent
from tasks.mlflow.compare import Side

COMPARED = named("ours", "reference", "rival")
"""Methods that are shown."""
BUDGET = f"{Bundle().budget:g}"
DROP = min(DROPS)
DATASET = "prepare.dataset"
"""The setting in which results differ whose accuracies do not compare."""


def facts(sides: tuple[Side, Side]) -> Iterator[str]:
    """A line for either result: float accuracy on the test images, parameters and multiply-adds, as far as they are known."""
    for letter, side in zip(LETTERS, sides, strict=True):
        known = side.metrics
        parts = [f"{letter}: {side.label}"]
        if (full := known.get("fp32_accuracy")) is not None:
            parts.append(f"float {percent(full, 2)}")
        counts = (("parameters", known.get("backbone/parameters")), ("multiply-adds", known.get("backbone/macs")))
        parts += [f"{count:,.0f} {what}" for what, count in counts if count is not None]
        yield ", ".join(parts)


def methods_tables(sides: tuple[Side, Side], width: int) -> list[Table]:
    """A row per method that either has: accuracy over all budgets and at the default one, cost near the float network.

    Columns for which `width` characters have no room are in a table below. None where neither has results of methods.
    """
    shown = [name for name in COMPARED if any(f"methods/{name}.auc" in side.metrics for side in sides)]
    heads = [
        "\nmethod",
        "auc, %\nA",
        "\nB",
        "\nB − A",
        f"at {BUDGET}, %\nA",
        "\nB",
        f"{DROP:g} below\nA",
        "float at\nB",
    ]
    return tables(heads, [_row(sides, name) for name in shown], width) if shown else []


def _row(sides: tuple[Side, Side], name: str) -> list[str]:
    def of(number: str) -> list[float | None]:
        return [side.metrics.get(f"methods/{name}.{number}") for side in sides]

    auc, costs = of("auc"), of(f"cost_at_drop_{DROP}")
    first, second = auc
    comparable = sides[0].settings.get(DATASET) == sides[1].settings.get(DATASET)
    apart = second - first if comparable and first is not None and second is not None else None
    reached = ["never" if cost is None else f"{cost:.3f}" for cost in costs]
    return [
        name,
        *map(figure, auc),
        figure(apart, 2, *DIFFERENCE, sign=True),
        *map(figure, of(f"accuracy_at_budget.{BUDGET}")),
        *(DASH if whole is None else cost for whole, cost in zip(auc, reached, strict=True)),
    ]
