"""The pipeline as a Prefect flow: one task per stage. DVC decides what is stale; Prefect decides when and where, and shows it.

`python -m flows.pipeline [EXPERIMENT…] [--force]` runs the flow once, with a server of its own.
"""

import flows.quiet  # noqa: F401, I001  first: Prefect reads its settings when imported
import argparse
import os
import sys
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from quee.errors import QueeError
from quee.work.reach import may_pass
from quee.work.counts import counted
from tasks.dvc import session as dvc
from tasks.dvc.committing import Committer, commit_lock, put_away, take_out
from tasks.dvc.data_changes import changed_data, fetch_changed
from tasks.dvc.inputs import ensure_inputs
from tasks.work.lifeline import end_in_order
from tasks.work.locks import exclusive
from tasks.verbs.closing import results_page
from tasks.mlflow.tracking import track

DELAYS = [float(os.environ.get("QUEE_RETRY_SECONDS", "10")) * 2**attempt for attempt in range(4)]
"""Seconds before each retry of work that failed because storage or a server did not answer."""

UNCHANGED = "settings, code and inputs are those of the last run"
"""Why a stage has nothing to do."""

Row = dict[str, object]


def worth_retrying(task: Any, run: Any, state: State) -> bool:
    return isinstance(state.data, BaseException) and may_pass(state.data)


RETRYING: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # DVC is the only cache
    "persist_result": False,
    "retries": len(DELAYS),
    "retry_delay_seconds": DELAYS,
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": worth_retrying,
}


@task(task_run_name="{name}", **RETRYING)
def stage(session: dvc.Session, step: dvc.Step, name: str, done: list[dvc.Outcome]) -> State[None]:
    """Bring one stage up to date and add its outcome to `done`. `name`, what it did and why is what Prefect shows."""
    outcome = session.execute(step)
    done.append(outcome)  # not the state's data, because Prefect would draw a dependency between stages of equal facts
    why = UNCHANGED if outcome.did == "unchanged" else step.why
    said = f"{name} {outcome.did} in {outcome.seconds:.1f} s{f', because {why}' if why else ''}"
    return Completed(name=outcome.did.capitalize(), message=said)


@task(task_run_name="inputs", **RETRYING)
def inputs(names: list[str], changed: bool) -> None:
    """Fetch data and weights that are missing here; with `changed`, also data whose digest changed."""
    root, told = Path.cwd(), get_run_logger().warning
    for name in names if changed else []:
        fetch_changed(root, name, told)
    ensure_inputs(root, names, told)


@task(task_run_name="tracking", **RETRYING)
def tracking(names: list[str]) -> str:
    """Make MLflow hold the results; returns what was added, in words."""
    done = track(Path.cwd(), names, notify=get_run_logger().warning)
    for version, decision in done.decided.items():
        get_run_logger().info("%s: %s", version, decision)
    return f"{counted(len(done.logged), 'result')} and {counted(len(done.registered), 'model version')} added, {done.known} known"


@flow(name="quee-pipeline", persist_result=False, validate_parameters=True)
def quee_pipeline(
    experiments: list[str] | None = None,
    force: bool = False,
    only_changed_data: bool = False,
    commit: Committer = "nobody",
    branch: str = "quee/results",
) -> list[Row]:
    """Bring experiments up to date, all of params.yaml by default.

    `force` runs unchanged stages too. `only_changed_data` skips experiments whose data are those of their last result.
    `commit` says what becomes of dvc.lock (docs/operations.md).
    """
    os.environ["QUEE_PREFECT_RUN"] = flow_run.get_id() or ""
    root, warn = Path.cwd(), get_run_logger().warning
    names = dvc.chosen(root, experiments)
    if commit == "mlflow":
        with exclusive("run", "this checkout", notify=warn):
            take_out(root)
    if only_changed_data:
        why = changed_data(root, names)
        names = list(why)
        for name, reason in why.items():
            get_run_logger().info("%s: %s", name, reason)
        if not names:
            return unchanged("no data changed", [])
    done: list[dvc.Outcome] = []
    notes: list[Row] = []
    steps: list[dvc.Step] = []
    try:
        inputs(names, only_changed_data)
        with dvc.session(root, names, force=force, notify=warn) as session:
            steps = session.steps
            pending = any(step.action != "unchanged" for step in steps)
            for step in steps:
                if pending:
                    stage(session, step, step.name, done)
                else:
                    done.append(session.execute(step))
            tracked = remember(names, notes)
            keep_lock(root, commit, branch, tracked, notes)
    finally:
        publish(steps, done, notes)
    for experiment in names:
        publish_results(experiment)
    rows = [_row(outcome) for outcome in done]
    if all(outcome.did == "unchanged" for outcome in done):
        return unchanged("nothing to do", rows)
    return rows


