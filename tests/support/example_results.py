"""Results of an experiment that need no computation, for tests of whatever shows results."""

from typing import Any

from quee.report import Results
from quee.report.sentence import Summary

METHODS = (
    "static_w3a3", "static_w8a8", "static_fp32", "static_hull", "confidence_w3a3", "entropy_w8a8", "confidence_hull",
    "random_routing", "quee_plan", "quee_fitted_q", "quee_plan_precisions_only", "quee_plan_exits_only_w3a3", "oracle",
)  # fmt: skip
BUDGETS = (0.05, 0.2, 1.0)
VARIANTS = (
    ("as_used", 1.0), ("width", 2.0), ("samples", 0.1), ("noise", 0.5), ("clusters", 5.0), ("clusters", 20.0)
)  # fmt: skip


def interval(low: float, high: float) -> dict[str, float]:
    return {"high": high, "low": low, "mean": (low + high) / 2}


def settled_tree() -> dict[str, Any]:
    """`tree.json` of a chosen tree."""
    rows = [
        {"accuracy": [0.8, 0.9], "auc": 0.85, "by_layer": by_layer, "cost": [0.1, cost], "precision": name}
        for name, by_layer, cost in (("w3a3", True, 0.2), ("w4a4", False, 0.3), ("w4a4", True, 0.3))
    ]
    interval = {"high": -0.01, "low": -0.05, "mean": -0.03}
    choice = {
        "budgets": [0.03125, 1.0],
        "by_layer": [{"kept": False, "precision": "w4a4", **interval}],
        "candidates": rows,
        "images": {"calibration": 16, "fitted": 50, "judged": 100, "judged_split": "validation"},
        "over_next": {"high": 0.02, "low": -0.01, "mean": 0.005},
        "passes": 123456,
        "sets": [{"auc": 0.95, "members": ["w3a3 by layer", "w4a4"]}],
        "tried": 3,
    }
    paths = ["w3a3", "w4a4", "w3a3-w3a3", "w3a3-w4a4", "w4a4-w3a3", "w4a4-w4a4"]
    return {
        "choice": choice, "float_products": {}, "layers": {"w3a3": {"a": "w4a4"}}, "paths": paths,
        "precisions": ["w3a3", "w4a4"],
    }  # fmt: skip


def costs_of(name: str) -> list[float]:
    fixed = {"static_w3a3": 0.14, "static_w8a8": 1.0, "static_fp32": 16.0}
    return [fixed[name]] if name in fixed else [0.03, 0.1, 0.4, 1.0]


def method(name: str, half: float | None = None, one: float | None = 0.4) -> dict[str, Any]:
    """The numbers of a method; `half` and `one` are its costs within half a point and one of the float network."""
    index, dearest = METHODS.index(name), costs_of(name)[0]
    return {
        "accuracy": 0.95,
        "accuracy_at_budget": {f"{budget:g}": 0.9 + index / 1000 for budget in BUDGETS},
        "auc": 0.9,
        "cost_at_budget": {f"{budget:g}": max(budget, dearest) for budget in BUDGETS},
        "cost_at_drop_0.5": half,
        "cost_at_drop_1.0": one,
    }


def evaluation(**changed: Any) -> dict[str, Any]:
    """`evaluate/metrics.json`, some entries changed; with None, left out."""
    found = {
        "methods": {name: method(name) for name in METHODS},
        "oracle_gap_closed": dict.fromkeys(METHODS, 0.5),
        "cost_at_drop": {
            "quee_plan": {
                "0.5": {"low": 0.3, "high": None, "reached": 0.4},
                "1.0": {"low": 0.35, "high": 0.5, "reached": 1.0},
            }
        },
        "cost_at_drop_ratio": {
            "quee_plan": {"static_hull": {"0.5": {"low": 0.0, "high": None}, "1.0": {"low": 0.6, "high": 0.8}}}
        },
        "difference_vs_static_hull": {"quee_plan": {"0.05": interval(0.01, 0.02), "0.2": interval(-0.01, 0.02)}},
        "differences": {
            "quee_plan": {
                "static_hull": {
                    "0.05": {"band_low": 0.01, "band_high": 0.02, **interval(0.01, 0.02)},
                    "0.2": {"band_low": -0.01, "band_high": 0.02, **interval(0.001, 0.02)},
                }
            }
        },
        "quality_rank_correlation": -0.9,
        "first_step_auc": {"rollout": 0.91, "marginal": 0.9},
        "fp32_accuracy": 0.97,
        "gains": {"gain.quee_plan.static_hull": {"mean": 0.004, "low": 0.001, "high": 0.007}},
        "resplits": {
            "auc.quee_plan": interval(0.9, 0.92),
            "gain.quee_plan.static_hull": interval(0.01, 0.02),
            "gain.quee_plan.confidence_hull": interval(-0.02, -0.01),
            "gain.quee_plan.random_routing": interval(-0.01, 0.02),
        },
        "test_samples": 1000,
    }
    return {key: value for key, value in {**found, **changed}.items() if value is not None}


