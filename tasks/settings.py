"""Stage `settings`: an experiment's settings with every default filled in, from which all stages take theirs."""

from quee.work.io import write_bytes
from tasks.resolved import NAME, as_text
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fill in the defaults of an experiment's YAML and add what is known of its data set."""
    write_bytes(stage.out / NAME, as_text(stage.experiment).encode())


if __name__ == "__main__":
    main(run)
