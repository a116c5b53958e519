"""Formats of `metrics.json` of stage `evaluate`: numbers of one name that mean different things are never set side by side.

In format 1, which has no number, `auc` was the mean over budgets from the cheapest to the dearest static path of the
experiment's own tree. Since format 2 it is the mean over `AUC_BUDGETS`, and `floor_accuracy` is there too, so that `auc`
follows from `curve.parquet`: `quee.evaluation.recomputed`.
"""

from collections.abc import Mapping
from typing import Any

from quee.errors import IntegrityError

FORMAT = 2
EARLIER = "over_own_budgets"
"""Key of what a result of format 1 says of methods by its own `auc`: gains that cannot be computed anew."""
_BY_AUC = ("first_step_auc", "gains", "oracle_gap_closed", "resplits")


def comparable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics in terms of the current format: one of format 1 is without what depends on its `auc`.

    Raises IntegrityError for a newer format.
    """
    number = metrics.get("format", 1)
    if number not in (1, FORMAT):
        raise IntegrityError(f"metrics.json of stage evaluate has format {number!r}; this version reads 1 and {FORMAT}")
    if number == FORMAT:
        return dict(metrics)
    found = {key: value for key, value in metrics.items() if key not in _BY_AUC}
    found["methods"] = {
        name: {key: value for key, value in method.items() if key not in ("auc", "auc_by_seed")}
        for name, method in metrics.get("methods", {}).items()
    }
    if "behind_best" in metrics:
        found["behind_best"] = {
            name: {column: value for column, value in columns.items() if column != "auc"}
            for name, columns in metrics["behind_best"].items()
        }
    return found
