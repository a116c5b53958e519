"""Write README's results section from the results: `python -m tasks.verbs.readme [EXPERIMENT…]`.

Experiments in `params.yaml` are read from `artifacts/`, the others from `reference/`.
"""

import sys
from pathlib import Path
from typing import Any

from quee.errors import IntegrityError
from quee.policies.names import MAIN, OURS, RIVALS
from quee.report.sections import resampled
from quee.work.io import read_json, write_bytes
from quee.work.percentages import DIFFERENCE, figure, percent
from tasks.dvc.lock import default_experiments
from tasks.verbs.reference import FOLDER, fetch, published
from tasks.verbs.results import Results, folds_note, level_mark, level_note, load_results
from tasks.work import journal
from tasks.work.place import ending

BEGIN, END = "<!-- results -->", "<!-- /results -->"
METHODS = ("static_w8a8", *MAIN)
BUDGETS = (0.1, 0.2, 0.4)
FIGURE = Path("docs") / "figures"


def section(root: Path, experiments: list[str]) -> str:
    """The table of all experiments and, for each, its figure and the comparisons that its intervals support."""
    head = " / ".join(f"{budget:g}" for budget in BUDGETS)
    lines = [f"| dataset | backbone | method | accuracy % at cost {head} | `auc` % | command | hardware | commit |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    said, marks = [], []
    for name in experiments:
        folder, made, reference = _sources(root, name)
        results = load_results(root, name, reference)
        dataset, backbone = read_json(folder / "prepare/dataset.json"), read_json(folder / "backbone/backbone.json")
        command = "`make repro`" if not reference else f"`quee run {name}`"
        for method in METHODS:
            if method in results.metrics["methods"]:
                cells = [dataset["dataset"], backbone["name"], f"`{method}`", _accuracies(results, method)]
                auc = figure(results.metrics["methods"][method]["auc"])
                cells += [f"{level_mark(results.metrics, method, 'auc')}{auc}", command, *_made(made)]
                lines.append(f"| {' | '.join(cells)} |")
        if "behind_best" in results.metrics:
            marks.append(f"{name}: {level_note(results.metrics)}")
        said.append(_words(name, dataset, read_json(folder / "backbone/metrics.json"), results.metrics))
        if reference:
            said.append(_every_method(name, results.points))
        _copy_figure(root, folder, name)
    note = (
        "Cost 1 is the static w8a8 network; `*`: the budget cannot be met, the cheapest point is shown. `auc` is the mean "
        "accuracy over log-uniform budgets in the tree's range of cost."
    )
    return "\n".join([BEGIN, *lines, "", " ".join([note, *marks]), "", *said, END])


def _sources(root: Path, name: str) -> tuple[Path, dict[str, Any], bool]:
    if name in default_experiments(root):
        record = journal.last(root, name, "evaluate", status="done")
        if record is None:
            raise IntegrityError(f"{name} was not evaluated here; `quee run {name} --force` does")
        return root / "artifacts" / name, record, False
    fetch(root)
    folder = root / FOLDER / name
    return folder, read_json(folder / "made.json")["evaluate"], True


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
    text = [f"![Accuracy over cost, {name}]({FIGURE.as_posix()}/{name}.svg)", ""]
    beside = "" if svc is None else f" (an RBF support vector machine: {percent(svc, 2)})"
    accuracy = metrics.get("fp32_accuracy")
    told = f"float accuracy {percent(accuracy, 2)} on {tested}"
    if accuracy is None:
        told = f"{tested}; float accuracy is unknown, because fp32 is not among its precisions"
    text.append(f"**{name}**: {told}{beside}.")
    gains = metrics.get("resplits") or metrics.get("gains", {})
    over = f"by paired bootstrap over {resampled(metrics, 'test images')}"
    if metrics.get("seeds", 1) > 1:
        over += f" and {metrics['seeds']} seeds"
    if "resplits" in metrics:
        over = "over random re-divisions of the held-out samples"
    for ours in OURS:
        parts = [_gain(gains[key], rival) for rival in RIVALS if (key := f"gain.{ours}.{rival}") in gains]
        if parts:
            text.append(f"`{ours}`'s `auc` {over}: {'; '.join(parts)}.")
    return "\n".join(text) + "\n"


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


def _copy_figure(root: Path, folder: Path, name: str) -> None:
    (root / FIGURE).mkdir(parents=True, exist_ok=True)
    write_bytes(root / FIGURE / f"{name}.svg", (folder / "report/figures/curves.svg").read_bytes())


def main() -> None:
    with ending():
        root = Path.cwd()
        names = sys.argv[1:] or list(dict.fromkeys([*default_experiments(root), *published(root)]))
        file = root / "README.md"
        text = file.read_text(encoding="utf-8")
        if BEGIN not in text or END not in text:
            raise IntegrityError(f"README.md has no {BEGIN} … {END}")
        made = section(root, names)
    before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    write_bytes(file, f"{before}{made}{after}".encode())
    print(f"README.md: results of {', '.join(names)}")


if __name__ == "__main__":
    main()
