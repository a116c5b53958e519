"""The report as one HTML page: inline figures and style, nothing loaded from elsewhere."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import Any

from quee.report import Results, Row
from quee.report.executed import executed_section

OURS = ("quee_plan", "quee_fitted_q")
RIVALS = ("static_hull", "confidence_hull", "random_routing")
CAPTIONS = {
    "curves": (
        "Accuracy over cost",
        (
            "Each line shows how often a method is right on the test split, for the computation it spends. Higher and "
            "further left is better. Cost 1 is the whole network at w8a8; the axis is logarithmic. QuEE's two policies "
            "are drawn at budgets; the shaded bands hold for the whole line at once with 95 % confidence, and dots are "
            "the single operating points. Diamonds are the whole network at one precision. The oracle knows the errors in "
            "advance; no method can know them."
        ),
    ),
    "others": (
        "All other methods",
        (
            "The same axes for exits by a threshold at one precision, for exits by agreement of gates (patience), by "
            "shares under a budget (eero) and by learned gates (jei_gate), for QuEE kept to exits or to precisions alone, "
            "and for single precisions. The wide grey line is quee_plan, for comparison."
        ),
    ),
    "calibration": (
        "Calibration of the targets",
        (
            "A target is the error probability of a path, estimated in clusters of similar samples. The figure shows "
            "how far these estimates are from the errors seen, for more and more clusters. Points are means over the "
            "nodes of a gate; lines are second-order polynomials. The dotted line marks the number of clusters used. "
            "On the predictor split, targets meet the samples they were fitted to: what error is left there comes from "
            "shrinking them towards the mean of a path, which weighs more in small clusters."
        ),
    ),
    "predictors": (
        "Quality of the predictors",
        (
            "At each gate a small network predicts how likely each continuation is to be wrong. RMSE and calibration "
            "error say how far the probabilities are off; AUROC and AURC say how well they rank samples by risk. An "
            "AUROC of 0.5 (dashed) is chance. Measured on the validation split, on which training also stopped."
        ),
    ),
}
CAPTIONS["sensitivity"] = (
    "Sensitivity of the layers",
    (
        "Each layer quantized alone, all others in floating point: how far the logits are from the float network's, on "
        "validation samples. A low point is a layer that its precision hurts; 20 dB are a tenth of the amplitude."
    ),
)
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: #fff; color: #1c1c1c;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; border-top: 1px solid #ddd; padding-top: 1rem; }
p, li { max-width: 46rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: #0072b2; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; min-width: 30rem; max-width: 54rem; height: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #555; white-space: normal; vertical-align: bottom; }
tr.ours td:first-child, td.best { font-weight: 700; }
td small { display: block; color: #5a5a5a; font-weight: 400; }
table.digests td { white-space: normal; text-align: left; word-break: break-all; }
code { font-size: .85em; }
@media (max-width: 40rem) { th:first-child, td:first-child { white-space: normal; max-width: 7.5rem; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


STAGES = Template("""<h2 id="stages">Stages</h2>
<p id="stages-away">Run times are not part of the results: this table is filled from the run records where the pipeline
ran, and this copy of the page is away from them.</p>
<div class="scroll"><table id="stages-table" hidden><thead><tr><th scope="col">stage</th><th scope="col">seconds</th>
<th scope="col">peak memory, MB</th><th scope="col">result, MB</th><th scope="col">started</th><th scope="col">commit</th>
<th scope="col">machine</th></tr></thead><tbody></tbody></table></div>
<script>
function queeStages(rows) {
  const table = document.getElementById("stages-table"), body = table.tBodies[0];
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.insertCell().textContent = cell;
  }
  table.hidden = false;
  document.getElementById("stages-away").textContent = "The latest execution of each stage on this checkout.";
}
</script>
<script src="$records"></script>""")
"""The page's bytes follow from the results alone; run times differ each time, so they are read when it is opened."""


