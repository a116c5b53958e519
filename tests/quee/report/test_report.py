"""The report has the same bytes twice, loads nothing from elsewhere, shows every method, and its text fits the intervals."""

import re
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from quee.report import Results
from quee.report import figures as figures_module
from quee.report.figures import FIGURES, Drawing, draw, usage
from quee.report.page import build_page
from quee.report.sections import parts, verdict
from quee.settings.experiment import load_experiment
from quee.work.io import file_digest, write_json, write_table
from tasks.report import run
from tasks.stage import Stage

ROOT = Path(__file__).parents[3]

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


def example(classes: int = 3) -> Results:
    names = [f"class <{k}>" for k in range(classes)]
    curve, points, methods = [], [], {}
    for index, method in enumerate(METHODS):
        fixed = {"static_w3a3": 0.14, "static_w8a8": 1.0, "static_fp32": 16.0}
        costs = [fixed[method]] if method in fixed else [0.03, 0.1, 0.4, 1.0]
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
        methods[method] = {"accuracy": 0.95, "auc": 0.9, "cost_at_drop_0.5": None, "cost_at_drop_1.0": 0.4}
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
    evaluate = {
        "methods": methods,
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
        "resplits": {
            "auc.quee_plan": interval(0.9, 0.92),
            "gain.quee_plan.static_hull": interval(0.01, 0.02),
            "gain.quee_plan.confidence_hull": interval(-0.02, -0.01),
            "gain.quee_plan.random_routing": interval(-0.01, 0.02),
        },
    }
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
            "evaluate": evaluate,
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


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    return draw(example())


@pytest.fixture(scope="module")
def page(figures: dict[str, str]) -> str:
    return build_page(example(), figures)


def test_two_builds_are_the_same_bytes_whatever_the_settings_of_matplotlib(
    figures: dict[str, str], page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    again = draw(example())
    assert again == figures
    assert build_page(example(), again) == page


def test_costs_near_the_float_network_have_their_intervals_and_stand_against_rivals(page: str) -> None:
    savings = page[page.index('id="savings"') :]
    assert "<td>never<small>0.3 … never</small></td><td>0.4<small>0.35 … 0.5</small></td>" in savings
    assert "<td>static_hull</td><td>0 … never</td><td>0.6 … 0.8</td>" in savings
    assert "<td>static_w8a8</td><td>never</td><td>0.4</td>" in savings  # results from before there were intervals


def test_the_stage_writes_the_page_and_the_figures_from_the_files_of_the_others(
    figures: dict[str, str], tmp_path: Path
) -> None:
    results = example()
    artifacts, out = tmp_path / "artifacts", tmp_path / "out"
    for stage in ("policies", "prepare", "tree", *results.metrics):
        (artifacts / stage).mkdir(parents=True)
    write_json(artifacts / "tree" / "tree.json", results.tree)
    for stage, metrics in results.metrics.items():
        write_json(artifacts / stage / "metrics.json", metrics)
    write_json(artifacts / "prepare" / "dataset.json", results.dataset)
    write_json(artifacts / "backbone" / "backbone.json", results.backbone)
    write_table(artifacts / "targets" / "calibration.parquet", pa.Table.from_pylist(results.calibration))
    write_table(artifacts / "targets" / "clusters.parquet", pa.Table.from_pylist(results.clusters))
    write_table(artifacts / "exits" / "candidates.parquet", pa.Table.from_pylist(results.candidates))
    write_table(artifacts / "quantize" / "sensitivity.parquet", pa.Table.from_pylist(results.sensitivity))
    for name in ("curve", "bands", "budgets", "usage", "resplits", "quality", "quality_curve"):
        write_table(artifacts / "evaluate" / f"{name}.parquet", pa.Table.from_pylist(getattr(results, name)))
    out.mkdir()
    run(Stage("report", load_experiment("digits", ROOT / "experiments"), out, artifacts))

    drawn = {path.stem: path.read_text() for path in (out / "figures").iterdir()}
    assert drawn == figures
    digests = {
        path.relative_to(artifacts).as_posix(): file_digest(path) for path in artifacts.rglob("*") if path.is_file()
    }
    title = "QuEE on scikit-learn's digits"
    records = "../../../.quee/journal/digits.js"
    expected = build_page(replace(results, digests=digests, title=title), figures, records)
    assert (out / "report.html").read_text() == expected
    assert re.findall(r'\bsrc="([^"]*)"', expected) == [records]


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    assert "http" not in page
    assert not re.search(r"<(script|link|img|iframe)\b|@import|\bsrc=", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))


