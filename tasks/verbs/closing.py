"""What `quee run` ends with: the result in a sentence and three numbers, the report, and the commands that come next."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from quee.errors import QueeError, UsageError
from quee.policies.registry import METHODS
from quee.report.sentence import Summary
from quee.settings.bundle import Bundle
from quee.work.io import read_json
from tasks.resolved import settings_file
from tasks.verbs.results import Results, load_results

NEAREST = "Near float: the least cost at which accuracy is within half a point of the float network."
"""Of the column of that name."""


def closing_lines(root: Path, experiments: Sequence[str]) -> Iterator[str]:
    """Two or three lines and the report of each experiment with results, then the commands; nothing where none has any."""
    found = []
    for name in experiments:
        try:
            found.append(load_results(root, name))
        except QueeError:
            continue  # a run of a project of another kind, or whose stage `evaluate` is left out
    for results in found:
        summary = summary_of(root, results)
        yield " ".join([f"{results.experiment}:", *said(summary)])
        if numbers := summary.numbers():
            yield f"numbers: {numbers}"
        if instead := summary.instead():
            yield f"instead: {instead}"
        if results.report is not None:
            yield f"report: {results.report.relative_to(root)}"
    if found:
        names = shlex.join(results.experiment for results in found)
        yield f"compare: quee results {names} --plot; with another experiment: quee compare {found[0].experiment} OTHER --html"
    bundles = [Path("artifacts") / name / "bundle" for name in experiments]
    if served := [bundle for bundle in bundles if (root / bundle / "bundle.json").is_file()]:
        extra = "" if find_spec("uvicorn") else "  (first: pip install 'quee[serve]')"
        yield f"serve: quee serve {shlex.quote(str(served[0]))}{extra}"


def results_page(root: Path, experiment: str) -> tuple[str, str]:
    """The sentence, and in Markdown what follows it, with a table of the main methods; raises UsageError without results."""
    from tasks.mlflow.describe import markdown_table
    from tasks.mlflow.headlines import SHORT, UNITS, Figures

    results = load_results(root, experiment)
    summary, bundle = summary_of(root, results), bundle_of(root, experiment)
    table = Figures(results.metrics, bundle.policy, bundle.budget, points=results.points).table()
    (first, *more), numbers = said(summary), summary.numbers()
    folder = Path("artifacts") / experiment
    where = [f"report `{results.report.relative_to(root)}`"] if results.report else []
    if (root / folder / "bundle" / "bundle.json").is_file():
        where.append(f"serve it with `quee serve {folder / 'bundle'}`")
    where.append(f"compare it with `quee compare {experiment} OTHER --html`")
    blocks = [
        f"{numbers[:1].upper()}{numbers[1:]}." if numbers else "",
        " ".join(more),
        summary.instead(),
        markdown_table([{short: row[name] for name, short in SHORT.items() if name in row} for row in table]),
        results.measure.said(f"{NEAREST} {UNITS[:1].upper()}{UNITS[1:]}.") if table else "",
        f"On the machine that ran it: {', '.join(where)}.",
    ]
    return first, "\n\n".join(block for block in blocks if block)


def said(summary: Summary) -> list[str]:
    """Sentences: what is deployed, what the bundle itself does, the least cost near the float network, and accuracy where the
    test images have no labels."""
    parts = (summary.sentence(named=True), summary.bundled(), summary.nearest(), summary.said_of_labelled())
    return [text for text in parts if text]


def bundle_of(root: Path, experiment: str, reference: bool = False) -> Bundle:
    """What the experiment deploys, by the settings that its result was made with, or else by its YAML.

    `reference` means the published result, which the settings in artifacts/ are not of. The defaults are returned where the
    YAML is no longer here or not valid.
    """
    made_with = root / settings_file(experiment)
    if made_with.is_file() and not reference:
        with suppress(ValidationError):  # settings of another version
            return Bundle.model_validate(read_json(made_with).get("bundle", {}))
    from quee.settings.experiment import load_experiment  # slow to import

    try:
        return load_experiment(experiment, root / "experiments").bundle
    except UsageError:
        return Bundle()


def summary_of(root: Path, results: Results, reference: bool = False) -> Summary:
    """The results of what the experiment deploys; `reference` means published results."""
    bundle = bundle_of(root, results.experiment, reference)
    return Summary(results.metrics, results.points, METHODS[bundle.policy].shown, bundle.budget, results.labelled)
