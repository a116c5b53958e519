"""What `quee run` ends with: the result in a sentence, where the report is, and the commands that come next."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quee.errors import QueeError
from quee.measure import ACCURACY
from quee.policies.registry import METHODS
from quee.settings.experiment import load_experiment
from quee.work.percentages import figure, percent
from tasks.verbs.results import Results, load_results


def closing_lines(root: Path, experiments: Sequence[str]) -> Iterator[str]:
    """A sentence and the report of each experiment with results, then the commands; nothing where none has any."""
    found = []
    for name in experiments:
        try:
            found.append(load_results(root, name))
        except QueeError:
            continue  # a run of a project of another kind, or whose stage `evaluate` is left out
    for results in found:
        yield f"{results.experiment}: {_sentence(root, results)}"
        if results.report is not None:
            yield f"report: {results.report.relative_to(root)}"
    if found:
        yield f"compare: quee results {shlex.join(results.experiment for results in found)}"
    bundles = [Path("artifacts") / name / "bundle" for name in experiments]
    if served := [bundle for bundle in bundles if (root / bundle / "bundle.json").is_file()]:
        extra = "" if find_spec("uvicorn") else "  (first: pip install 'quee[serve]')"
        yield f"serve: quee serve {shlex.quote(str(served[0]))}{extra}"


def _sentence(root: Path, results: Results) -> str:
    """What the policy of the bundle achieves on test at the budget next to the bundle's, beside the float network."""
    bundle = load_experiment(results.experiment, root / "experiments").bundle
    method = METHODS[bundle.policy].shown
    points = [point for point in results.points if point["method"] == method and point["test_accuracy"] is not None]
    full = results.metrics.get("fp32_accuracy")
    beside = "" if full is None else f"; the float network: {percent(full, 1)} at cost 16"
    if not points:
        return f"results are there{beside}"
    point = min(points, key=lambda point: (abs(point["budget"] - bundle.budget), point["budget"]))
    if results.measure is not ACCURACY:
        beside = _labelled(results, method, point["budget"])
    return (
        results.measure.said(
            f"{method} is right on {percent(point['test_accuracy'], 1)}{_interval(results, point)} of the test images at cost "
            f"{point['test_cost']:.2g} (1 is the static w8a8 network)"
        )
        + beside
    )


def _labelled(results: Results, method: str, budget: float) -> str:
    """Accuracy on labelled images, where the test images have no labels."""
    row = next((r for r in results.labelled if (r["method"], r["budget"]) == (method, budget)), None)
    if row is None:
        return "; there are no labels to tell accuracy by"
    count = results.metrics["labelled_samples"]
    ends = f"{figure(row['low'], 1)}, {figure(row['high'], 1)}"
    return f"; it is right on {percent(row['accuracy'], 1)} [{ends}] of {count:,} labelled images"


def _interval(results: Results, point: Mapping[str, Any]) -> str:
    """The 95 % interval of a point's accuracy and the number of seeds it is a mean of, where they are known."""
    low, high, seeds = point.get("low"), point.get("high"), results.metrics.get("seeds", 1)
    if low is None or high is None:
        return ""
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    return f" [{figure(low, 1)}, {figure(high, 1)}{over}]"