def build_page(results: Results, figures: dict[str, str], records: str | None = None) -> str:
    """The page for results and their figures (SVG text by name).

    `records` is where, relative to the page, a script calls `queeStages` with what each stage took.
    """
    budget = results.middle_budget()
    captions = dict(CAPTIONS)
    captions["usage"] = (
        "What each class uses",
        (
            f"quee_plan at a budget of {0 if budget is None else budget:g}. Left: the share of a class's test samples "
            "that leave at each gate. Right: the share of the segments run for it at each precision. Classes that "
            "leave early at low precision are the ones this policy finds easy."
        ),
    )

    def figure(name: str) -> str:
        return _figure(name, figures[name], *captions[name]) if name in figures else ""

    stages = STAGES.substitute(records=escape(records)) if records else ""
    body = [
        f"<h1>{escape(results.title)}</h1>",
        _introduction(results),
        (
            '<nav><a href="#findings">Findings</a><a href="#curves">Curves</a><a href="#budgets">Budgets</a>'
            '<a href="#methods">Methods</a><a href="#parts">Parts</a>'
            f'{stages and """<a href="#stages">Stages</a>"""}<a href="#lineage">Lineage</a></nav>'
        ),
        _findings(results),
        figure("curves"),
        _budgets(results),
        figure("others"),
        _methods(results),
        executed_section(results.executed, _table),
        figure("usage"),
        figure("calibration"),
        figure("predictors"),
        figure("sensitivity"),
        _parts(results),
        stages,
        _lineage(results),
    ]
    return PAGE.substitute(title=escape(results.title), body="\n".join(part for part in body if part))


def verdict(low: float, high: float) -> str:
    """What a 95 % interval of a difference allows to say."""
    if low > 0:
        return "above"
    return "below" if high < 0 else "not distinguishable from"


def _introduction(results: Results) -> str:
    splits = ", ".join(f"{name} {count:,}" for name, count in sorted(results.dataset["splits"].items()))
    backbone, measured = results.backbone, results.metrics["backbone"]
    accuracy = ", ".join(f"{_percent(value)} on {split}" for split, value in sorted(measured["accuracy"].items()))
    svc = measured.get("svc_accuracy")
    text = (
        f"Data set {escape(results.dataset['dataset'])}: {results.dataset['samples']:,} images, "
        f"{len(results.dataset['classes'])} classes; split into {splits}. "
        f"Backbone {escape(backbone['name'])}: {measured['parameters']:,} parameters, gates after blocks "
        f"{', '.join(str(gate) for gate in backbone['gates'])}. In floating point it is right on {accuracy}."
    )
    if svc is not None:
        text += f" A support vector machine on the same training images reaches {_percent(svc)} on test."
    return f"<p>{text}</p>\n<p>Cost counts bit operations; 1 is the whole network at w8a8.</p>"


def _findings(results: Results) -> str:
    evaluate, lines = results.metrics["evaluate"], []
    points = {(row["method"], row["budget"]): row for row in results.operating_points}
    budget = results.middle_budget()
    for method in OURS:
        row = points.get((method, budget))
        if row:
            others = [(rival, points[rival, budget]) for rival in RIVALS if (rival, budget) in points]
            compared = "; ".join(f"{name} {_percent(r['test_accuracy'])}{_star(r)}" for name, r in others)
            lines.append(
                f"At a budget of {budget:g}, {method} is right on {_percent(row['test_accuracy'])}{_star(row)} of "
                f"the test split ({_percent(row['low'])} to {_percent(row['high'])}) at a realised cost of "
                f"{row['test_cost']:.3f}. For comparison: {compared}."
            )
    for method in OURS:
        differences = evaluate["difference_vs_static_hull"].get(method, {})
        said: dict[str, list[str]] = {}
        for key in sorted(differences, key=float):
            said.setdefault(verdict(differences[key]["low"], differences[key]["high"]), []).append(key)
        if said:
            parts = "; ".join(f"{words} it at {', '.join(keys)}" for words, keys in sorted(said.items()))
            lines.append(
                f"Against static_hull on this test split, budget by budget, {method} is {parts} (95 % bootstrap)."
            )
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f'<h2 id="findings">Findings</h2>\n<ul>{items}</ul>\n{_repetitions(results)}\n{_first_step(results)}'


