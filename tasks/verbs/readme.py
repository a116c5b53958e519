"""Write README's results section and docs/results.md from the results: `python -m tasks.verbs.readme [EXPERIMENT…]`.

Experiments in `params.yaml` are read from `artifacts/`, the others from `reference/`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quee.errors import IntegrityError
from quee.evaluation.drops import DROPS, UNIT_METHOD
from quee.evaluation.formats import EARLIER
from quee.measure import ACCURACY
from quee.policies.names import MAIN, OURS, REFERENCE, RIVALS, named
from quee.report.sections import resampled
from quee.work.io import read_json, write_bytes
from quee.work.percentages import DASH, DIFFERENCE, figure, percent
from tasks.dvc.lock import default_experiments
from tasks.verbs.reference import fetch
from tasks.verbs.results import Results, folds_note, level_mark, level_note, load_results
from tasks.work import journal
from tasks.work.place import ending
from tasks.work.published import FOLDER, published

BEGIN, END = "<!-- results -->", "<!-- /results -->"
METHODS = (UNIT_METHOD, *MAIN)
BUDGETS = (0.1, 0.2, 0.4)
SHOWN = (*OURS, *named("rival"), REFERENCE)
"""Methods in README's table; all methods are in docs/results.md."""
FIGURE, DETAILS = Path("docs") / "figures", Path("docs") / "results.md"


@dataclass(frozen=True)
class Source:
    """An experiment's results: where they lie, which run made them, and whether they are the published ones."""

    name: str
    folder: Path
    made: dict[str, Any]
    reference: bool
    results: Results

    @property
    def command(self) -> str:
        return f"`quee run {self.name}`" if self.reference else "`make repro`"


def summary(sources: list[Source]) -> str:
    """A row per experiment: the cost at which each main method is near the float network."""
    drops = " / ".join(f"{drop:g}" for drop in DROPS)
    head = ["experiment", "float accuracy %", f"`{UNIT_METHOD}` %", *(f"`{method}`" for method in SHOWN)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for source in sources:
        methods = source.results.metrics["methods"]
        cells = [
            _named(source),
            figure(source.results.metrics.get("fp32_accuracy")),
            figure(methods[UNIT_METHOD]["accuracy"]),
        ]
        cells += [_near(methods.get(method)) for method in SHOWN]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        f"Costs at {drops} points of accuracy below the float network, on test images; the static w8a8 network costs 1. "
        f"[All methods at all budgets, with intervals]({DETAILS.as_posix()})."
    )
    figures = [f"![Accuracy over cost, {s.name}]({FIGURE.as_posix()}/{s.name}.svg)" for s in sources]
    for source in sources:
        _copy_figure(source)
    return "\n".join([BEGIN, *lines, "", note, "", *figures, END])


def _near(found: dict[str, Any] | None) -> str:
    """Costs at which a method is within each of `DROPS`, or a dash where it was not measured."""
    if found is None:
        return DASH
    costs = [found.get(f"cost_at_drop_{drop}") for drop in DROPS]
    return " / ".join("never" if cost is None else f"{cost:.2f}" for cost in costs)


