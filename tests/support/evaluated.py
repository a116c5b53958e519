"""A result of stage `evaluate`, as small as what reads it allows."""

from typing import Any

from quee.policies.names import MAIN


def method(cost: float | None = 0.3) -> dict[str, Any]:
    """The numbers of one method; `cost` is that within half a point of the float network."""
    return {
        "auc": 0.9,
        "accuracy_at_budget": {"0.1": 0.85, "0.2": 0.88},
        "cost_at_budget": {"0.1": 0.09, "0.2": 0.18},
        "cost_at_drop_0.5": cost,
        "cost_at_drop_1.0": 0.2,
    }


def evaluation(**changed: Any) -> dict[str, Any]:
    """The metrics of an evaluation of all main methods, some changed."""
    gains = {f"gain.quee_auto.{rival}": {"mean": 0.01, "low": -0.002, "high": 0.02} for rival in MAIN}
    found = {"fp32_accuracy": 0.906, "methods": {name: method() for name in MAIN}, "gains": gains, "test_samples": 1000}
    return {**found, "oracle_gap_closed": {"quee_auto": 0.4}, **changed}
