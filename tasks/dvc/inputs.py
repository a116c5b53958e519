"""Data sets and pretrained weights of experiments: missing ones are pulled, or named in a message."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from quee.data import DATA, dataset_called
from quee.data.weights import refuse_other_kwargs, refuse_overlap
from quee.data.weights_facts import how_to_add_weights, weights_facts, weights_path
from quee.errors import IntegrityError, UsageError
from tasks.dvc.experiments import data_path

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment


class NotPulledError(IntegrityError):
    """Files are missing and could not be pulled. `may_pass` is set where the remote did not answer."""

    def __init__(self, message: str, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def inputs_of(experiment: "Experiment") -> Iterator[tuple[Path, str]]:
    """Path of the data set, of the weights, and of what training draws more images from, each with how to get it."""
    yield data_path(experiment), _how_to_add(experiment.prepare.dataset)
    if experiment.backbone.drawn:
        path = Path(dataset_called(experiment.prepare.dataset).drawn_from)
        is_dataset = path.parent == DATA
        yield path, _how_to_add(path.name) if is_dataset else f"missing file: {path}; {how_to_pull(f'{path}.dvc')}"
    if experiment.backbone.weights is not None:
        path = weights_path(experiment.backbone.weights)
        yield path, f"missing file: {path}; {how_to_add_weights(experiment.backbone.weights)}"


def _how_to_add(name: str) -> str:
    known = dataset_called(name)
    get = f"get {known.source}, then " if known.source else ""
    return f"missing folder: {DATA / name}; {get}`quee data add {name} {known.argument}`"


def refuse_missing(root: Path, names: list[str]) -> dict[str, Path]:
    """The `.dvc` file of every tracked input, with the input's path.

    Raises IntegrityError naming inputs that are neither tracked nor present, with the way to get them.
    """
    pointers: dict[str, Path] = {}
    for name in names:
        missing = []
        for path, how in inputs_of(_load(root, name)):
            if pointer := pointer_of(root, path):
                pointers[pointer] = path
            elif not (root / path).exists():
                missing.append(how)
        if missing:
            raise IntegrityError("\n".join(missing))
    return pointers


def refuse_not_pulled(root: Path, names: list[str]) -> None:
    """Raises IntegrityError for missing inputs, tracked or not. Nothing is pulled."""
    for path in refuse_missing(root, names).values():
        refuse_unpulled(root, path)


def refuse_unpulled(root: Path, path: Path) -> None:
    """Raises IntegrityError where an input is tracked and not present."""
    pointer = pointer_of(root, path)
    if pointer and not _is_here(root / path):
        raise IntegrityError(f"{path} is not here yet: {how_to_pull(pointer)}")


def ensure_inputs(root: Path, names: list[str], notify: Callable[[str], None]) -> dict[str, Path]:
    """Pull missing inputs; returns the `.dvc` file of every tracked input, with the input's path.

    Raises IntegrityError naming inputs that no remote has, and UsageError where weights were fitted on samples that an
    experiment holds out, or belong to a backbone with other keywords.
    """
    pointers = refuse_missing(root, names)
    for pointer, path in pointers.items():
        if not _is_here(root / path):
            notify(f"pulling {path}")
            pull(root, pointer, path)
    for name in names:
        experiment = _load(root, name)
        if experiment.backbone.weights is not None:
            facts = weights_facts(root / weights_path(experiment.backbone.weights))
            try:
                refuse_overlap(experiment, facts)
                refuse_other_kwargs(experiment.backbone, facts)
            except UsageError as error:
                raise UsageError(f"experiments/{name}.yaml: {error}") from None
    return pointers


def pull(root: Path, pointer: Path | str, path: Path) -> None:
    """Pull the data of a `.dvc` file, whole or not at all; raises NotPulledError with DVC's reason."""
    from tasks.dvc.process import run_dvc

    behind = link_before(root, path)
    if behind is not None:
        raise UsageError(f"{path} cannot be pulled: {behind}")
    before = (root / path).exists()
    done = run_dvc(root, "pull", str(pointer))
    if done.status or not _is_here(root / path):
        if not before and (root / path).is_dir():
            shutil.rmtree(root / path)
        raise NotPulledError(f"{path} is neither here nor to be pulled from a remote: {done.reason}", done.may_pass)


def link_before(root: Path, path: Path) -> str | None:
    """Why DVC cannot track a path inside a linked folder, with advice; None where no folder is a link."""
    for place in (path, *path.parents):
        if (root / place).is_symlink():
            target = os.readlink(root / place)
            return (
                f"{place} is a link to {target}, and DVC takes no files inside symlinked directories; make {place} "
                "a folder, and to have the files on another disk keep DVC's cache there: "
                "`dvc cache dir /DISK/cache && dvc config cache.type symlink`"
            )
    return None


def _load(root: Path, name: str) -> "Experiment":
    from quee.settings.experiment import load_experiment

    return load_experiment(name, root / "experiments")


def pointer_of(root: Path, path: Path) -> str | None:
    """The `.dvc` file that records an input, by its name in the project; None where it is not tracked."""
    found = (file for file in (root / "data.dvc", *_pointers(root / path)) if _records(file, path))
    return next((file.relative_to(root).as_posix() for file in found), None)


def how_to_pull(pointer: str) -> str:
    return f"`dvc pull {pointer}` brings it, and so does `quee run`"


def _pointers(path: Path) -> tuple[Path, Path]:
    """The `.dvc` files beside an input: data/NAME.dvc of the folder data/NAME, NAME.dvc of NAME.safetensors."""
    return path.with_name(f"{path.name}.dvc"), path.with_name(f"{path.name.removesuffix('.safetensors')}.dvc")


def _records(pointer: Path, path: Path) -> bool:
    try:
        content = yaml.safe_load(pointer.read_text(encoding="utf-8"))
        return any((pointer.parent / out["path"]).as_posix().endswith(path.as_posix()) for out in content["outs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False


def _is_here(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
