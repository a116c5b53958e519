"""The pipeline as a Prefect flow: one task per stage. DVC decides what is stale; Prefect when, where and what is shown.

`python -m flows.pipeline [EXPERIMENT…] [--force]` runs it here, with a server of its own for the time.
"""

import flows.quiet  # noqa: F401, I001  first: Prefect reads its settings when imported
import argparse
import os
import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from quee.errors import QueeError
from tasks import dvc
from tasks.results import load_results


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def stage(session: dvc.Session, step: dvc.Step, name: str) -> dvc.Outcome:
    """Bring one stage up to date; `name` is what Prefect shows."""
    outcome = session.execute(step)
    get_run_logger().info("%s %s in %.1f s", name, outcome.did, outcome.seconds)
    return outcome


@flow(name="quee-pipeline", persist_result=False, validate_parameters=True)
def quee_pipeline(experiments: list[str] | None = None, force: bool = False) -> list[dict[str, object]]:
    """Bring experiments up to date, all of params.yaml by default; `force` runs what is unchanged too."""
    os.environ["QUEE_PREFECT_RUN"] = flow_run.get_id() or ""
    logger = get_run_logger()
    done: list[dvc.Outcome] = []
    with dvc.session(Path.cwd(), experiments, force=force, show=False, notify=logger.warning) as session:
        try:
            for step in session.steps:
                done.append(stage(session, step, step.name))
        finally:
            publish(done)
    for experiment in dict.fromkeys(outcome.experiment for outcome in done):
        publish_results(experiment)
    return [{"stage": o.name, "did": o.did, "seconds": round(o.seconds, 1)} for o in done]


def publish(done: list[dvc.Outcome]) -> None:
    """Keep what each stage did, and how long it took, as an artifact."""
    rows = [{"stage": o.name, "did": o.did, "seconds": round(o.seconds, 1)} for o in done]
    if rows:
        create_table_artifact(rows, key="quee-stages", description="What each stage did")


def publish_results(experiment: str) -> None:
    """Keep an experiment's results table and the way to its report as artifacts."""
    key = experiment.replace("_", "-")
    try:
        found = load_results(Path.cwd(), experiment)
    except QueeError as error:
        get_run_logger().warning("no results table: %s", error)
        return
    if found.points:
        create_table_artifact(found.points, key=f"quee-results-{key}", description=f"Operating points of {experiment}")
    report = Path("artifacts") / experiment / "report" / "report.html"
    if report.is_file():
        create_link_artifact(report.resolve().as_uri(), key=f"quee-report-{key}", link_text=f"Report of {experiment}")
        create_markdown_artifact(f"Report of **{experiment}**: `{report}`", key=f"quee-report-path-{key}")


def main() -> None:
    """Run the flow once, without a server, and print what each stage did."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=quee_pipeline.__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    options = parser.parse_args()
    try:
        for row in quee_pipeline(options.experiments or None, options.force):
            print(f"  {row['stage']:<36} {row['did']:<10}{row['seconds']:8.1f} s")
    except KeyboardInterrupt:
        sys.exit(dvc.INTERRUPTED)
    except QueeError as error:
        if options.debug:
            raise
        print(f"quee: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
