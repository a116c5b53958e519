"""Results of experiments: accuracy and realised cost by method and budget, and comparison with a git revision."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from quee.errors import IntegrityError, UsageError
from quee.measure import ACCURACY, LABELLED, Measure, measure_of
from quee.policies.names import BOUND, MAIN, REFERENCE, shown
from quee.report.sentence import mean_gain
from quee.settings.names import experiment_names
from quee.work.columns import tables
from quee.work.percentages import DASH, DIFFERENCE, figure, percent
from quee.work.registry import unknown
from tasks.dvc.lock import ExperimentResult, chosen, default_experiments, is_revision, read_lock, read_out
from tasks.mlflow.values import of_first_seed, stage_numbers
from tasks.work.published import ARCHIVES, FOLDER, evaluated


@dataclass(frozen=True)
class Tolerance:
    """The allowed difference of a metric from its earlier value: absolute, or relative to the larger of the two."""

    pattern: str
    absolute: float
    relative: float
    why: str


TOLERANCES = (
    Tolerance(r"(^|\.)(parameters|macs|bitflops|bytes|samples|nodes)$", 0.0, 1e-9, "counted, not measured"),
    Tolerance(r"cost_at_drop", 0.05, 0.35, "a step of the curve moves with a single test sample"),
    Tolerance(r"gap_closed", 0.15, 0.0, "a ratio of small differences"),
    Tolerance(r"(^|\.)(cost|[\w]*_cost)$", 0.02, 0.05, "realised by a policy fitted anew"),
    Tolerance(r"\.knob$", float("inf"), 0.0, "the number of a point, or a price: no result"),
    Tolerance(r"", 0.02, 0.02, "training elsewhere changes the last bits, and these a few samples"),
)
"""The first pattern found in a metric's name decides. Tolerances are needed because CPUs differ in the last bits."""


BEHIND = "↓"
"""Marks methods that are behind the best of their column beyond doubt. The others, which are the best or cannot be told from
it, bear no mark: where images are few, these are nearly all."""


@dataclass(frozen=True)
class Change:
    """One metric, now and earlier; `within` tells whether the two agree within the tolerance."""

    metric: str
    before: float | None
    after: float | None
    allowed: float
    within: bool


@dataclass(frozen=True)
class Results:
    """Results of stage `evaluate`: metrics, an operating point per method and budget, and the report if there is one."""

    experiment: str
    metrics: dict[str, Any]
    points: list[dict[str, Any]]
    report: Path | None
    labelled: list[dict[str, Any]] = field(default_factory=list)
    """Accuracy on labelled images by method and budget, where the others have no labels."""
    published: bool = False
    """Whether they are the published ones, not those in artifacts/."""

    @property
    def measure(self) -> Measure:
        return measure_of(self.metrics)

    @property
    def asked(self) -> str:
        """The arguments of `quee results` that show them."""
        return f"--reference {self.experiment}" if self.published else self.experiment


def load_results(root: Path, experiment: str, reference: bool = False) -> Results:
    """Results in artifacts/, or the published ones in reference/; raises UsageError where there are none."""
    base = root / (FOLDER if reference else "artifacts")
    folder = base / experiment / "evaluate"
    if not (folder / "metrics.json").is_file():
        from tasks.verbs.reference import available  # with what pulls, which other answers do without

        where = ARCHIVES if reference else base.name
        hints = ["omit the name to see all"] if reference else []
        if not reference and experiment in experiment_names(root / "experiments"):
            hints.append(f"run `quee run {experiment}`")
        if not reference and experiment in available(root):
            hints.append(f"see the published ones: `quee results --reference {experiment}`")
        said = unknown(f"experiment with results in {where}/", experiment, evaluated(base))
        raise UsageError("; ".join(filter(None, [said, ", or ".join(hints)])))
    report = base / experiment / "report" / "report.html"
    found = read_results(experiment, folder, base / experiment / "features" / "tree.json")
    return replace(found, report=report if report.is_file() else None, published=reference)


def read_results(experiment: str, folder: Path, tree: Path) -> Results:
    """Results in a folder of stage `evaluate`; `tree` is the `tree.json` of stage `features`, which may be missing.

    Raises IntegrityError for files that are missing or damaged.
    """
    from quee.work.io import read_table

    labelled = read_table(beside).to_pylist() if (beside := folder / f"{LABELLED}.parquet").is_file() else []
    return Results(experiment, _metrics(folder, tree), _points(folder), None, labelled)


