"""`quee start` with images that have no labels: weights and images are added first, and the network answers the images."""

from pathlib import Path
from typing import Any

import typer

from quee.data import DATA
from quee.errors import UsageError
from tasks.verbs.proposal import ALL_SEEN, ASK, refuse_missing


def without_labels(folder: Path) -> bool:
    """Whether a folder holds images themselves, in no class folders."""
    from quee.data.importers.layout import tree
    from quee.data.walk import IMAGE_SUFFIXES, walk

    if not folder.is_dir():
        return False
    top = tree(walk(folder).of(IMAGE_SUFFIXES))
    return bool(top.own) and top.own == top.images


def network_given(own: str, folder: Path, weights: str | None, seen: bool | None) -> str:
    """The weights that answer. Raises UsageError where none are given, and where it is not said that they have never `seen`
    these images; nothing is made before."""
    from quee.data.weights_facts import weights_path

    if weights is None:
        raise UsageError(
            f"{folder} has no class folders, so that its images have no labels: give a trained network, --weights FILE, whose "
            "answers take their place, or sort the images into a folder per class"
        )
    refuse_missing(weights)
    if seen is not False and not weights_path(_name(own, weights)).is_file():
        raise UsageError(f"{folder}: {ALL_SEEN if seen else ASK}")
    return weights


def _name(own: str, weights: str) -> str:
    return own if Path(weights).exists() else weights


def add_answered(
    own: str,
    folder: Path,
    weights: str,
    backbone: str | None,
    set_: list[str],
    class_order: str | None,
    labelled: Path | None,
    skip_bad: bool,
) -> tuple[str, str]:
    """Add the weights, unless they are here, and the images with their answers; returns the names of both.

    What is here of an earlier call is used. Raises UsageError where another network has answered.
    """
    from quee.data import dataset_called
    from quee.data.files import DatasetFiles
    from quee.data.weights_facts import weights_path
    from tasks.verbs.data import add, add_weights

    name = _name(own, weights)
    if not weights_path(name).is_file():
        add_weights(name, Path(weights), backbone=backbone, trained_on="none", set_=set_)
    if any((DATA / own).glob("train-*.parquet")):
        answers = DatasetFiles(DATA / own, dataset_called(own)).answers
        if answers is None or answers["weights"] != name:
            raise UsageError(f"{DATA / own} is there already, with labels of another origin; give --name NAME")
    else:
        options: dict[str, Any] = {
            "answers": name,
            "labelled": labelled,
            "class_order": class_order,
            "skip_bad": skip_bad,
        }
        add(own, folder, **options)
    typer.echo(f"no labels: results will say how often answers agree with {name} in floating point")
    return own, name
