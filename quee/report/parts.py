"""Tables of the report on the parts: targets, predictors, precisions, the tree, gates and exit heads."""

from html import escape
from typing import Any

from quee.report import Results
from quee.report.markup import bits, measured, table
from quee.report.trees import chosen_tree
from quee.work.percentages import percent


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
        f"<h3>Gates</h3><p>Chosen on {held:,} validation images by the float network: {escape(found['reason'])}. "
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
        "<h3>Precisions</h3>"
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