def _metrics(folder: Path, tree: Path) -> dict[str, Any]:
    """Metrics in terms of the current format; of an older one, `auc` is computed anew from the curve and the tree's costs,
    and is left out where they are missing."""
    from quee.evaluation.formats import FORMAT, comparable
    from quee.work.io import read_json, read_table

    metrics, curve = read_json(folder / "metrics.json"), folder / "curve.parquet"
    if metrics.get("format") == FORMAT or not (curve.is_file() and tree.is_file()):
        return comparable(metrics)
    import numpy as np

    from quee.evaluation.recomputed import recomputed

    costs = np.array([node["cost"] for node in read_json(tree)["nodes"]])
    return recomputed(metrics, read_table(curve).to_pylist(), costs)


def _points(folder: Path) -> list[dict[str, Any]]:
    """A point per method and budget, mean over seeds, with the policy that `auto` chose; results of older versions have one
    seed."""
    from quee.report.sentence import with_chosen
    from quee.work.io import read_table

    each = read_table(folder / "operating_points.parquet").to_pylist()
    if (folder / "budgets.parquet").is_file():
        return with_chosen(read_table(folder / "budgets.parquet").to_pylist(), each)
    return of_first_seed(each)


def as_json(results: Results) -> dict[str, Any]:
    found = {**asdict(results), "measure": results.measure.name}
    return {**found, "report": str(results.report) if results.report else None}


def chosen_methods(results: Results, wanted: Sequence[str] | None = None, all_methods: bool = False) -> list[str]:
    """The methods to show: those wanted, or the main ones, or all; raises UsageError for one without results."""
    names = {point["method"] for point in results.points}
    for name in wanted or ():
        if name not in names:
            raise UsageError(
                unknown("method with results", name, sorted(names), f"`quee results {results.asked} --all`")
            )
    return list(wanted) if wanted else shown(names) + (sorted(names - set(MAIN)) if all_methods else [])


def results_table(results: Results, methods: Sequence[str], width: int = 80) -> Group:
    """A row per method: test accuracy in % at each budget, with the realised cost below it.

    Budgets for which `width` characters have no room follow below.
    """
    budgets = sorted({point["budget"] for point in results.points})
    fp32 = results.metrics.get("fp32_accuracy")
    said = results.measure.said
    title = f"[bold]{results.experiment}[/bold]: {said('accuracy on test (%), below it the realised cost')}"
    full = "No fp32 among the precisions: float accuracy is unknown. " if fp32 is None else f"fp32 {percent(fp32, 2)}. "
    if results.measure is not ACCURACY:
        full = f"No labels: agreement is with {results.measure.against}. "
    missed = any(not point["budget_met"] for point in results.points if point["method"] in methods)
    notes = [f"{full}Cost 1 is static w8a8.{' * this budget cannot be met: the nearest point.' if missed else ''}"]
    notes += labelled_lines(results)
    if any(mean_gain(results.metrics, method) is not None for method in methods):
        divided = bool(results.metrics.get("resplits"))
        again = ", mean of random re-divisions of the held-out images" * divided
        once = ", on the one division of the table" * divided
        notes.append(f"auc: mean accuracy over budgets{once}. gain: points of auc over {REFERENCE}{again}.")
    if "behind_best" in results.metrics:
        tested = f" ({results.metrics['test_samples']:,} test images{folds_note(results.metrics)})"
        notes.append(behind_note([results], tested))
    note = "\n".join(f"[dim]{line}[/dim]" for line in notes)
    found = {(point["method"], point["budget"]): point for point in results.points}
    rows = [
        (
            f"{method}\n[dim]{_summary(results.metrics, method)}[/dim]",
            *(_cell(found.get((method, budget)), behind_mark(results.metrics, method, f"{budget:g}")) for budget in budgets),
        )
        for method in methods
    ]  # fmt: skip
    return Group(title, *tables(["method \\ budget", *(f"{budget:g}" for budget in budgets)], rows, width), note)


def labelled_lines(results: Results) -> list[str]:
    """Accuracy on the labelled images at every budget of the methods that short tables show; empty where there are none."""
    budgets = sorted({row["budget"] for row in results.labelled})
    found = {(row["method"], row["budget"]): row for row in results.labelled}
    lines = []
    for method in shown({row["method"] for row in results.labelled}):
        cells = [
            f"{figure(row['accuracy'], 1)} [{figure(row['low'], 1)}, {figure(row['high'], 1)}] at {budget:g}"
            for budget in budgets
            if (row := found.get((method, budget))) is not None
        ]
        lines.append(f"  {method}: {', '.join(cells)}")
    count = results.metrics.get("labelled_samples", 0)
    return [f"Accuracy on {count:,} labelled images (%, 95 % interval) by budget:", *lines] if lines else []


def _summary(metrics: dict[str, Any], method: str) -> str:
    parts = []
    if (auc := metrics.get("methods", {}).get(method, {}).get("auc")) is not None:
        parts.append(f"auc {behind_mark(metrics, method, 'auc')}{figure(auc)}")
    if method not in (REFERENCE, BOUND) and (gain := mean_gain(metrics, method)) is not None:
        parts.append(f"gain {figure(gain, 2, *DIFFERENCE, sign=True)}")
    return " ".join(parts)


