"""Checks of `quee run` and `quee plan` before anything runs: settings that later stages could not use are refused.

Stage `prepare` refuses the same, but does not run again when another block's settings change.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.scale import FILE, read_scale
from tasks.stages import STAGES

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment
    from tasks.dvc.plan import Step


def refuse_unworkable(root: Path, steps: Sequence["Step"]) -> None:
    """Raises UsageError naming the experiment's file, or the machine's, where a stage of the run could not use the settings."""
    from quee.settings.experiment import load_experiment
    from quee.settings.requirements import check_network

    if any(step.action == "run" for step in steps):
        read_scale(file=root / FILE).refuse_absent()
    for name in dict.fromkeys(step.experiment for step in steps):
        running = {step.stage for step in steps if step.experiment == name and step.action == "run"}
        if not running:
            continue
        experiment = load_experiment(name, root / "experiments")
        if "prepare" not in running:
            _check_data(root, experiment)
        if any(STAGES[stage].builds_network for stage in running):  # importing PyTorch takes seconds
            check_network(experiment)


def _check_data(root: Path, experiment: "Experiment") -> None:
    """Check the settings against the splits that `prepare` made, where splits and data are present."""
    folder, data = root / "artifacts" / experiment.name / "prepare", root / "data" / experiment.prepare.dataset
    if not (folder / "splits.parquet").is_file() or not any(data.glob("*.parquet")):
        return
    from quee.data import dataset_called
    from quee.data.files import DatasetFiles
    from quee.data.splits import rotations_of
    from quee.data.weights_facts import weights_path
    from quee.settings.requirements import check_answers, check_data, pool_of
    from quee.work.io import file_digest, read_table

    images, table = (
        DatasetFiles(data, dataset_called(experiment.prepare.dataset)),
        read_table(folder / "splits.parquet"),
    )
    check_answers(experiment, images.answers, lambda name: file_digest(root / weights_path(name)))
    labels = images.labels[table["sample_id"].to_numpy()]
    pool = pool_of(experiment, images.labels, images.train_samples)
    for split in rotations_of(table):
        check_data(experiment, split, labels, pool, images.classes, answered=images.answers is not None)
