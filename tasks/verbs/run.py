"""Verbs of `quee` that run and explain the pipeline: `run`, `plan`, `experiments`, `doctor`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quee.cli import PLAIN, AsJson
from quee.errors import IntegrityError, PendingError, UsageError

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[EXPERIMENT]...", help="All of params.yaml by default.", show_default=False),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Exit with status 5 while another run has this checkout.")]


def run(
    names: Names = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Smoke run on N samples, into .quee/smoke/EXPERIMENT-N.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run what is unchanged too.")] = False,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Stop behind this stage: `--until backbone` trains, and no more."),
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="Then track the results in MLflow, or say why that has to wait.")
    ] = False,
    no_wait: NoWait = False,
) -> None:
    """Bring experiments up to date, stage by stage; unchanged stages are skipped. Ends with the result and where it is.

    On a terminal a bar shows the stage that runs and the time that is left, by how long the stages took last time.
    """
    from tasks.dvc import session as dvc
    from tasks.stage import artifacts_of
    from tasks.verbs.closing import closing_lines
    from tasks.verbs.tracking import track as track_results
    from tasks.work.screen import Ahead, Screen

    root, screen = Path.cwd(), Screen()
    if until is not None and track:
        raise UsageError("--until stops before there is a result to track: leave out --track")
    stages = None if until is None else _stages(root, until)
    if limit is not None:
        if track:
            raise UsageError("--limit makes a smoke run, which is not tracked: leave out --track")
        if until is not None:
            raise UsageError("--limit makes a smoke run of every stage: leave out --until")
        for outcome in dvc.smoke(root, names, limit, wait=not no_wait, show=screen.line):
            typer.echo(_outcome(outcome))
            if outcome.stage == "report":
                typer.echo(f"report: {artifacts_of(outcome.experiment, limit) / 'report' / 'report.html'}")
        return
    done: list[Any] = []
    try:
        with dvc.session(root, names, force=force, wait=not no_wait, show=screen.line, stages=stages) as session:
            pending = [step for step in session.steps if step.action != "unchanged"]
            with screen.bars([Ahead(step.name, step.seconds if step.action == "run" else 0.0) for step in pending]):
                for step in session.steps:
                    if step.action != "unchanged":
                        typer.echo(f"{step.name}: {_what(step)}")
                    with screen.stage(step.name):
                        done.append(session.execute(step))
                    typer.echo(_outcome(done[-1]))
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or SIGTERM
        again = shlex.join(["quee", "run", *(names or []), *(["--until", until] if until else [])])
        print(f"interrupted: finished stages and parts of the last one stay; `{again}` goes on", file=sys.stderr)
        raise
    counts = {did: sum(outcome.did == did for outcome in done) for did in ("ran", "restored", "unchanged")}
    typer.echo(", ".join(f"{count} {did}" for did, count in counts.items() if count))
    if until is not None:
        typer.echo(f"stopped behind stage {until}; `{shlex.join(['quee', 'run', *(names or [])])}` goes on")
        return
    if track:
        track_results(names, later=True)
    for line in closing_lines(root, list(dict.fromkeys(outcome.experiment for outcome in done))):
        typer.echo(line)


def _stages(root: Path, last: str) -> set[str]:
    """The stages that a run needs to make the result of stage `last`."""
    from tasks.dvc.lock import stage_names
    from tasks.stages import leading_to

    if last not in (valid := stage_names(root)):
        raise UsageError(f"--until {last}: no stage of this project; valid: {', '.join(valid)}")
    return leading_to(last, root)


def _outcome(outcome: Any) -> str:
    time = "" if outcome.did == "unchanged" else f"{outcome.seconds:8.1f} s"
    return f"  {outcome.name:<36} {outcome.did:<10}{time}".rstrip()


def _what(step: Any) -> str:
    estimate = f" (about {step.seconds:.0f} s)" if step.seconds and step.action == "run" else ""
    return f"{step.action}{estimate}, because {step.why}"


def plan(
    names: Names = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 3 when anything is to be done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="As for `quee run --force`.")] = False,
    measure: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Run every stage on N synthetic images of each set with random weights, and project time, memory and disk of "
            "the whole on this machine. Needs neither the data nor the weights.",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Show what a run would do, and why: which code, setting or data differs. Or measure what it will take (--measure)."""
    from tasks.dvc import session as dvc

    if measure is not None:
        _rehearse(names, measure, check or force, json_)
        return
    steps = dvc.plan(Path.cwd(), names, force)
    pending = [step for step in steps if step.action != "unchanged"]
    running = [step for step in steps if step.action == "run"]
    seconds, size = sum(s.seconds or 0 for s in running), sum(s.bytes or 0 for s in running)
    unknown = sum(step.seconds is None for step in running)
    if json_:
        stages = [step.to_json() for step in steps]
        totals = {"pending": len(pending), "seconds": seconds, "bytes": size, "never_ran": unknown}
        typer.echo(json.dumps({"stages": stages, **totals}, indent=1, ensure_ascii=False))
    else:
        for step in steps:
            took = f"{step.seconds:8.1f} s" if step.seconds is not None and step.action == "run" else ""
            typer.echo(f"{step.name:<36} {step.action:<10}{took}".rstrip())
            for reason in step.reasons:
                typer.echo(f"    {reason}")
        if not pending:
            typer.echo("nothing to do")
        else:
            note = f", {unknown} that never ran here not counted" if unknown else ""
            estimate = f"about {seconds:.0f} s and {size / 1e6:.1f} MB{note}"
            if unknown and unknown == len(running):
                estimate = "no estimate, since none of them ran here before"
            restored = len(pending) - len(running)
            typer.echo(
                f"{len(running)} to run, {restored} to restore, {len(steps) - len(pending)} unchanged; {estimate}"
            )
    if check and pending:
        raise PendingError(f"{len(pending)} of {len(steps)} stages are not up to date")


