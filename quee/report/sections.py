"""Sections of the report: the results in words and tables."""

from html import escape
from typing import Any

from quee.measure import ACCURACY, LABELLED
from quee.policies.names import BOUND, OURS, REFERENCE, RIVALS
from quee.report import Results
from quee.report.markup import bits, measured, signed, star, table
from quee.report.trees import chosen_tree
from quee.work.percentages import DASH, DIFFERENCE, GAP, figure, percent

NO_FLOAT = "fp32 is neither among paths.precisions nor among paths.references"
DROPS = ("0.5", "1.0")
"""Points of accuracy below the float network, in the form of the metrics' names."""
COMPARED = (
    "Compared is the accuracy averaged over budgets from 1/16 to 1 on a logarithmic scale, the same for every experiment; "
    "below its cheapest point a method is mixed with always answering the most frequent class."
)


def verdict(low: float, high: float) -> str:
    """The 95 % interval of a difference in words."""
    if low > 0:
        return "above"
    return "below" if high < 0 else "not distinguishable from"


def introduction(results: Results) -> str:
    splits = ", ".join(f"{name} {count:,}" for name, count in sorted(results.dataset["splits"].items()))
    backbone, found = results.backbone, results.metrics["backbone"]
    shares = {split: percent(value) for split, value in sorted(found["accuracy"].items())}
    beside = shares.pop(LABELLED, None) if results.measure is not ACCURACY else None
    accuracy = ", ".join(f"{share} on {split}" for split, share in shares.items())
    svc = found.get("svc_accuracy")
    text = (
        f"Data set {escape(results.dataset['dataset'])}: {results.dataset['samples']:,} images, "
        f"{len(results.dataset['classes'])} classes; split into {splits}. "
        f"Backbone {escape(backbone['name'])}: {found['parameters']:,} parameters, gates after blocks "
        f"{', '.join(str(gate) for gate in backbone['gates'])}. In floating point it is right on {accuracy}."
    )
    if results.measure is not ACCURACY:
        of = results.dataset["answers"]["weights"]
        text = results.measure.said(text) + (
            f" <strong>These images have no labels: agreement is with the answers of {escape(of)} in floating point, and says "
            "nothing of the errors that it makes itself.</strong>"
        )
    if beside is not None:
        text += f" It is right on {beside} of the labelled images."
    if left_out := results.dataset.get("left_out"):
        text += f" This is a smoke run: of {len(left_out):,} classes it has no image."
    if folds := results.metrics["evaluate"].get("folds"):
        text += (
            f" Everything below that compares methods is cross-fitted over {folds} folds of the held-out images: each of "
            f"the {results.metrics['evaluate']['test_samples']:,} images is tested once, by targets, predictors, policies and "
            "operating points that were made without it. Counts and accuracies above, the figures and tables of targets, "
            "predictors, precisions and exit heads, and the bundle are those of the first fold."
        )
    if svc is not None:
        text += f" A support vector machine on the same training images reaches {percent(svc)} on test."
    return f"<p>{text}</p>\n<p>Cost counts bit operations; 1 is the whole network at w8a8.</p>"


def findings(results: Results) -> str:
    evaluate, lines = results.metrics["evaluate"], []
    points = {(row["method"], row["budget"]): row for row in results.budgets}
    budget = results.middle_budget()
    for method in OURS:
        row = points.get((method, budget))
        if row:
            others = [(rival, points[rival, budget]) for rival in RIVALS if (rival, budget) in points]
            compared = "; ".join(f"{name} {percent(r['test_accuracy'])}{star(r)}" for name, r in others)
            lines.append(
                f"At a budget of {budget:g}, {method} is right on {percent(row['test_accuracy'])}{star(row)} of "
                f"the test split ({percent(row['low'])} to {percent(row['high'])}) at a realised cost of "
                f"{row['test_cost']:.3f}. For comparison: {compared}."
            )
    for method in OURS:
        for rival in RIVALS:
            differences = evaluate.get("differences", {}).get(method, {}).get(rival, {})
            said: dict[str, list[str]] = {}
            for key in sorted(differences, key=float):
                own = differences[key]
                said.setdefault(verdict(own["band_low"], own["band_high"]), []).append(key)
            if said:
                parts = "; ".join(f"{words} it at {', '.join(keys)}" for words, keys in sorted(said.items()))
                lines.append(
                    f"Against {rival} on this test split, {method} is {parts} "
                    f"(paired; one 95 % band over all budgets, over {resampled(evaluate)} and seeds)."
                )
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f'<h2 id="findings">Findings</h2>\n<ul>{items}</ul>\n{_repetitions(results)}\n{_first_step(results)}'