def details(sources: list[Source]) -> str:
    """docs/results.md: methods by budget, comparisons that the intervals support, and every method of published results."""
    head = " / ".join(f"{budget:g}" for budget in BUDGETS)
    lines = [
        "# Results",
        "",
        "`make readme` writes this page from the results. Cost 1 is the static w8a8 network, so cost 0.1 is a tenth of its",
        "arithmetic. `auc` is the mean accuracy over budgets from 1/16 to 1, spaced evenly in log cost and the same for every",
        "experiment: compare trees of one data set by it, and data sets by the cost near the float network.",
        "",
        f"| experiment | backbone | method | accuracy % at cost {head} | `auc` % | command | hardware | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    said, marks = [], []
    for source in sources:
        name, results = source.name, source.results
        dataset = read_json(source.folder / "prepare/dataset.json")
        backbone = read_json(source.folder / "backbone/backbone.json")
        for method in METHODS:
            if method in results.metrics["methods"]:
                cells = [_named(source), backbone["name"], f"`{method}`", _accuracies(results, method)]
                auc = figure(results.metrics["methods"][method]["auc"])
                cells += [f"{level_mark(results.metrics, method, 'auc')}{auc}", source.command, *_made(source.made)]
                lines.append(f"| {' | '.join(cells)} |")
        if "behind_best" in results.metrics:
            marks.append(f"{name}: {level_note(results.metrics)}")
        words = results.measure.said
        said.append(words(_words(name, dataset, read_json(source.folder / "backbone/metrics.json"), results.metrics)))
        said.append(words(at_stake(results.metrics)))
        if source.reference:
            said.append(words(_every_method(name, results.points)))
    note = "`*`: the budget cannot be met, the cheapest point is shown."
    return "\n".join([*lines, "", " ".join([note, *marks]), "", *said])


def load(root: Path, name: str) -> Source:
    """Raises IntegrityError where an experiment of `params.yaml` was not evaluated here, UsageError for an unknown one."""
    if name in default_experiments(root):
        record = journal.last(root, name, "evaluate", status="done")
        if record is None:
            raise IntegrityError(f"{name} was not evaluated here; `quee run {name} --force` does")
        return Source(name, root / "artifacts" / name, record, False, load_results(root, name))
    fetch(root)
    results, folder = load_results(root, name, True), root / FOLDER / name
    return Source(name, folder, read_json(folder / "made.json")["evaluate"], True, results)


def _named(source: Source) -> str:
    """The experiment, with the word for its figures where these are no accuracies."""
    measure = source.results.measure
    return source.name if measure is ACCURACY else f"{source.name} ({measure.name})"


def _accuracies(results: Results, method: str) -> str:
    found = {point["budget"]: point for point in results.points if point["method"] == method}
    return " / ".join(
        f"{level_mark(results.metrics, method, f'{b:g}')}{figure(found[b]['test_accuracy'], 1)}"
        f"{'' if found[b]['budget_met'] else '*'}"
        for b in BUDGETS
    )


def _made(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    return [f"{machine['cores']} cores, {machine['processor']}", str(record["git_commit"])[:7]]


def _words(name: str, dataset: dict[str, Any], trained: dict[str, Any], metrics: dict[str, Any]) -> str:
    count = metrics["test_samples"] if "folds" in metrics else dataset["splits"]["test"]
    tested = f"{count:,} test images{folds_note(metrics)}"
    svc = trained.get("svc_accuracy")
    text = [f"## {name}", "", f"![Accuracy over cost, {name}]({FIGURE.name}/{name}.svg)", ""]
    beside = "" if svc is None else f" (an RBF support vector machine: {percent(svc, 2)})"
    accuracy = metrics.get("fp32_accuracy")
    told = f"float accuracy {percent(accuracy, 2)} on {tested}"
    if accuracy is None:
        told = f"{tested}; float accuracy is unknown, because fp32 is not among its precisions"
    text.append(f"**{name}**: {told}{beside}.")
    earlier = metrics.get(EARLIER, {})
    known = [found[key] for found in (metrics, earlier) for key in ("resplits", "gains") if key in found]
    gains: dict[str, Any] = known[0] if known else {}
    over = f"by paired bootstrap over {resampled(metrics, 'test images')}"
    if metrics.get("seeds", 1) > 1:
        over += f" and {metrics['seeds']} seeds"
    if "resplits" in metrics or "resplits" in earlier:
        over = "over random re-divisions of the held-out samples"
    for ours in OURS:
        parts = [_gain(gains[key], rival) for rival in RIVALS if (key := f"gain.{ours}.{rival}") in gains]
        if parts:
            measure = f"mean accuracy over the budgets of its tree's own static paths, as published, {over}"
            text.append(f"`{ours}`'s {measure if earlier else f'`auc` {over}'}: {'; '.join(parts)}.")
    return "\n".join(text) + "\n"


def at_stake(metrics: dict[str, Any]) -> str:
    """Test accuracy of the network cut off at each gate, a row per uniform precision; empty for results without it."""
    exits: dict[str, list[float]] = metrics.get("exits", {})
    if not exits:
        return ""
    gates = range(1, 1 + max(map(len, exits.values())))
    lines = [
        f"| cut off at gate | {' | '.join(map(str, gates))} |",
        f"| --- |{' --- |' * len(gates)}",
        *(f"| `{name}` | {' | '.join(figure(value) for value in found)} |" for name, found in exits.items()),
    ]
    return "What depth and precision are worth, test accuracy %:\n\n" + "\n".join(lines) + "\n"


def _gain(found: dict[str, float], rival: str) -> str:
    mean, low, high = (figure(found[side], 2, *DIFFERENCE, sign=True) for side in ("mean", "low", "high"))
    verdict = "above" if found["low"] > 0 else "below" if found["high"] < 0 else "not distinguishable from"
    return f"{verdict} `{rival}` ({mean} [{low}, {high}] points)"


def _every_method(name: str, points: list[dict[str, Any]]) -> str:
    """Accuracy of every method at every budget with its 95 % interval, in a folded block."""
    budgets = sorted({point["budget"] for point in points})
    found = {(point["method"], point["budget"]): point for point in points}
    head = ["method", *(f"{budget:g}" for budget in budgets)]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' --- |' * len(budgets)}"]
    for method in sorted({method for method, _ in found}):
        cells = []
        for budget in budgets:
            point = found[method, budget]
            mean, low, high = (figure(point[key], 1) for key in ("test_accuracy", "low", "high"))
            cells.append(f"{mean}{'' if point['budget_met'] else '*'} [{low}, {high}]")
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    title = (
        f"{name}: every method at every budget, accuracy % with 95 % intervals (bootstrap over test images and seeds)"
    )
    return f"<details>\n<summary>{title}</summary>\n\n" + "\n".join(lines) + "\n\n</details>\n"


def _copy_figure(source: Source) -> None:
    FIGURE.mkdir(parents=True, exist_ok=True)
    write_bytes(FIGURE / f"{source.name}.svg", (source.folder / "report/figures/curves.svg").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.verbs.readme", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    options = parser.parse_args()
    with ending():
        root = Path.cwd()
        names = options.experiments or list(dict.fromkeys([*default_experiments(root), *published(root)]))
        file = root / "README.md"
        text = file.read_text(encoding="utf-8")
        if BEGIN not in text or END not in text:
            raise IntegrityError(f"README.md has no {BEGIN} … {END}")
        sources = [load(root, name) for name in names]
        made, page = summary(sources), details(sources)
    before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    write_bytes(file, f"{before}{made}{after}".encode())
    write_bytes(root / DETAILS, f"{page.rstrip()}\n".encode())
    print(f"README.md, {DETAILS}: results of {', '.join(names)}")


if __name__ == "__main__":
    main()
