"""Verbs of `quee` that track and show results: `track`, `results`, `compare`, `ui`."""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from quee.cli import AsJson
from quee.errors import IntegrityError, QueeError, UnreachableError, UsageError
from quee.work.counts import counted
from tasks.work.lifeline import keep
from tasks.work.place import refuse_taken

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="All by default.", show_default=False)
]


def track(
    experiments: Names = None,
    later: Annotated[
        bool, typer.Option("--or-later", help="Where MLflow does not take results, say so and exit with status 0.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Ask MLflow what it holds; needed after runs were deleted by hand.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Make MLflow hold each result in dvc.lock exactly once; does nothing for those it has.

    What MLflow has is noted in .quee/tracked, so that MLflow is asked only when there is something to add.
    """
    from tasks.mlflow.tracking import track as track_results

    try:
        done = track_results(Path.cwd(), experiments, force=force, notify=lambda message: typer.echo(message, err=True))
    except UnreachableError as error:
        if not later:
            raise
        typer.echo(f"quee: {error}", err=True)
        return
    if json_:
        typer.echo(json.dumps(asdict(done), indent=1))
        return
    for title in done.logged:
        typer.echo(f"tracked {title}")
    for version in done.registered:
        typer.echo(f"tracked {version}: {done.decided[version]}")
    for name, reason in done.skipped.items():
        typer.echo(f"skipped {name}: {reason}", err=True)
    hint = "; `quee run` makes what is not here" if done.skipped and not done.logged else ""
    typer.echo(f"{counted(len(done.logged), 'result')} tracked, {done.known} tracked before{hint}")


def results(
    experiments: Names = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Compare metrics with those of a git revision; exit 1 if any is outside."),
    ] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Show the published results in reference/.")] = False,
    methods: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="Show this method alone; may be repeated.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show every method, or every metric.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw accuracy over cost, too.")] = False,
    json_: AsJson = False,
) -> None:
    """Show what experiments achieved: accuracy and realised cost of each method at each budget."""
    if against is not None:
        if reference:
            raise UsageError("--against compares what is in artifacts/ with a revision; leave --reference out")
        _results_against(against, experiments, all_, json_)
        return
    from rich.console import Console

    from tasks.dvc.lock import default_experiments
    from tasks.verbs.closing import said, summary_of
    from tasks.verbs.results import as_json, chosen_methods, load_results, results_table
    from tasks.work.published import POINTER, evaluated, published

    root = Path.cwd()
    names = experiments or default_experiments(root)
    if not experiments and not reference:
        here = evaluated(root / "artifacts")
        missing = [name for name in names if name not in here]
        names = [name for name in names if name in here]
        if missing or not names:
            what = f"of {', '.join(missing)}" if missing else "here"
            others = (
                "; `quee results --reference` shows the published ones"
                if published(root) or (root / POINTER).is_file()
                else ""
            )
            typer.echo(
                f"nothing was evaluated {what}; `quee run {missing[0] if missing else 'NAME'}` does{others}",
                err=bool(names) or json_,
            )
    if reference:
        from tasks.verbs.reference import fetch
        from tasks.work.published import published

        fetch(root)
        names = experiments or published(root)
        if not names:
            raise UsageError("no results are published here: there is neither reference/ nor reference.dvc")
    found = [load_results(root, name, reference) for name in names]
    if json_:
        typer.echo(json.dumps({item.experiment: as_json(item) for item in found}, indent=1))
        return
    console = Console()
    for item in found:
        chosen = chosen_methods(item, methods, all_)
        console.print(results_table(item, chosen, console.width))
        if plot:
            from tasks.verbs.plot import plotted

            console.print(plotted(root, item, chosen, console.width, reference), soft_wrap=True, highlight=False)
        if (summary := summary_of(root, item, reference)).point is not None:
            console.print(" ".join(filter(None, [*said(summary), summary.instead()])), highlight=False)
        if item.report:
            console.print(f"Report: {item.report}", soft_wrap=True)


def _results_against(revision: str, experiments: list[str] | None, all_metrics: bool, json_: bool) -> None:
    from rich.console import Console

    from tasks.verbs.reference import fetch
    from tasks.verbs.results import TOLERANCES, against, changes_table

    with suppress(IntegrityError):
        fetch(Path.cwd())  # where DVC's cache lacks the revision's results, the published ones have its metrics
    found = against(Path.cwd(), revision, experiments)
    outside = sum(not change.within for changes in found.values() for change in changes)
    if json_:
        typer.echo(
            json.dumps({name: [asdict(change) for change in changes] for name, changes in found.items()}, indent=1)
        )
    else:
        console = Console()
        for name, changes in found.items():
            if all_metrics or any(not change.within for change in changes):
                console.print(changes_table(name, changes, revision, all_metrics))
            inside = sum(change.within for change in changes)
            console.print(
                f"{name}: {inside} of {counted(len(changes), 'metric')} within tolerance of {revision}", soft_wrap=True
            )
        console.print("Tolerances (absolute or relative to the larger value, by metric):", style="dim")
        for rule in TOLERANCES:
            text = f"  {rule.pattern or 'others'}: {rule.absolute:g} or {rule.relative:g}; {rule.why}"
            console.print(text, style="dim", markup=False, soft_wrap=True)
    if outside:
        raise typer.Exit(1)


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Experiment, also a published one, MLflow run id, git revision, or REVISION:EXPERIMENT."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="With --html: the page; .quee/compare/A-B.html by default.", show_default=False
        ),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write a page: which is better, both curves, what changes for which images.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Show every metric, not the main ones.")] = False,
    json_: AsJson = False,
) -> None:
    """Show how two results differ in settings and metrics, or make a page of it: `quee compare A B --html [FILE]`."""
    from tasks.mlflow.compare import differences, settings_differences, side
    from tasks.verbs.results import number
    from tasks.work.published import evaluated

    if file is not None and not html:
        raise UsageError(f"{file}: a third argument is the file of the page; give --html, too")
    root = Path.cwd()
    if not {a, b} <= set(evaluated(root / "artifacts")):  # a fresh clone has not pulled the published results
        from tasks.verbs.reference import fetch

        fetch(root)
    left, right = side(root, a, b), side(root, b, a)
    if html:
        from quee.report import comparison
        from tasks.verbs.comparison import write_page

        found, page = write_page(root, left, right, file)
        said = comparison.verdict(found)
        typer.echo(json.dumps({"page": str(page), "said": said}) if json_ else f"{said}\nPage: {page}")
        return
    settings, metrics = settings_differences(left, right), differences(left.metrics, right.metrics)
    if json_:
        typer.echo(json.dumps({"a": left.label, "b": right.label, "settings": settings, "metrics": metrics}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from tasks.verbs.beside import facts, methods_tables
    from tasks.verbs.comparison import verdict

    console = Console()
    for said in verdict(root, left, right):
        console.print(said, soft_wrap=True, highlight=False)
    for one in (left, right):
        if not one.has_defaults:
            console.print(
                f"{one.label}: defaults were not recorded; only what its YAML says is compared.", soft_wrap=True
            )
    if methods := methods_tables((left, right), console.width):
        for line in facts((left, right)):
            console.print(line, soft_wrap=True, highlight=False)
        console.print(*methods)
    for kind, differing in (("settings", settings), ("metrics", metrics)):
        if not differing:
            console.print(f"The {kind} are equal.")
            continue
        if kind == "metrics" and methods and not all_:
            console.print(f"{counted(len(differing), 'differing metric')}: --all shows them", style="dim")
            continue
        table = Table(box=None, pad_edge=False)
        table.add_column(kind, no_wrap=kind == "settings", overflow="fold")
        table.add_column(left.label, justify="right", overflow="fold")
        table.add_column(right.label, justify="right", overflow="fold")
        if kind == "metrics":
            table.add_column("difference", justify="right", overflow="fold")
        for name, (old, new) in differing.items():
            if kind == "settings":
                table.add_row(name, *("–" if value is None else str(value) for value in (old, new)))
            else:
                change = None if old is None or new is None else new - old
                table.add_row(name, number(old), number(new), number(change))
        console.print(table)


def ui(
    port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 5000,
) -> None:
    """Open MLflow's pages on this machine: runs, curves, models. Ctrl-C ends it."""
    from tasks.mlflow.store import ENVIRONMENT, asking, is_server, tracking_uri
    from tasks.mlflow.tracking import prepare_store
    from tasks.mlflow.views import address as address_of

    root = Path.cwd()
    uri = tracking_uri(root)
    if is_server(uri):
        typer.echo(f"MLflow is at {uri}")
        return
    refuse_taken(port, "choose another with --port")
    with asking(uri):
        experiments = prepare_store(root, uri).experiments()
    address = f"http://127.0.0.1:{port}"
    typer.echo(f"MLflow at {address} shows {uri}; Ctrl-C ends it")
    for name, number in experiments.items():
        typer.echo(f"  {name}: {address_of(address, name, number)}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--default-artifact-root", (root / "mlruns").as_uri()]
    serve_shown(command, {**ENVIRONMENT, **os.environ})


def serve_shown(command: list[str], environment: dict[str, str]) -> None:
    """Run MLflow's server and show its output until it is ended; raises QueeError with its last line if it fails."""
    reader, writer = os.pipe()
    kept = keep(command, environment, output=writer)
    os.close(writer)
    last = ""
    try:
        with open(reader, encoding="utf-8", errors="replace") as output:
            for line in output:
                sys.stderr.write(line)
                last = line.strip() or last
    except KeyboardInterrupt:
        kept.end()
        return
    finally:
        status = kept.end()
    if status:
        raise QueeError(f"MLflow ended with status {status}: {last or 'it said nothing'}")
