"""Stage `settings`: what decides an experiment's results, its settings and code, of which each stage takes its part."""

from pathlib import Path

from quee.work.io import write_bytes
from tasks.dvc import dependencies
from tasks.dvc.experiments import refuse_other_paths
from tasks.resolved import NAME, as_text
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fill in the defaults of an experiment's YAML, add what is known of its data set, and digest each stage's code."""
    refuse_other_paths(Path(), stage.experiment)
    code = dependencies.code_of(Path(), stage.experiment.backbone.name)
    write_bytes(stage.out / NAME, as_text(stage.experiment).encode())
    write_bytes(stage.out / dependencies.NAME, dependencies.as_text(code).encode())


if __name__ == "__main__":
    main(run)