def test_references_within_the_page_resolve_and_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_every_method_appears(page: str) -> None:
    for method in METHODS:
        assert f"<td>{method}</td>" in page
    assert "<title>An &lt;example&gt;</title>" in page
    assert "class <0>" not in page


@pytest.mark.parametrize("drawing", FIGURES, ids=lambda drawing: drawing.name)
def test_each_figure_is_drawn_where_its_results_are_and_stands_on_the_page_under_its_title(
    drawing: Drawing, figures: dict[str, str], page: str
) -> None:
    title, caption = drawing.words(example())
    assert figures[drawing.name].startswith("<svg")
    assert f'<h2 id="{drawing.name}">{escape(title)}</h2>' in page and escape(caption) in page
    for field in drawing.needs:
        assert drawing.svg(replace(example(), **{field: []})) is None


def test_a_figure_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch, figures: dict[str, str]) -> None:
    def samples(results: Results) -> Figure:
        figure = Figure()
        figure.subplots().bar(["samples"], [results.dataset["samples"]])
        return figure

    own = Drawing("samples", samples, ("Samples", "How many images there are."), after="savings")
    monkeypatch.setattr(figures_module, "FIGURES", [*FIGURES, own])
    drawn = draw(example())
    assert {name: text for name, text in drawn.items() if name != "samples"} == figures
    monkeypatch.setattr("quee.report.page.FIGURES", [*FIGURES, own])
    page = build_page(example(), drawn)
    assert page.index('id="others"') < page.index('<h2 id="samples">Samples</h2>') < page.index('id="methods"')


def test_a_budget_that_is_not_met_is_marked(page: str) -> None:
    row = next(line for line in page.split("<tr") if "<td>static_w8a8</td>" in line and "<small>" in line)
    accuracies = re.findall(r"([\d.]+ %\*?)<small>", row)
    assert [text.endswith("*") for text in accuracies] == [True, True, False]


def test_intervals_are_put_into_words(page: str) -> None:
    assert [verdict(0.1, 0.2), verdict(-0.2, -0.1), verdict(-0.1, 0.1)] == [
        "above",
        "below",
        "not distinguishable from",
    ]
    assert "quee_plan is <strong>above</strong> static_hull: +1.50 points (+1.00 to +2.00)" in page
    assert "quee_plan is <strong>below</strong> confidence_hull" in page
    assert "quee_plan is above it at 0.05; not distinguishable from it at 0.2 (paired; one 95 % band" in page
    assert "quee_plan is <strong>not distinguishable from</strong> random_routing" in page


def test_how_gates_are_read_is_shown_with_the_plainest_candidate_and_the_reason(page: str) -> None:
    assert "<td>mean2x2</td>" in page and "hidden 8, dropout 0.5" in page
    assert "<td>mean_max</td>" in page and "least loss and cost" in page
    assert "<td>mean</td>" not in page  # neither chosen nor the best of its kind


def test_without_repetitions_or_recorded_usage_the_page_says_so_or_leaves_out() -> None:
    results = example()
    evaluate = {key: value for key, value in results.metrics["evaluate"].items() if key != "resplits"}
    bare = replace(
        results,
        resplits=[],
        usage=[],
        calibration=[],
        sensitivity=[],
        clusters=[],
        quality=[],
        quality_curve=[],
        bands=[],
        metrics={**results.metrics, "evaluate": evaluate},
    )
    figures = draw(bare)
    assert set(figures) == {"candidates", "curves", "techniques", "others", "predictors"}
    assert "say nothing of another division" in build_page(bare, figures)


def test_without_other_divisions_the_page_gives_the_gains_over_the_test_samples(
    figures: dict[str, str],
) -> None:
    results = example()
    gains = {"gain.quee_plan.static_hull": {"mean": 0.004, "low": 0.001, "high": 0.007}}
    evaluate = {key: value for key, value in results.metrics["evaluate"].items() if key != "resplits"} | {
        "gains": gains
    }
    page = build_page(replace(results, resplits=[], metrics={**results.metrics, "evaluate": evaluate}), figures)
    assert "quee_plan is <strong>above</strong> static_hull: +0.40 points (+0.10 to +0.70)." in page