def _repetitions(results: Results) -> str:
    """What the random re-divisions of the held-out rows say, in words."""
    found = results.metrics["evaluate"].get("resplits")
    count = len({row["resplit"] for row in results.resplits})
    if not found or not count:
        return _gains(results)
    lines = _gain_lines(found, count > 1)
    rows = [
        [escape(key.removeprefix("auc.")), *(_percent(found[key][side], 2) for side in ("mean", "low", "high"))]
        for key in sorted(found, key=lambda key: (-found[key]["mean"], key))
        if key.startswith("auc.")
    ]
    return (
        f"<h3>Over {count} random {'division' if count == 1 else 'divisions'} of the held-out samples</h3>"
        "<p>Targets, predictors and policies were fitted anew each time, the backbone was not. Compared is the "
        "accuracy averaged over all budgets on a logarithmic scale; below its cheapest point a method is mixed with "
        "always answering the most frequent class. The intervals are for the mean at 95 %; the "
        "divisions share samples, so the true uncertainty is larger.</p>"
        f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
        + _table(["method", "mean accuracy over budgets", "low", "high"], rows)
    )


def _gains(results: Results) -> str:
    """What the test samples say, where the held-out samples were not divided anew."""
    found = results.metrics["evaluate"].get("gains", {})
    lines = "".join(f"<li>{line}</li>" for line in _gain_lines(found, True))
    return (
        "<h3>Over the test samples</h3><p>Compared is the accuracy averaged over all budgets on a logarithmic scale; below "
        "its cheapest point a method is mixed with always answering the most frequent class. The 95 % intervals are from a "
        "paired bootstrap over test samples: they say nothing of another division of the samples or another training run."
        f"</p><ul>{lines}</ul>"
    )


def _gain_lines(found: dict[str, Any], interval: bool) -> list[str]:
    lines = []
    for key in sorted(found, key=lambda key: [key.startswith("gain.quee_fitted_q"), key]):
        if not key.startswith("gain."):
            continue
        _, ours, rival = key.split(".", 2)
        mean, low, high = (100 * found[key][side] for side in ("mean", "low", "high"))
        if interval:
            lines.append(
                f"{escape(ours)} is <strong>{verdict(low, high)}</strong> {escape(rival)}: "
                f"{_signed(mean)} points ({_signed(low)} to {_signed(high)})."
            )
        else:
            lines.append(
                f"{escape(ours)} against {escape(rival)}: {_signed(mean)} points; one division gives no interval."
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
    gap = 100 * (found[used] - found[other])
    said = "The two are equal here." if gap < 5e-3 else f"On this test split {used} is ahead by {gap:.2f} points."
    rows = [
        f"<li>{escape(name)}, chosen {meaning.get(name, 'otherwise')}: {_percent(found[name], 2)} over budgets.</li>"
        for name in sorted(found)
    ]
    return (
        "<h3>First step</h3><p>Before the first gate nothing is known about a sample, so quee_plan gives all the "
        f"same first precision. {said} No interval was computed for this comparison.</p>" + f"<ul>{''.join(rows)}</ul>"
    )


def _budgets(results: Results) -> str:
    points = {(row["method"], row["budget"]): row for row in results.operating_points}
    budgets = sorted({budget for _, budget in points})
    fair = {
        budget: max(
            (r["test_accuracy"] for (m, b), r in points.items() if b == budget and r["budget_met"] and m != "oracle"),
            default=None,
        )
        for budget in budgets
    }
    rows = []
    for method in results.methods:
        cells = [escape(method)]
        for budget in budgets:
            row = points.get((method, budget))
            if row is None:
                cells.append("")
                continue
            text = f"{_percent(row['test_accuracy'])}{_star(row)}<small>{row['test_cost']:.3g}</small>"
            best = row["budget_met"] and method != "oracle" and row["test_accuracy"] == fair[budget]
            cells.append(f"\0{text}" if best else text)
        rows.append(cells)
    return (
        '<h2 id="budgets">Accuracy at budgets</h2>'
        "<p>Accuracy on test with the realised cost below it. The operating point was chosen on validation to "
        "spend the budget, so the cost on test differs a little. A * marks a method whose cheapest point is dearer "
        "than the budget. Bold: the highest accuracy within the budget, oracle apart; small differences "
        "mean nothing here.</p>" + _table(["method", *(f"{budget:g}" for budget in budgets)], rows)
    )


def _methods(results: Results) -> str:
    evaluate, rows = results.metrics["evaluate"], []
    for method in results.methods:
        found = evaluate["methods"][method]
        closed = evaluate["oracle_gap_closed"].get(method)
        drops = [found.get(f"cost_at_drop_{drop}") for drop in ("0.5", "1.0")]
        costs = ["never" if cost is None else f"{cost:.3g}" for cost in drops]
        rows.append([escape(method), _percent(found["auc"], 2), _percent(closed), _percent(found["accuracy"]), *costs])
    float_accuracy = evaluate.get("fp32_accuracy")
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
        "<p>Mean over budgets: accuracy averaged over budgets on a logarithmic scale; below its cheapest point a "
        "method is mixed with always answering the most frequent class. Oracle gap closed: 0 % is static_hull, 100 "
        "% the oracle. The last columns give the least cost at which accuracy is within half a point, or one, "
        "of the float network"
        f"{'' if float_accuracy is None else ' (' + _percent(float_accuracy) + ')'}.</p>" + _table(head, rows)
    )


