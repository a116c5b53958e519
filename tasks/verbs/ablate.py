"""The verb `quee ablate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from quee.cli import AsJson
from quee.errors import IntegrityError
from quee.measure import measure_of
from quee.work.counts import counted
from quee.work.percentages import DIFFERENCE, figure
from tasks.stages import read_by

FILE = "ablations/dvc.yaml"


def ablate(
    names: Annotated[list[str], typer.Argument(metavar="EXPERIMENT...", help="Experiments whose features are cached.")],
    list_: Annotated[bool, typer.Option("--list", help="Only list the grid's points, by axis.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make the table anew; points are still taken as kept.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Exit with status 5 while another run is at work.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as docs/ablations.md has it.")] = False,
    json_: AsJson = False,
) -> None:
    """Vary one thing at a time in an experiment and show what each is worth, with intervals.

    Every point of the grid changes one thing in the experiment: the number of clusters, the targets, the predictors'
    size, the features at a gate, the exit heads, the paths, precisions or gates, or the way of deciding. Targets,
    predictors and policies are fitted anew from the feature cache, so run `quee run EXPERIMENT` first. Only other heads
    and added precisions run the network.

    The block `ablate` of experiments/EXPERIMENT.yaml sets axes, values, the number of repetitions, and the splits that
    each repetition divides anew. Every finished point is kept in .quee/ablations by its content: an interrupted grid
    goes on, and a larger grid computes only its new points.

    Gains are differences of auc (mean test accuracy over log-uniform budgets from 1/16 to 1) to the experiment as it
    stands, on the same samples. The interval holds for all rows at once (95 %, max-|t|); a row is starred where it
    leaves out zero. Choose settings by validation_auc, not by this table: it reports test data.

    Results: artifacts/EXPERIMENT/ablate/ (metrics.json, ablations.parquet, differences.parquet, ablations.svg);
    `quee track` adds a run per point to MLflow. One experiment: `quee ablate digits`.
    """
    from quee.settings.experiment import load_experiment
    from tasks.dvc import session as dvc
    from tasks.work.screen import Screen

    root = Path.cwd()
    for name in names:
        load_experiment(name)
        for stage in read_by("ablate", root):
            if not (folder := root / "artifacts" / name / stage).is_dir():
                raise IntegrityError(f"missing folder: {folder.relative_to(root)}; `quee run {name}` makes it")
    if list_:
        _list(root, names, json_)
        return
    with dvc.session(root, names, force=force, wait=not no_wait, file=FILE, show=Screen().line) as session:
        for step in session.steps:
            outcome = session.execute(step)
            typer.echo(f"{outcome.name}: {outcome.did} ({outcome.seconds:.0f} s)", err=True)
    found = {name: json.loads((root / "artifacts" / name / "ablate" / "metrics.json").read_text()) for name in names}
    if json_:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for metrics in found.values():
        if markdown:
            typer.echo(as_markdown(metrics))
        else:
            _show(metrics)


def _list(root: Path, names: list[str], json_: bool) -> None:
    from quee.evaluation.ablation.grid import points
    from quee.paths import read_tree
    from quee.settings.experiment import load_experiment

    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        tree, description = read_tree(root / "artifacts" / name / "features")
        grid = points(load_experiment(name), tree, description["feature_names"])
        found[name] = [{"axis": p.axis, "point": p.name, "recipe": p.facts()} for p in grid]
    if json_:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for name, rows in found.items():
        typer.echo(
            f"{name}: {counted(len(rows), 'point')}, {counted(load_experiment(name).ablate.seeds, 'repetition')} each"
        )
        for row in rows:
            typer.echo(f"  {row['axis']:<11} {row['point']}")


def _show(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=metrics["experiment"], title_justify="left")
    for column in ("axis", "point"):
        table.add_column(column)
    for column in ("auc", "gain", "interval for all rows", "validation auc"):
        table.add_column(column, justify="right")
    for title, row in _in_order(metrics["points"]):
        axis, _, point = title.partition("/")
        gain = interval = ""
        if "gain.mean" in row:
            low, high = row["gain.joint_low"], row["gain.joint_high"]
            gain = f"{_gain(row['gain.mean'])}{'*' if low > 0 or high < 0 else ' '}"
            interval = f"[{_gain(low)}, {_gain(high)}]"
        table.add_row(axis, point, figure(row["auc"]), gain, interval, figure(row["validation_auc"]))
    console = Console()
    console.print(table)
    console.print(f"Points of {measure_of(metrics).name}; {_power(metrics)}", soft_wrap=True, highlight=False)


def as_markdown(metrics: dict[str, Any]) -> str:
    """The table in Markdown, in points of accuracy or agreement; bold gains are those whose interval for all rows leaves out
    zero."""

    def between(row: dict[str, float], low: str, high: str) -> str:
        return f"{_gain(row[low])} … {_gain(row[high])}" if low in row else ""

    names = ("axis", "point", "auc", "gain", "alone", "for all rows", "validation auc", "AUROC", "RMSE", "ECE")
    lines = [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]
    for title, row in _in_order(metrics["points"]):
        gain = _gain(row["gain.mean"]) if "gain.mean" in row else ""
        if gain and (row["gain.joint_low"] > 0 or row["gain.joint_high"] < 0):
            gain = f"**{gain}**"
        cells = [*title.split("/", 1), figure(row["auc"]), gain]
        cells += [between(row, "gain.low", "gain.high"), between(row, "gain.joint_low", "gain.joint_high")]
        cells += [figure(row["validation_auc"])]
        cells += [f"{row[name]:.3f}" if name in row else "" for name in ("auroc", "rmse", "ece")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Points of {measure_of(metrics).name}. {_power(metrics)}"])


def _gain(value: float) -> str:
    return figure(value, 2, *DIFFERENCE, sign=True)


def _power(metrics: dict[str, Any]) -> str:
    see = metrics["detectable"]
    return (
        f"{counted(metrics['repetitions'], 'repetition')}, {counted(metrics['test_samples'], 'test sample')} each, "
        f"{counted(metrics['rows'], 'row')}. Half of "
        f"the rows would have shown a difference of {100 * see['median']:.2f} points with a probability of {see['power']:.0%}."
    )


def _in_order(points: dict[str, dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    """Rows by axis in the grid's order, the base first; within an axis by gain."""
    from quee.settings.ablate import AXES

    order = ("base", *AXES)
    return sorted(points.items(), key=lambda item: (order.index(item[0].partition("/")[0]), -item[1]["auc"]))
