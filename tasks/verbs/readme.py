"""Write README's results section, docs/results.md and the table of docs/claims.md: `python -m tasks.verbs.readme [NAME…]`.

Experiments in `params.yaml` are read from `artifacts/`, the others from `reference/`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quee.errors import IntegrityError
from quee.evaluation.drops import UNIT_METHOD
from quee.evaluation.formats import EARLIER
from quee.evaluation.near import DROPS
from quee.measure import ACCURACY
from quee.policies.names import MAIN, OURS, REFERENCE, RIVALS, named, single_techniques
from quee.report.curve import WORDS
from quee.report.overview import Line, drawn
from quee.report.sections import resampled, verdict
from quee.report.sentence import simpler
from quee.work.counts import counted
from quee.work.io import read_json, write_bytes
from quee.work.percentages import DASH, difference, figure, percent
from tasks.dvc.lock import default_experiments
from tasks.verbs.claims import gains_of, table
from tasks.verbs.reference import fetch
from tasks.verbs.results import Results, behind_mark, behind_note, folds_note, load_results
from tasks.work import journal
from tasks.work.place import ending
from tasks.work.published import FOLDER, published

BEGIN, END = "<!-- results -->", "<!-- /results -->"
METHODS = (UNIT_METHOD, *MAIN)
BUDGETS = (0.1, 0.2, 0.4)
BEST = OURS[-1]
"""What is deployed unless a policy is named."""
SHOWN = (*named("rival"), REFERENCE)
"""Methods in README's table and figure beside it; all methods are in docs/results.md."""
FIGURE, DETAILS = Path("docs") / "figures", Path("docs") / "results.md"
README, CLAIMS = Path("README.md"), Path("docs") / "claims.md"
KEY = (
    f"Costs are picked on test, where each curve first comes within {' / '.join(f'{drop:g}' for drop in DROPS)} points of the "
    "float network. They are not what the default budget spends."
)
"""What the columns of costs near the float network mean, to stand directly above their table."""
NOTE = (
    f"The static w8a8 network costs 1. `{BEST}` is what quee deploys when nothing is said. One technique alone is the cheapest "
    "of exits at one precision and precisions without exits, picked on the same test images, so in its favour."
)
"""What is said below a table of costs near the float network."""


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

    def described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What its data set and its backbone are."""
        return read_json(self.folder / "prepare/dataset.json"), read_json(self.folder / "backbone/backbone.json")


def summary(sources: list[Source]) -> str:
    """README's section: a row and a panel per data set, of the experiment whose float network is the most accurate there."""
    best = _by_data_set(sources)
    curves = []
    for source in best:
        if (accuracy := source.results.metrics.get("fp32_accuracy")) is not None:
            points = {method: _curve(source.results.points, method) for method in (BEST, *SHOWN)}
            curves.append(Line(source.described()[0]["dataset"], accuracy, points))
    FIGURE.mkdir(parents=True, exist_ok=True)
    write_bytes(FIGURE / "overview.svg", drawn(curves).encode())
    rows = _near_table(best, "data set")
    older = [f"{DASH}: results that were published before the method was there."] * any(
        f"| {DASH} " in row for row in rows
    )
    note = " ".join([
        NOTE,
        *simpler_here(best),
        *older,
        "Of several experiments on a data set the one with the most accurate float network is shown.",
        f"[Every experiment and every method, with intervals]({DETAILS.as_posix()}).",
    ])  # fmt: skip
    return "\n".join([KEY, "", *rows, "", note])


def simpler_here(sources: list[Source]) -> list[str]:
    """A sentence with the data sets on which something simpler is clearly cheaper than `BEST`; none where there are none."""
    found = [
        source.described()[0]["dataset"] for source in sources if simpler(source.results.metrics, BEST) is not None
    ]
    if not found:
        return []
    return [
        f"When not to use quee: on {', '.join(found)} fixed precisions or plain confidence exits come within half a point of the "
        f"float network (or, where none does, within one) for clearly less than `{BEST}` costs, or where `{BEST}` never does."
    ]


def _by_data_set(sources: list[Source]) -> list[Source]:
    """One experiment per data set, in the order in which data sets come first."""
    found: dict[str, Source] = {}
    for source in sources:
        name = source.described()[0]["dataset"]
        accuracy = source.results.metrics.get("fp32_accuracy") or 0.0
        if name not in found or accuracy > (found[name].results.metrics.get("fp32_accuracy") or 0.0):
            found[name] = source
    return list(found.values())