def _repetitions(results: Results) -> str:
    """Results over random re-divisions of the held-out rows, in words."""
    found = results.metrics["evaluate"].get("resplits")
    count = len({row["resplit"] for row in results.resplits})
    if not found or not count:
        return _gains(results)
    lines = _gain_lines(found, count > 1)
    rows = [
        [escape(key.removeprefix("auc.")), *(percent(found[key][side], 2) for side in ("mean", "low", "high"))]
        for key in sorted(found, key=lambda key: (-found[key]["mean"], key))
        if key.startswith("auc.")
    ]
    return (
        f"<h3>Over {count} random {'division' if count == 1 else 'divisions'} of the held-out samples</h3>"
        "<p>Targets, predictors and policies were fitted anew each time, the backbone was not. "
        f"{COMPARED} The intervals are for the mean at 95 %; the "
        "divisions share samples, so the true uncertainty is larger.</p>"
        f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
        + table(["method", "mean accuracy over budgets", "low", "high"], rows)
    )


def _gains(results: Results) -> str:
    """Results over the test samples, where the held-out samples were not divided anew."""
    evaluate = results.metrics["evaluate"]
    found, seeds = evaluate.get("gains", {}), evaluate.get("seeds", 1)
    lines = "".join(f"<li>{line}</li>" for line in _gain_lines(found, True))
    return (
        f"<h3>Over the test samples</h3><p>{COMPARED} The 95 % intervals are from a paired "
        f"bootstrap over {resampled(evaluate)} and {seeds} {'seed' if seeds == 1 else 'seeds'} of targets, predictors and "
        "policies: they say nothing of another division of the samples or another training run."
        f"</p><ul>{lines}</ul>"
    )


def resampled(evaluate: dict[str, Any], what: str = "test samples") -> str:
    """What the bootstrap behind the intervals of `evaluate/metrics.json` drew: samples, or groups of them."""
    groups = evaluate.get("test_groups")
    return what if groups is None else f"{groups:,} groups of {what}"


def _gain_lines(found: dict[str, Any], interval: bool) -> list[str]:
    lines = []
    for key in sorted(found, key=lambda key: [key.split(".")[1] in OURS[1:], key]):
        if not key.startswith("gain."):
            continue
        _, ours, rival = key.split(".", 2)
        mean, low, high = (found[key][side] for side in ("mean", "low", "high"))
        if interval:
            lines.append(
                f"{escape(ours)} is <strong>{verdict(low, high)}</strong> {escape(rival)}: "
                f"{signed(mean)} points ({signed(low)} to {signed(high)})."
            )
        else:
            lines.append(
                f"{escape(ours)} against {escape(rival)}: {signed(mean)} points; one division gives no interval."
            )
    return lines


def _first_step(results: Results) -> str:
    found = results.metrics["evaluate"].get("first_step_auc", {})
    if len(found) < 2:
        return ""
    meaning = {
        "rollout": "by trying each first precision on validation with the policy that follows",
        "marginal": "from the best single path on validation, whatever the sample",
    }
    used, other = sorted(found, key=lambda name: (-found[name], name))[:2]
    gap = found[used] - found[other]
    ahead = f"On this test split {used} is ahead by {figure(gap, 2, *DIFFERENCE)} points."
    said = "The two are equal here." if gap < 5e-5 else ahead
    rows = [
        f"<li>{escape(name)}, chosen {meaning.get(name, 'otherwise')}: {percent(found[name], 2)} over budgets.</li>"
        for name in sorted(found)
    ]
    return (
        "<h3>First step</h3><p>Before the first gate nothing is known about a sample, so quee_plan gives all the "
        f"same first precision. {said} No interval was computed for this comparison.</p>" + f"<ul>{''.join(rows)}</ul>"
    )