def _parts(results: Results) -> str:
    quantized = results.metrics["quantize"]["precisions"]
    rows = [
        [
            escape(name), _percent(found["accuracy"]), _percent(found["agreement"]), f"{found['cost']:.4g}",
            f"{found['bitflops']:,.0f}", f"{found['bytes'] / 1000:,.0f}",
        ]
        for name, found in sorted(quantized.items(), key=lambda item: (item[1]["cost"], item[0]))
    ]  # fmt: skip
    gates = results.metrics["exits"]["gates"]
    precisions = sorted({name for by in gates.values() for name in by}, key=_bits)
    heads = [
        [f"gate {escape(gate)}", *(_percent(gates[gate].get(name)) for name in precisions)]
        for gate in sorted(gates, key=int)
    ]
    predicted = results.metrics["predictors"]["gates"]
    quality = [
        [f"gate {escape(gate)}", *(f"{predicted[gate][key]:.4f}" for key in ("rmse", "ece", "auroc", "aurc"))]
        for gate in sorted(predicted, key=int)
    ]
    return (
        '<h2 id="parts">Parts</h2><h3>Precisions</h3>'
        "<p>The whole network at one precision, on validation. Agreement: how often it answers "
        "as the float network does.</p>"
        + _table(["precision", "accuracy", "agreement", "cost", "BitFLOPs", "kB"], rows)
        + "<h3>Exit heads</h3><p>Accuracy on validation of the classifier at each gate, one precision throughout.</p>"
        + _table(["", *map(escape, precisions)], heads)
        + "<h3>Predictors</h3><p>The numbers behind the figure above, on validation.</p>"
        + _table(["", "RMSE", "ECE", "AUROC", "AURC"], quality)
    )


def _lineage(results: Results) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(digest)}</code></td></tr>"
        for name, digest in sorted(results.digests.items())
    )
    return (
        '<h2 id="lineage">Lineage</h2><p>This page was made from these files alone (SHA-256). The same files give '
        "the same page, byte for byte.</p>"
        f'<div class="scroll"><table class="digests"><tbody>{rows}</tbody></table></div>'
    )


def _figure(name: str, text: str, title: str, caption: str) -> str:
    inline = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    label = f'<svg role="img" aria-label="{escape(title)}" '
    head = re.sub(r'\s(width|height)="[^"]*"', "", inline[: inline.index(">")])
    inline = head.replace("<svg", label, 1) + inline[inline.index(">") :]
    return (
        f'<h2 id="{name}">{escape(title)}</h2>\n<figure>\n<figcaption><p>{escape(caption)}</p></figcaption>\n'
        f'<div class="scroll">\n{inline}</div>\n</figure>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; one that starts with NUL is the best of its column."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for row in rows:
        cells = "".join(f'<td class="best">{c[1:]}</td>' if c.startswith("\0") else f"<td>{c}</td>" for c in row)
        mark = ' class="ours"' if row[0] in OURS else ""
        lines.append(f"<tr{mark}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _percent(share: Any, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %".replace("-", "−")


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def _star(row: Row) -> str:
    return "" if row["budget_met"] else "*"


def _bits(precision: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", precision)]