def _near_table(sources: list[Source], *what: str) -> list[str]:
    """A row per experiment, named by `what`: the cost at which each method is near the float network."""
    head = [*what, "backbone", "float accuracy %", f"`{BEST}`", "one technique alone"]
    head += [*(f"{WORDS[method]} (`{method}`)" for method in SHOWN), f"`{UNIT_METHOD}`, accuracy %"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for source in sources:
        metrics, dataset, backbone = source.results.metrics, *source.described()
        found = metrics["methods"]
        names = {"experiment": source.name, "data set": dataset["dataset"]}
        cells = [_with_measure(source, names[key]) if key == what[0] else names[key] for key in what]
        cells += [backbone["name"], figure(metrics.get("fp32_accuracy"))]
        cells += [_near([found.get(BEST)]), _near([found[name] for name in single_techniques(found)])]
        cells += [_near([found.get(method)]) for method in SHOWN]
        cells.append(figure(found[UNIT_METHOD]["accuracy"]))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _near(methods: list[dict[str, Any] | None]) -> str:
    """Least costs at which any of the methods is within each of `DROPS`, or a dash where none was measured."""
    known = [method for method in methods if method is not None]
    if not known:
        return DASH
    found = [[c for m in known if (c := m.get(f"cost_at_drop_{drop}")) is not None] for drop in DROPS]
    return " / ".join(f"{min(costs):.2f}" if costs else "never" for costs in found)


def _curve(points: list[dict[str, Any]], method: str) -> list[tuple[float, float]]:
    """Cost and test accuracy of a method's operating points at its budgets, by rising cost."""
    own = {(row["test_cost"], row["test_accuracy"]) for row in points if row["method"] == method and row["budget_met"]}
    return sorted(own)


def details(sources: list[Source]) -> str:
    """docs/results.md: costs near the float network, methods by budget, comparisons that the intervals support, and every
    method of published results."""
    head = " / ".join(f"{budget:g}" for budget in BUDGETS)
    lines = [
        "# Results",
        "",
        "`make readme` writes this page from the results. Cost 1 is the static w8a8 network, so cost 0.1 is a tenth of its",
        "arithmetic. `auc` is the mean accuracy over budgets from 1/16 to 1, spaced evenly in log cost and the same for every",
        "experiment: compare trees of one data set by it, and data sets by the cost near the float network.",
        "",
        "## Near the float network",
        "",
        KEY,
        "",
        *_near_table(sources, "experiment", "data set"),
        "",
        NOTE,
        "",
        "## At three budgets",
        "",
        f"| experiment | backbone | method | accuracy % at cost {head} | `auc` % | command | hardware | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    said = []
    for source in sources:
        name, results = source.name, source.results
        dataset, backbone = source.described()
        for method in METHODS:
            if method in results.metrics["methods"]:
                cells = [
                    _with_measure(source, source.name),
                    backbone["name"],
                    f"`{method}`",
                    _accuracies(results, method),
                ]
                auc = figure(results.metrics["methods"][method]["auc"])
                cells += [f"{behind_mark(results.metrics, method, 'auc')}{auc}", source.command, *_made(source.made)]
                lines.append(f"| {' | '.join(cells)} |")
        words = results.measure.said
        said.append(words(_words(name, dataset, read_json(source.folder / "backbone/metrics.json"), results.metrics)))
        said.append(words(at_stake(results.metrics)))
        if source.reference:
            said.append(words(_every_method(name, results.points)))
    notes = [
        "`*`: the budget cannot be met, the cheapest point is shown.",
        behind_note([source.results for source in sources]),
    ]
    return "\n".join([*lines, "", " ".join(notes), "", *said])


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


def _with_measure(source: Source, name: str) -> str:
    """A name, with the word for the experiment's figures where these are no accuracies."""
    measure = source.results.measure
    return name if measure is ACCURACY else f"{name} ({measure.name})"


def _accuracies(results: Results, method: str) -> str:
    found = {point["budget"]: point for point in results.points if point["method"] == method}
    return " / ".join(
        f"{behind_mark(results.metrics, method, f'{b:g}')}{figure(found[b]['test_accuracy'], 1)}"
        f"{'' if found[b]['budget_met'] else '*'}"
        for b in BUDGETS
    )


def _made(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    return [f"{counted(machine['cores'], 'core')}, {machine['processor']}", str(record["git_commit"])[:7]]


def _words(name: str, dataset: dict[str, Any], trained: dict[str, Any], metrics: dict[str, Any]) -> str:
    count = metrics["test_samples"] if "folds" in metrics else dataset["splits"]["test"]
    tested = f"{counted(count, 'test image')}{folds_note(metrics)}"
    svc = trained.get("svc_accuracy")
    text = [f"## {name}", "", f"![Accuracy over cost, {name}]({FIGURE.name}/{name}.svg)", ""]
    beside = "" if svc is None else f" (an RBF support vector machine: {percent(svc, 2)})"
    accuracy = metrics.get("fp32_accuracy")
    told = f"float accuracy {percent(accuracy, 2)} on {tested}"
    if accuracy is None:
        told = f"{tested}; float accuracy is unknown, because fp32 is not among its precisions"
    text.append(f"**{name}**: {told}{beside}.")
    earlier = metrics.get(EARLIER, {})
    gains = gains_of(metrics)
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


def _gain(found: Mapping[str, float], rival: str) -> str:
    return f"{verdict(found['low'], found['high'])} `{rival}` ({difference(found)} points)"


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
    return f"<details markdown>\n<summary>{title}</summary>\n\n" + "\n".join(lines) + "\n\n</details>\n"


def _copy_figure(source: Source) -> None:
    write_bytes(FIGURE / f"{source.name}.svg", (source.folder / "report/figures/curves.svg").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.verbs.readme", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    options = parser.parse_args()
    with ending():
        root = Path.cwd()
        names = options.experiments or list(dict.fromkeys([*default_experiments(root), *published(root)]))
        around = {file: _around(root / file) for file in (README, CLAIMS)}
        sources = [load(root, name) for name in names]
        made = {
            README: summary(sources),
            CLAIMS: table([(source.name, source.folder, source.results.metrics) for source in sources]),
        }
        page = details(sources)
        for source in sources:
            _copy_figure(source)
    for file, (before, after) in around.items():
        write_bytes(root / file, f"{before}{BEGIN}\n{made[file]}\n{END}{after}".encode())
    write_bytes(root / DETAILS, f"{page.rstrip()}\n".encode())
    print(f"{README}, {DETAILS}, {CLAIMS}: results of {', '.join(names)}")


def _around(file: Path) -> tuple[str, str]:
    """What stands before and after the section. Raises IntegrityError for a page without it."""
    text = file.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise IntegrityError(f"{file.name} has no {BEGIN} … {END}")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


if __name__ == "__main__":
    main()