def budgets(results: Results) -> str:
    points = {(row["method"], row["budget"]): row for row in results.budgets}
    columns = sorted({budget for _, budget in points})
    fair = {
        budget: max(
            (r["test_accuracy"] for (m, b), r in points.items() if b == budget and r["budget_met"] and m != BOUND),
            default=None,
        )
        for budget in columns
    }
    rows = []
    for method in results.methods:
        cells = [escape(method)]
        for budget in columns:
            row = points.get((method, budget))
            if row is None:
                cells.append("")
                continue
            text = f"{percent(row['test_accuracy'])}{star(row)}<small>{row['test_cost']:.3g}</small>"
            best = row["budget_met"] and method != BOUND and row["test_accuracy"] == fair[budget]
            cells.append(f"\0{text}" if best else text)
        rows.append(cells)
    return (
        '<h2 id="budgets">Accuracy at budgets</h2>'
        "<p>Accuracy on test with the realised cost below it. The operating point was chosen on validation to "
        "spend the budget, so the cost on test differs a little. A * marks a method whose cheapest point is dearer "
        "than the budget. Bold: the highest accuracy within the budget, oracle apart; small differences "
        "mean nothing here.</p>" + table(["method", *(f"{budget:g}" for budget in columns)], rows)
    )


def labelled(results: Results) -> str:
    """Accuracy on the labelled images beside images without labels; empty where there are none."""
    found = {(row["method"], row["budget"]): row for row in results.labelled}
    if not found:
        return ""
    columns = sorted({budget for _, budget in found})

    def cell(method: str, budget: float) -> str:
        row = found[method, budget]
        ends = f"{percent(row['low'])} to {percent(row['high'])}"
        return f"{percent(row['accuracy'])}{star(row)}<small>{ends}</small>"

    rows = [[escape(m), *(cell(m, b) for b in columns)] for m in results.methods if (m, columns[0]) in found]
    count = results.metrics["evaluate"]["labelled_samples"]
    return (
        '<h2 id="labelled">Accuracy on labelled images</h2>'
        f"<p>Accuracy on {count:,} images that people labelled, with its 95 % interval (bootstrap over images). Nothing was "
        "fitted to them, and operating points were chosen by agreement.</p>"
        + table(["method", *(f"{budget:g}" for budget in columns)], rows)
    )


def methods(results: Results) -> str:
    evaluate, rows = results.metrics["evaluate"], []
    for method in results.methods:
        found = evaluate["methods"][method]
        closed = evaluate["oracle_gap_closed"].get(method)
        gap = percent(closed, 1, *GAP)
        cells = [escape(method), percent(found["auc"], 2), gap, percent(found["accuracy"])]
        rows.append([*cells, *_near(evaluate, method)])
    float_accuracy = evaluate.get("fp32_accuracy")
    last = (
        "The last columns give the least cost at which accuracy is within half a point, or one, of the float network "
        f"({percent(float_accuracy)}), with its 95 % interval."
    )
    if float_accuracy is None:
        last = f"Costs near the float network’s accuracy are not told: {NO_FLOAT}."
    head = [
        "method",
        "mean over budgets",
        "oracle gap closed",
        "accuracy, dearest point",
        "cost at −0.5",
        "cost at −1.0",
    ]
    return (
        '<h2 id="methods">Every method</h2>'
        f"<p>{COMPARED} Oracle gap closed: 0 % is static_hull, 100 "
        f"% the oracle; {DASH}: there is no gap to the hundredth of a point. " + last + "</p>" + table(head, rows)
    )


def savings(results: Results) -> str:
    """The cost of nearly the float network's accuracy."""
    evaluate = results.metrics["evaluate"]
    if evaluate.get("fp32_accuracy") is None:
        return f'<h2 id="savings">What float accuracy costs</h2><p>Not told: {NO_FLOAT}.</p>'
    found, ratios = evaluate["methods"], evaluate.get("cost_at_drop_ratio", {})
    rivals = [n for n in ("static_w8a8", REFERENCE, "small_static", "confidence_hull") if n in found]
    rows = [[escape(name), *_near(evaluate, name)] for name in (*OURS, *rivals)]
    head = ["cost at −0.5 points", "cost at −1 point"]
    shares = [
        [escape(ours), escape(rival), *(_limits(ratios[ours][rival][drop]) for drop in DROPS)]
        for ours in OURS
        for rival in rivals
        if rival in ratios.get(ours, {})
    ]
    against = (
        f"<p>The same as a share of a rival’s cost: 95 % interval over the same draws of {resampled(evaluate)}; the two differ "
        "where it "
        "leaves out 1. 0: the rival never gets there; “never”: the method does not.</p>"
        + table(["method", "rival", *head], shares)
    )
    return (
        '<h2 id="savings">What float accuracy costs</h2><p>The least cost at which test accuracy is within half a point, or '
        "one, of the float network; the points go by their cost on validation. Mean over seeds; “never” where a seed does "
        f"not get there. Below, the 95 % interval (paired bootstrap over {resampled(evaluate)} and seeds, the float network "
        "drawn alike).</p>" + table(["method", *head], rows) + (against if shares else "")
    )