def example(classes: int = 3) -> Results:
    names = [f"class <{k}>" for k in range(classes)]
    curve, points = [], []
    for index, method in enumerate(METHODS):
        costs = costs_of(method)
        for split in ("validation", "test"):
            for cost in costs:
                row = {"method": method, "lambda": None, "threshold": None, "split": split, "seed": 0}
                curve.append({**row, "accuracy": 0.9 + 0.01 * cost ** (1 / (index + 2)), "cost": cost})
        for budget in BUDGETS:
            met = budget >= costs[0]
            point = {
                "method": method,
                "budget": budget,
                "test_cost": max(budget, costs[0]),
                "test_accuracy": 0.9 + index / 1000,
            }
            points.append({**point, "low": 0.88, "high": 0.93, "budget_met": met, "seeds": 3})
    paths = ("w3a3", "w3a3-w8a8", "w8a8-w8a8-w8a8")
    used = [
        {
            "label": k,
            "class": names[k],
            "method": "quee_plan",
            "budget": b,
            "path": p,
            "samples": 2.5 + k,
            "share": 1 / 3,
        }
        for k in range(classes)
        for b in BUDGETS
        for p in paths
    ]
    calibration = [
        {"clusters": k, "node": node, "gate": gate, "split": split, "ece": 0.1 / k + 0.01 * gate}
        for k in (1, 5, 10, 20, 40)
        for gate, node in ((1, 0), (1, 1), (2, 2))
        for split in ("predictor", "validation")
    ]
    quality = {"rmse": 0.3, "ece": 0.04, "auroc": 0.8, "aurc": 0.05, "bitflops": 10}
    quantized = {"accuracy": 0.9, "agreement": 0.95, "bitflops": 1000, "bytes": 2000, "cost": 0.5}
    return Results(
        experiment="example",
        title="An <example>",
        dataset={"dataset": "digits", "samples": 9, "classes": names, "splits": {"train": 6, "test": 3}},
        backbone={"name": "vit_digits", "gates": [2, 4, 6]},
        metrics={
            "backbone": {"accuracy": {"test": 0.97}, "parameters": 1000, "macs": 5, "svc_accuracy": 0.98},
            "quantize": {"precisions": {"w3a3": quantized, "fp32": quantized}},
            "exits": {
                "gates": {"1": {"w3a3": 0.6, "w8a8": 0.7}, "2": {"w3a3": 0.8, "w8a8": 0.9}},
                "heads": {"1": {"pooling": "mean2x2", "reason": "least loss and cost", "sizes": [64, 8, 4]}},
            },
            "targets": {"clusters": 20, "ece": {"gate_1": 0.1}, "ece_by_clusters": {"gate_1": {"5": 0.2, "20": 0.1}}},
            "predictors": {"gates": {"1": quality, "2": quality}},
            "evaluate": evaluation(),
        },
        curve=curve,
        bands=[
            {"method": method, "cost": cost, "accuracy": 0.9, "low": 0.88, "high": 0.93}
            for method in ("quee_plan", "static_hull", "confidence_hull")
            for cost in (0.03, 0.1, 1.0)
        ],
        budgets=points,
        usage=used,
        tree=settled_tree(),
        calibration=calibration,
        candidates=[candidate("mean_max", 0, 0.9), candidate("mean2x2", 8, 0.5, True), candidate("mean", 8, 0.7)],
        resplits=[{"method": "quee_plan", "resplit": seed, "auc": 0.9, "gap_closed": 0.5} for seed in range(20)],
        clusters=[
            {
                "cluster": k,
                "entropy": 0.1 * k,
                "error": 0.05 * k,
                "gate": gate,
                "node": gate - 1,
                "p_label": 1 - 0.05 * k,
                "path": "-".join(["w3a3"] * gate),
                "rank": k,
                "samples": 5,
            }
            for gate in (1, 2)
            for k in range(4)
        ],
        quality=[
            {"kind": kind, "value": v, "rmse": 0.2 + v, "ece": 0.1, "auroc": 0.8, "aurc": 0.1, "auc": 0.95 - v / 10}
            for kind, v in VARIANTS
        ],
        quality_curve=[
            {"kind": kind, "value": v, "cost": cost, "accuracy": 0.9 + 0.01 * cost}
            for kind, v in VARIANTS
            for cost in (0.1, 0.5)
        ],
        sensitivity=[
            {"precision": p, "position": k, "layer": f"l{k}", "segment": min(k // 2 + 1, 3), "sqnr_db": 20.0 + k}
            for p in ("w3a3", "w8a8")
            for k in range(6)
        ],
        digests={"evaluate/metrics.json": "ab" * 32},
    )


def candidate(pooling: str, hidden: int, loss: float, chosen: bool = False) -> dict[str, Any]:
    """A row of candidates.parquet."""
    own = {"pooling": pooling, "hidden": hidden, "dropout": 0.5 if hidden else 0.0, "each_precision": False}
    return own | {"gate": 1, "cost": 0.001, "loss": loss, "score": loss, "accuracy": 0.8, "chosen": chosen}


def summary(results: Results) -> Summary:
    """Of what `example` deploys."""
    return Summary(results.metrics["evaluate"], results.budgets, "quee_plan", 0.2, results.labelled)
