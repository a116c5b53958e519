"""Sections of the report: the results in words and tables."""

from collections.abc import Mapping
from html import escape
from typing import Any

from quee.evaluation.near import DROPS
from quee.measure import ACCURACY, LABELLED, measure_of
from quee.policies.names import BOUND, OURS, REFERENCE, RIVALS
from quee.report import Results
from quee.report.inputs import Asked
from quee.report.markup import signed, star, table
from quee.report.sentence import Summary, points, share, spent
from quee.work.counts import counted
from quee.work.percentages import DASH, DIFFERENCE, GAP, figure, percent

NO_FLOAT = "fp32 is neither among paths.precisions nor among paths.references"
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


def sure(results: Results, summary: Summary) -> str:
    """How sure the first sentence is, and what the deployed method is worth against the others."""
    evaluate, point, lines = summary.metrics, summary.point, []
    if point is not None:
        lines.append(
            f"At the budget of {point['budget']:g} accuracy is {percent(point['test_accuracy'])}; on other images like these, "
            f"with 95 % confidence, between {percent(point['low'])} and {percent(point['high'])}."
        )
    if (reached := summary.reached()) is not None:
        drop, cost = reached
        found = evaluate.get("cost_at_drop", {}).get(summary.method, {}).get(f"{drop}")
        if found is not None:
            ends = f"from {share(found['low'])} to {share(found['high'])}"
            lines.append(
                f"{points(drop).capitalize()} below the float network is reached for {share(cost)} of the computation at the "
                f"least, picked on test (95 %: {ends}); {percent(found['reached'], 0)} of the draws of a bootstrap reach it at "
                "any cost."
            )
    for rival in RIVALS:
        if (gain := summary.gain(rival)) is not None:
            lines.append(_gain_line(f"gain.{summary.method}.{rival}", gain, True))
    over = ""
    if any(summary.gain(rival) is not None for rival in RIVALS):
        over = " The last lines, averages over budgets, tell which method is better; wherever a gain is told, it is this one."
        if count := len({row["resplit"] for row in results.resplits}):
            over += (
                f" They are also averages over {count} re-divisions of the held-out images; these share images, so the true "
                "uncertainty is larger."
            )
    return f"<p>Measured on {summary.tested()}.{over}</p><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def deployed(summary: Summary, bundle: str, asked: Asked | None = None) -> str:
    """What is deployed, the commands that serve it, and what answers a request for a small accuracy loss instead."""
    point, said = summary.point, measure_of(summary.metrics).said
    text = (
        f"<h2>Deploy</h2><p>The folder <code>{escape(bundle)}</code>: {escape(summary.deployed)}, budget "
        f"{summary.budget:g} unless a request says otherwise.</p>"
        f"<pre>quee serve {escape(bundle)}\nquee predict {escape(bundle)} images/</pre>"
    )
    if point is not None:
        at = (
            ""
            if point["budget"] == summary.budget
            else f" at budget {point['budget']:g}, the nearest that was evaluated"
        )
        accuracy = f"<strong>{percent(point['test_accuracy'])}</strong>{summary.interval()}"
        text += said(f"<p>On test that is right on {accuracy}, {spent(point['test_cost'])}{at}.")
        text += f" {own}</p>" if (own := summary.bundled()) else "</p>"
    if asked is None:
        return text
    most = points(asked.loss)
    text += f"<p>At most {most} below the float network:</p><pre>quee predict {escape(bundle)} images/ --accuracy-loss "
    text += f"{asked.loss:g}</pre>"
    at = said(f"on test it is right on {percent(asked.accuracy)}, {spent(asked.cost)}")
    images = counted(asked.images, "validation image")
    if asked.shown:
        return f"{text}<p>{images.capitalize()} show with 95 % confidence that the point taken loses no more; {at}.</p>"
    return (
        f"{text}<p>That cannot be promised: on {images} no point is shown to lose so little (95 % confidence). The nearest "
        f"point is taken, which is shown to lose at most {figure(asked.limit / 100)} points; {at}.</p>"
    )


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
    single = (
        "<h3>At single budgets</h3><p>The same comparisons budget by budget, on this one test split. They say where on the curve "
        f"methods differ. Which method is better is told by the averages above.</p><ul>{items}</ul>"
    )
    return f"{_repetitions(results)}\n{single}\n{_first_step(results)}"


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
        f"<h3>Over {counted(count, 'random division')} of the held-out samples</h3>"
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
        f"bootstrap over {resampled(evaluate)} and {counted(seeds, 'seed')} of targets, predictors and "
        "policies: they say nothing of another division of the samples or another training run."
        f"</p><ul>{lines}</ul>"
    )


def resampled(evaluate: dict[str, Any], what: str = "test samples") -> str:
    """What the bootstrap behind the intervals of `evaluate/metrics.json` drew: samples, or groups of them."""
    groups = evaluate.get("test_groups")
    return what if groups is None else f"{groups:,} groups of {what}"


def _gain_lines(found: dict[str, Any], interval: bool) -> list[str]:
    keys = sorted(
        (key for key in found if key.startswith("gain.")), key=lambda key: [key.split(".")[1] in OURS[1:], key]
    )
    return [_gain_line(key, found[key], interval) for key in keys]


def _gain_line(key: str, found: Mapping[str, float], interval: bool) -> str:
    _, ours, rival = key.split(".", 2)
    mean, low, high = (found[side] for side in ("mean", "low", "high"))
    if not interval:
        return f"{escape(ours)} against {escape(rival)}: {signed(mean)} points; one division gives no interval."
    return (
        f"{escape(ours)} is <strong>{verdict(low, high)}</strong> {escape(rival)}: "
        f"{signed(mean)} points ({signed(low)} to {signed(high)})."
    )


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
        f"<p>{COMPARED} Oracle gap closed: 0 % is static_hull, 100 "
        f"% the oracle; {DASH}: there is no gap to the hundredth of a point. " + last + "</p>" + table(head, rows)
    )


def savings(results: Results) -> str:
    """The cost of nearly the float network's accuracy."""
    evaluate = results.metrics["evaluate"]
    if evaluate.get("fp32_accuracy") is None:
        return f"<p>Not told: {NO_FLOAT}.</p>"
    found, ratios = evaluate["methods"], evaluate.get("cost_at_drop_ratio", {})
    rivals = [n for n in ("static_w8a8", REFERENCE, "small_static", "confidence_hull") if n in found]
    rows = [[escape(name), *_near(evaluate, name)] for name in (*OURS, *rivals)]
    head = ["cost at −0.5 points", "cost at −1 point"]
    shares = [
        [escape(ours), escape(rival), *(_limits(ratios[ours][rival][f"{drop}"]) for drop in DROPS)]
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
        "<p>The least cost at which test accuracy is within half a point, or "
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
        cells.append(f"{text}<small>{_limits(limits[f'{drop}'])}</small>" if f"{drop}" in limits else text)
    return cells


def _cost(cost: float | None) -> str:
    return "never" if cost is None else f"{cost:.3g}"


def _limits(row: dict[str, float | None]) -> str:
    low, high = _cost(row["low"]), _cost(row["high"])
    return low if low == high else f"{low} … {high}"
