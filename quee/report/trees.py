"""How the tree was chosen: its candidates as a figure, and the choice in words and tables."""

from html import escape

from matplotlib.figure import Figure

from quee.report import Results, Row
from quee.report.markup import signed, table
from quee.report.palette import GREY
from quee.report.style import cost_axes, dashes_of
from quee.work.percentages import percent


def title_of(row: Row) -> str:
    """A candidate's name."""
    return f"{row['precision']} by layer" if row["by_layer"] else str(row["precision"])


def kept(results: Results) -> set[str]:
    """Names of the candidates that the tree consists of."""
    layers, precisions = results.tree["layers"], results.tree["precisions"]
    return {title_of({"precision": name, "by_layer": name in layers}) for name in precisions}


def candidates(results: Results) -> Figure | None:
    """Accuracy of every candidate at every gate over the cost up to there; those of the tree in colour."""
    rows: list[Row] = results.tree["choice"].get("candidates", [])
    if not rows:
        return None
    chosen = kept(results)
    colours = iter(dashes_of(len(chosen)))
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.subplots()
    cost_axes(axes)
    axes.set_ylabel(f"accuracy on {results.tree['choice']['images']['judged_split']} (%)")
    for row in sorted(rows, key=lambda row: title_of(row) in chosen):
        name, colour, dashes = title_of(row), GREY, "-"
        if inside := name in chosen:
            colour, dashes = next(colours)  # type: ignore[assignment]
        values = [100 * value for value in row["accuracy"]]
        axes.plot(row["cost"], values, color=colour, linestyle=dashes, marker="." if inside else None,
                  linewidth=2.0 if inside else 0.8, label=name if inside else None)  # fmt: skip
        if not inside:
            place = row["cost"][-1], values[-1]
            axes.annotate(name, place, (3, 0), textcoords="offset points", fontsize=7, color=GREY)
    if chosen & {title_of(row) for row in rows}:
        axes.legend(title="in the tree")
    return figure


def chosen_tree(results: Results) -> str:
    """Which precisions the tree has and why; empty where the settings name them and their bits."""
    choice = results.tree.get("choice", {})
    if not choice:
        return ""
    names = ", ".join(escape(name) for name in results.tree["precisions"])
    images = choice["images"]
    text = (
        f"<h3>Tree</h3><p>{names}, {len(results.tree['paths']):,} paths. Candidates ran uniformly through the network with a "
        f"linear probe at every gate, fitted on {images['fitted']:,} training images and judged on {images['judged']:,} images "
        f"of split {escape(images['judged_split'])}, in {choice['passes']:,} passes of the network.</p>"
    )
    if sets := choice.get("sets"):
        rows = [[", ".join(map(escape, row["members"])), percent(row["auc"], 2)] for row in sets]
        over = choice.get("over_next")
        by = "" if over is None else (
            f" The chosen set is better than the next by {signed(over['mean'])} points (95 % interval {signed(over['low'])} … "
            f"{signed(over['high'])})."
        )  # fmt: skip
        text += (
            f"<p>Of {choice['tried']:,} sets the best of its size was taken by the area under early exits of its members, over "
            f"budgets from {choice['budgets'][0]:g} to 1, with cross-fitted hulls.{by}{_reach(choice)} "
            "Shown are the best of each smaller size and the next ones.</p>" + table(["set", "area"], rows)
        )
    if layers := choice["by_layer"]:
        rows = [
            [escape(row["precision"]), "by layer" if row["kept"] else "uniform", signed(row["mean"]),
             f"{signed(row['low'])} … {signed(row['high'])}"]
            for row in layers
        ]  # fmt: skip
        text += (
            "<p>Bits by layer against uniform ones, in points of area; uniform bits are kept where they are better beyond "
            "doubt.</p>" + table(["precision", "kept", "gain by layer", "95 % interval"], rows)
        )
    return text


def _reach(choice: Row) -> str:
    """Which members come near the float network, and what asking for one of them costs; empty in results of before."""
    if "reach" not in choice:
        return ""
    names = ", ".join(map(escape, choice["reach"]["members"]))
    text = (
        f" One of its members comes within {100 * choice['reach']['limit']:g} points of accuracy of the dearest candidate "
        f"with its whole network ({names} do)."
    )
    if other := choice.get("without_reach"):
        gain, members = other["gain"], ", ".join(map(escape, other["members"]))
        text += (
            f" Without that, {members} would have been taken, whose area is {signed(gain['mean'])} points away (95 % interval "
            f"{signed(gain['low'])} … {signed(gain['high'])})."
        )
    return text