def _rehearse(names: list[str] | None, images: int, others: bool, json_: bool) -> None:
    """`quee plan --measure`: the projection of each experiment."""
    from tasks.verbs.rehearsal import rehearse

    if not names or others:
        raise UsageError(
            "--measure: name the experiments, as in `quee plan imagenet_t2t_vit_14 --measure 64`, without --check and --force"
        )
    found = [
        rehearse(Path.cwd(), name, images, lambda line: print(line, file=sys.stderr, flush=True)) for name in names
    ]
    if json_:
        typer.echo(json.dumps([one.to_json() for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        for line in one.lines():
            typer.echo(line)


experiments = typer.Typer(help="List, show or add experiments.", no_args_is_help=True, **PLAIN)


@experiments.command("list")
def list_(json_: AsJson = False) -> None:
    """List the experiments, with the first line of each file."""
    from quee.settings.names import experiment_names
    from tasks.dvc.experiments import listed_experiments

    root = Path.cwd()
    listed = listed_experiments(root)
    found = [
        {"name": name, "in_params": name in listed, "about": _about(root, name)}
        for name in experiment_names(root / "experiments")
    ]
    if json_:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    width = max((len(str(entry["name"])) for entry in found), default=0)
    for entry in found:
        typer.echo(f"{'*' if entry['in_params'] else ' '} {entry['name']:<{width}}  {entry['about']}")
    typer.echo("* in params.yaml: built by `quee run` without a name", err=True)


@experiments.command("show")
def show(name: str, json_: AsJson = False) -> None:
    """Show an experiment's settings, with defaults filled in."""
    import yaml

    from quee.settings.experiment import load_experiment

    content = load_experiment(name).model_dump(mode="json")
    if json_:
        typer.echo(json.dumps(content, indent=1))
    else:
        typer.echo(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100).rstrip())


@experiments.command("new")
def new(
    name: str,
    like: Annotated[str, typer.Option("--like", metavar="EXPERIMENT", help="The experiment to copy.")] = "digits",
    dataset: Annotated[str | None, typer.Option(help="Use this data set instead.")] = None,
) -> None:
    """Add experiments/NAME.yaml as a copy of another experiment, to be changed."""
    import re

    from quee.settings.experiment import load_experiment, parse_experiment
    from quee.settings.names import experiment_names
    from quee.work.io import write_bytes

    folder = Path("experiments")
    file = folder / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise UsageError(f"{name!r} is no name for an experiment: lower-case letters, digits and _ are valid")
    if name in experiment_names(folder):
        raise UsageError(f"{file} is there already")
    load_experiment(like, folder)
    text = (folder / f"{like}.yaml").read_text(encoding="utf-8")
    if dataset is not None:
        text = _with_dataset(text, dataset)
    parse_experiment(name, text, str(file))
    write_bytes(file, text.encode())
    typer.echo(f"wrote {file}, a copy of {like}; `quee run {name}` runs it")


def _with_dataset(text: str, dataset: str) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    editor, out = YAML(), StringIO()
    editor.width = 4096  # lines stay as they are
    content = editor.load(text)
    content["prepare"]["dataset"] = dataset
    editor.dump(content, out)
    return out.getvalue()


def _about(root: Path, name: str) -> str:
    from quee.settings.text import read_text

    first = read_text(root / "experiments" / f"{name}.yaml").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def doctor(json_: AsJson = False) -> None:
    """Check this checkout (programs, versions, settings, locks, data, disk) and repair what killed runs left.

    Data and weights that are tracked and missing are pulled, as a run would.
    """
    from tasks.verbs.diagnosis import examine

    findings = examine(Path.cwd())
    if json_:
        typer.echo(json.dumps([{"check": f.check, "ok": f.ok, "detail": f.detail} for f in findings], indent=1))
    else:
        for finding in findings:
            typer.echo(f"{'ok     ' if finding.ok else 'PROBLEM'} {finding.check}: {finding.detail}")
    sys.stdout.flush()
    if bad := [finding.check for finding in findings if not finding.ok]:
        raise IntegrityError(f"{len(bad)} of {len(findings)} checks found a problem: {', '.join(bad)}")