def unchanged(message: str, rows: list[Row]) -> Any:
    """The final state of a run that had nothing to do: completed, and named Unchanged."""
    return Completed(name="Unchanged", message=message, data=rows)


def remember(names: list[str], notes: list[Row]) -> bool:
    """Track the results; returns whether that worked. Otherwise a note says why, and the next run or `quee track` does it."""
    try:
        said = tracking(names)
    except QueeError as error:
        get_run_logger().warning("%s", error)
        notes.append({"stage": "MLflow", "did": f"later: {error}", "seconds": None, "why": ""})
        return False
    notes.append({"stage": "MLflow", "did": said, "seconds": None, "why": ""})
    return True


def keep_lock(root: Path, commit: Committer, branch: str, tracked: bool, notes: list[Row]) -> None:
    """Commit, put away or leave dvc.lock, as the deployment says; the caller holds the checkout's lock."""
    did = "left in the checkout"
    if commit == "branch":
        made = commit_lock(root, branch, f"Results of Prefect run {os.environ['QUEE_PREFECT_RUN']}")
        did = f"committed on {branch}: {made[:12]}" if made else f"as on {branch}"
    elif commit == "mlflow" and tracked and put_away(root):
        did = "as committed; MLflow has the results' entries"
    notes.append({"stage": "dvc.lock", "did": did, "seconds": None, "why": ""})


def _row(outcome: dvc.Outcome) -> Row:
    return {"stage": outcome.name, "did": outcome.did, "seconds": round(outcome.seconds, 1)}


def publish(steps: list[dvc.Step], done: list[dvc.Outcome], notes: list[Row]) -> None:
    """Make an artifact of what ran and what did not, how long it took and why."""
    if not steps:
        return
    by_name = {outcome.name: outcome for outcome in done}
    failed = next((step.name for step in steps if step.name not in by_name), None)
    groups: dict[str, list[str]] = {}
    lines = []
    for step in steps:
        outcome = by_name.get(step.name)
        did = outcome.did if outcome is not None else "failed" if step.name == failed else "not run"
        groups.setdefault(did, []).append(step.name)
        if did in ("ran", "restored", "failed"):
            time = "" if outcome is None else f" in {outcome.seconds:.1f} s"
            why = f": {step.why}" if step.reasons else ""
            lines.append(f"**{step.name}** {did}{time}{why}")
    whys = {"unchanged": f", because {UNCHANGED}", "not run": ""}
    lines += [f"{did.capitalize()}{why}: {', '.join(groups[did])}" for did, why in whys.items() if did in groups]
    lines += [f"{note['stage']}: {note['did']}" for note in notes]
    said = ", ".join(f"{len(names)} {did}" for did, names in sorted(groups.items()))
    text = "\n".join([f"**{said}**", "", *(f"- {line}" for line in lines)])
    create_markdown_artifact(text, key="quee-stages", description=f"What each stage did, and why: {said}")


def publish_results(experiment: str) -> None:
    """Log an experiment's results in a sentence, and make an artifact of them: the numbers, a small table, the report's place."""
    try:
        sentence, text = results_page(Path.cwd(), experiment)
    except QueeError as error:
        get_run_logger().warning("no results: %s", error)
        return
    get_run_logger().info("%s: %s", experiment, sentence)
    key = experiment.replace("_", "-")
    create_markdown_artifact(text, key=f"quee-results-{key}", description=sentence)


def main() -> None:
    """Run the flow once, with a server of its own, and print what each stage did."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=quee_pipeline.__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    options = parser.parse_args()
    end_in_order()
    try:
        for row in quee_pipeline(options.experiments or None, options.force):
            print(f"  {row['stage']:<36} {row['did']:<10}{row['seconds']:8.1f} s")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(dvc.INTERRUPTED)
    except QueeError as error:
        if options.debug:
            raise
        print(f"quee: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