def behind_mark(metrics: dict[str, Any], method: str, column: str) -> str:
    """BEHIND for a method that is behind the best of a column (`auc`, or a budget such as `0.1`), else empty."""
    found = metrics.get("behind_best", {}).get(method, {}).get(column)
    return BEHIND if found is not None and found["low"] > 0 else ""


def behind_note(results: Sequence[Results], tested: str = "") -> str:
    """Explanation of BEHIND for some results, and words on what they were tested on; empty where none has such intervals."""
    found = {one.experiment: one.metrics.get("behind_best", {}) for one in results}
    compared = sorted({name for methods in found.values() for name in methods})
    if not compared:
        return ""
    bare = [name for name, methods in found.items() if not methods]
    bare += [
        f"auc of {name}" for name, methods in found.items() if methods and not any("auc" in m for m in methods.values())
    ]
    last = f" Not marked, because published without these intervals: {', '.join(bare)}." if bare else ""
    return (
        f"{BEHIND} behind the best of its column, with 95 % confidence{tested}; of {', '.join(compared)}, those without it "
        f"cannot be told from the best.{last}"
    )


def folds_note(metrics: dict[str, Any]) -> str:
    """Words on cross-fitting, to follow a number of test images; empty without folds."""
    return f" in {folds} folds, each tested by what was fitted without it" if (folds := metrics.get("folds")) else ""


def _cell(point: dict[str, Any] | None, mark: str) -> str:
    if point is None or point["test_accuracy"] is None:
        return DASH
    missed = "" if point["budget_met"] else "*"
    accuracy = figure(point["test_accuracy"], 1)
    short = "100" if accuracy == "100.0" else accuracy  # short, so that nine budgets and their marks fit eighty columns
    return f"{mark}{short}\n[dim]{missed}{point['test_cost']:.2g}[/dim]"


def metrics_of(root: Path, result: ExperimentResult, here: bool) -> dict[str, float]:
    """Every stage's metrics as `STAGE.name`, from artifacts/ when `here`, else from DVC's cache."""
    found: dict[str, float] = {}
    for stage in result.stages.values():
        if (text := read_out(root, stage, "metrics.json", here)) is not None:
            try:
                found |= {f"{stage.stage}.{name}": value for name, value in stage_numbers(stage.stage, text).items()}
            except ValueError:
                raise IntegrityError(f"not a JSON file: metrics.json of {stage.name}") from None
    return found


def against(root: Path, revision: str, experiments: list[str] | None) -> dict[str, list[Change]]:
    """By experiment: metrics in artifacts/ beside the metrics that `dvc.lock` names at a git revision."""
    if not is_revision(root, revision):
        raise UsageError(f"unknown git revision {revision!r}")
    now, then = read_lock(root), read_lock(root, revision)
    names = experiments or [name for name in default_experiments(root) or list(now) if name in now]
    changes = {}
    for name in names:
        after = metrics_of(root, chosen(now, [name])[name], here=True)
        if not after:
            raise UsageError(f"{name} has no results here to compare; `quee run {name}` makes them")
        if name not in then:
            raise UsageError(unknown(f"experiment with results at {revision}", name, list(then)))
        changes[name] = changes_between(metrics_of(root, then[name], here=False), after)
    return changes


def changes_between(before: dict[str, float], after: dict[str, float]) -> list[Change]:
    """Metrics side by side; a metric of one side alone counts as within, because nothing can be compared."""
    found = []
    for name in sorted(before | after):
        old, new = before.get(name), after.get(name)
        rule = next(rule for rule in TOLERANCES if re.search(rule.pattern, name))
        allowed = max(rule.absolute, rule.relative * max(abs(old or 0.0), abs(new or 0.0)))
        within = old is None or new is None or abs(new - old) <= allowed
        found.append(Change(name, old, new, allowed, within))
    return found


def changes_table(experiment: str, changes: list[Change], revision: str, all_metrics: bool = False) -> Table:
    """Rows for metrics outside their tolerance, or for all."""
    table = Table(title=f"{experiment}: now against {revision}", box=None, pad_edge=False, title_justify="left")
    for column in ("metric", revision, "now", "difference", "allowed", ""):
        table.add_column(column, justify="left" if column in ("metric", "") else "right")
    for change in changes:
        if all_metrics or not change.within:
            difference = None if change.before is None or change.after is None else change.after - change.before
            figures = [number(value) for value in (change.before, change.after, difference, change.allowed)]
            table.add_row(change.metric, *figures, "" if change.within else "outside")
    return table


def number(value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.{4 if abs(value) >= 1e5 else 5}g}"