def _near(evaluate: dict[str, Any], method: str) -> list[str]:
    """Costs at which a method is within each drop of the float network, with their intervals."""
    if evaluate.get("fp32_accuracy") is None:
        return [DASH] * len(DROPS)
    found, limits = evaluate["methods"].get(method, {}), evaluate.get("cost_at_drop", {}).get(method, {})
    cells = []
    for drop in DROPS:
        text = _cost(found.get(f"cost_at_drop_{drop}"))
        cells.append(f"{text}<small>{_limits(limits[drop])}</small>" if drop in limits else text)
    return cells


def _cost(cost: float | None) -> str:
    return "never" if cost is None else f"{cost:.3g}"


def _limits(row: dict[str, float | None]) -> str:
    low, high = _cost(row["low"]), _cost(row["high"])
    return low if low == high else f"{low} … {high}"


def quality(results: Results) -> str:
    """The numbers of the figures of predictors and clusters."""
    if not results.quality:
        return ""
    rows = [
        [
            escape(row["kind"].replace("_", " ")), f"{row['value']:g}",
            *(measured(row[key]) for key in ("rmse", "ece", "auroc", "aurc")), percent(row["auc"], 2),
        ]
        for row in sorted(results.quality, key=lambda row: (row["kind"], row["value"]))
    ]  # fmt: skip
    correlation = results.metrics["evaluate"].get("quality_rank_correlation")
    said = ""
    if correlation is not None:
        shown = f"{correlation:+.2f}".replace("-", "−")
        said = f"<p>Rank correlation of RMSE and mean accuracy, clusters apart: {shown}.</p>"
    return said + table(["changed", "to", "RMSE", "ECE", "AUROC", "AURC", "mean over budgets"], rows)


def calibration(results: Results) -> str:
    """Calibration error on validation by gate and number of clusters, with the least marked."""
    by_gate = results.metrics["targets"].get("ece_by_clusters", {})
    rows = []
    for gate in sorted(by_gate):
        values = {int(k): v for k, v in by_gate[gate].items()}
        least = min(values, key=lambda k: (values[k], k))
        cells = [f"\0{values[k]:.4f}" if k == least else f"{values[k]:.4f}" for k in sorted(values)]
        rows.append([escape(gate.replace("_", " ")), *cells])
    if not rows:
        return ""
    head = sorted({int(k) for gate in by_gate.values() for k in gate})
    return table(["ECE on validation, K =", *map(str, head)], rows)


def _chosen_heads(results: Results) -> str:
    """How each gate is read, with the plainest candidate and the best ones of either kind for comparison."""
    chosen = results.metrics["exits"].get("heads", {})
    rows = []
    for gate in sorted(chosen, key=int):
        tried = [row for row in results.candidates if row["gate"] == int(gate)]
        kinds = [[row for row in tried if bool(row["hidden"]) == hidden] for hidden in (False, True)]
        best = [min(kind, key=lambda row: (row["score"], row["cost"])) for kind in kinds if kind]
        shown = [row for row in tried if row["chosen"] or row is tried[0] or any(row is one for one in best)]
        for row in sorted(shown, key=lambda row: (row["cost"], row["score"])):
            layers = f"hidden {row['hidden']}, dropout {row['dropout']:g}" if row["hidden"] else "linear"
            layers += ", one per precision" if row["each_precision"] else ""
            cells = [f"{row['loss']:.3f}", percent(row["accuracy"]), f"{row['cost']:.2g}"]
            why = escape(chosen[gate]["reason"]) if row["chosen"] else ""
            rows.append([f"gate {escape(gate)}", escape(row["pooling"]), escape(layers), *cells, why])
    if not rows:
        return ""
    return (
        "<p>How each gate is read was chosen on training images that the candidates were not fitted on. Shown are the "
        "plainest candidate, the best linear and the best hidden one, and the chosen one with the reason.</p>"
        + table(["", "pooling", "layers", "loss (nats)", "accuracy", "cost", "chosen because"], rows)
    )