def test_of_many_classes_only_the_extremes_are_drawn() -> None:
    figure = usage(example(classes=200))
    assert figure is not None
    assert len(figure.axes[0].get_yticklabels()) == 24


def test_what_was_executed_is_shown_where_it_was_measured() -> None:
    results, fast = example(), {"accuracy": 0.91, "reaches": True, "images_per_second_64": 9876.0, "p50_ms": 0.5}
    rows = {"QuEE": fast, "OpenVINO fp32 <x>": {**fast, "reaches": False, "images_per_second_64": 1234.0}}
    fixture = {"rows": rows, "target": 0.9, "over_parts": 1.03, "ratio_64": 1.7}
    measured = replace(results, executed={"machine": "CPU", "threads": 1, "fixture": fixture})
    page = build_page(measured, draw(results))
    assert all(text in page for text in ("9,876", "1,234", "1.70 at batch 64", "OpenVINO fp32 &lt;x&gt;", "1.030"))
    assert 'id="executed"' not in build_page(results, draw(results))


def test_the_chosen_tree_is_told_with_its_candidates_and_why() -> None:
    results = example()
    text = re.sub(r"<[^>]+>", " ", parts(results))
    assert "w3a3, w4a4, 6 paths" in text and "judged on 100 images" in text and "in 123,456 passes" in text
    assert re.search(r"w3a3 by layer, w4a4\s+95\.00 %", text)
    assert re.search(r"w4a4\s+uniform\s+−3\.00\s+−5\.00 … −1\.00", text)
    drawn = draw(results)["candidates"]
    assert all(f">{name}<" in drawn for name in ("w3a3 by layer", "w4a4", "w4a4 by layer"))
    named = replace(results, tree={**results.tree, "choice": {}})
    assert "candidates" not in draw(named) and "<h3>Tree" not in parts(named)


def test_the_policy_by_budget_is_shown_under_the_first_figure_where_policies_were_chosen(
    figures: dict[str, str],
) -> None:
    results = example()
    assert 'id="policies"' not in build_page(results, figures)
    facts = {
        "accuracy": {"auto": 0.9349, "plan": 0.93, "ztw": 0.94},
        "budgets": {"0.5": "plan", "0.1021": "plan", "0.06": "ztw", "0.9": "ztw"},
        "default": "plan",
    }
    page = build_page(replace(results, metrics={**results.metrics, "policies": {"auto": facts}}), figures)
    assert page.index('<h2 id="curves">') < page.index('<h3 id="policies">') < page.index('<h2 id="gains">')
    own = page[page.index('<h3 id="policies">') : page.index('<h2 id="gains">')]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", own)
    assert cells[:6] == ["0.06", "ztw", "0.1 to 0.5", "plan", "0.9", "ztw"]
    assert cells[6:] == ["ztw", "94.00 %", "quee_auto", "93.49 %", "plan", "93.00 %"]
    assert '<td class="best">94.00 %</td>' in own and "which is plan here" in own
    assert '<a href="#policies">' in page


def test_the_format_of_products_is_told_with_what_was_measured() -> None:
    results = example()
    assert "Products that calibration does not quantize" not in parts(results)
    rows = [
        {"format": "int8", "samples": 2000, "changed": 30, "low": 0.0101, "high": 0.0213},
        {"format": "bf16", "samples": 2000, "changed": 1, "low": 0.0, "high": 0.0028},
    ]
    said = {"format": "bf16", "limit": 0.001, "measured": rows, "products": ["a", "b"]}
    tree = {"float_products": said, "precisions": ["w3a3"], "layers": {}, "choice": {}}
    found = replace(results, tree=tree)
    text = re.sub(r"<[^>]+>", " ", parts(found))
    assert "(2 of them) are executed and counted in bf16, the cheapest format" in text
    assert "more than 0.1 % of the answers" in text
    assert re.search(r"int8\s+2,000\s+30\s+1\.50 %\s+1\.01 % … 2\.13 %", text)
    told = replace(found, tree={**tree, "float_products": {**said, "measured": []}})
    assert "in bf16, as told." in re.sub(r"<[^>]+>", " ", parts(told))
