"""Stage `settings`: an experiment's resolved settings and digests of its code; every stage takes its part of them."""

from pathlib import Path

from quee.work.io import write_bytes, write_json
from tasks.dvc import dependencies
from tasks.dvc.experiments import refuse_other_paths
from tasks.resolved import NAME, as_text
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fill in the defaults of an experiment's YAML, add the facts of its data set, and digest each stage's code."""
    refuse_other_paths(Path(), stage.experiment)
    code = dependencies.code_of(Path(), stage.experiment.backbone.name)
    write_bytes(stage.out / NAME, as_text(stage.experiment).encode())
    write_json(stage.out / dependencies.NAME, code)


if __name__ == "__main__":
    main(run)