def _chosen_gates(found: dict[str, Any]) -> str:
    """Which gates were chosen by measurement and from what; empty where the experiment names them."""
    if not found:
        return ""
    sets = {"chosen": found["chosen"], "runner-up": found["runner_up"], "evenly spaced": found["evenly_spaced"]}
    rows = [
        [name, ", ".join(map(str, one["gates"])), percent(one["auc"])] for name, one in sets.items() if one is not None
    ]
    blocks = [
        [str(row["block"]) + ("*" if row["block"] in found["chosen"]["gates"] else ""), f"{row['cost']:.3f}",
         percent(row["accuracy"])]
        for row in found["blocks"]
    ]  # fmt: skip
    held = found["images"]["held_out"]
    return (
        f"<h3>Gates</h3><p>Chosen on {held:,} training images by the float network: {escape(found['reason'])}. "
        "Area: mean accuracy of early exits by one threshold, over budgets from a quarter of the network to all of it.</p>"
        + table(["", "gates after blocks", "area"], rows)
        + "<p>A linear classifier behind every block, on the same images; * is a chosen gate. Cost 1 is the network.</p>"
        + table(["block", "cost", "accuracy"], blocks)
    )


def _formats(results: Results) -> str:
    """Which number format the products that calibration does not quantize have, and what was measured."""
    found = results.tree.get("float_products")
    if not found:
        return ""
    rows = [
        [
            escape(row["format"]), f"{row['samples']:,}", f"{row['changed']:,}", percent(row["changed"] / row["samples"], 2),
            f"{percent(row['low'], 2)} … {percent(row['high'], 2)}",
        ]
        for row in found["measured"]
    ]  # fmt: skip
    most = percent(found["limit"], 1)
    why = f"the cheapest format that does not clearly change more than {most} of the answers" if rows else "as told"
    return (
        f"<p>Products that calibration does not quantize ({len(found['products'])} of them) are executed and counted in "
        f"{escape(found['format'])}, {why}.</p>"
        + (table(["format", "images", "answers changed", "share", "95 % interval"], rows) if rows else "")
    )


def parts(results: Results) -> str:
    quantized = results.metrics["quantize"]["precisions"]
    rows = [
        [
            escape(name), percent(found["accuracy"]), percent(found["agreement"]), f"{found['cost']:.4g}",
            f"{found['bitflops']:,.0f}", f"{found['bytes'] / 1000:,.0f}",
        ]
        for name, found in sorted(quantized.items(), key=lambda item: (item[1]["cost"], item[0]))
    ]  # fmt: skip
    gates = results.metrics["exits"]["gates"]
    precisions = sorted({name for by in gates.values() for name in by}, key=bits)
    heads = [
        [f"gate {escape(gate)}", *(percent(gates[gate].get(name)) for name in precisions)]
        for gate in sorted(gates, key=int)
    ]
    predicted = results.metrics["predictors"]["gates"]
    shown = (
        "rmse",
        "ece",
        "auroc",
        "aurc",
        *(f"{what}_auroc{than}" for what in ("exit", "gain") for than in ("", "_confidence")),
    )
    quality = [
        [f"gate {escape(gate)}", *(measured(predicted[gate].get(key)) for key in shown)]
        for gate in sorted(predicted, key=int)
    ]
    predictors = (
        "<h3>Predictors</h3><p>The numbers behind the figure above, on validation. Exit: how well the predicted error of "
        "leaving ranks the samples that are wrong there. Gain: how well predicted error now minus later ranks the samples "
        "that going on puts right. Beside each what the largest probability alone ranks.</p>"
        + table(["", "RMSE", "ECE", "AUROC", "AURC", "exit", "by confidence", "gain", "by confidence"], quality)
    )
    return (
        '<h2 id="parts">Parts</h2><h3>Precisions</h3>'
        "<p>The whole network at one precision, on validation. Agreement: how often it answers "
        "as the float network does.</p>"
        + table(["precision", "accuracy", "agreement", "cost", "BitFLOPs", "kB"], rows)
        + chosen_tree(results)
        + _chosen_gates(results.gates)
        + _formats(results)
        + "<h3>Exit heads</h3><p>Accuracy on validation of the classifier at each gate, one precision throughout.</p>"
        + table(["", *map(escape, precisions)], heads)
        + _chosen_heads(results)
        + (predictors if quality else "")
    )
