"""The mapping `experiments` in params.yaml: the experiments that `dvc repro` builds, with data set and file of weights.

Data set and weights are settings in experiments/NAME.yaml. The mapping repeats them, because dvc.yaml takes paths of
dependencies only from params.yaml. Runs and plans update the mapping from the YAML files, and stage `settings` refuses a
mapping that differs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from quee.errors import UsageError
from quee.settings.text import read_text, yaml_fault
from quee.work.io import atomic_path, write_bytes

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment

FILE = "params.yaml"
NO_WEIGHTS = "data/weights/none"
"""Stands for the weights of experiments without weights, because dvc.yaml has one form of stage for all experiments."""
NO_WEIGHTS_TEXT = "No weights: experiments that train their backbone from the beginning depend on this file.\n"


def data_path(experiment: "Experiment") -> Path:
    return Path("data") / experiment.prepare.dataset


def paths_of(experiment: "Experiment") -> dict[str, str]:
    """The experiment's entry in params.yaml: paths of its data set and weights, from the project's folder."""
    from quee.data.weights_facts import weights_path  # imports NumPy and Pillow, which a list of names does without

    weights = experiment.backbone.weights
    return {
        "data": data_path(experiment).as_posix(),
        "weights": NO_WEIGHTS if weights is None else weights_path(weights).as_posix(),
    }


def listed_experiments(root: Path) -> list[str]:
    """The experiments in params.yaml; raises UsageError where the file has another form."""
    return list(_read(root))


def refuse_other_paths(root: Path, experiment: "Experiment") -> None:
    """Raises UsageError where params.yaml names no or other data or weights than the experiment's YAML."""
    known = _read(root) if (root / FILE).is_file() else {}
    if experiment.name in known and known[experiment.name] != paths_of(experiment):
        raise UsageError(f"{_difference(experiment, known[experiment.name])}; `quee plan` puts it right")


def put_right(root: Path, names: list[str], notify: Callable[[str], None]) -> None:
    """Update params.yaml from the YAML files: `names` are added, entries get their paths, comments stay.

    A list of names, the form of older checkouts, becomes a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    from quee.settings.experiment import load_experiment

    known = _read(root)
    said = []
    wanted: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys([*known, *names]):
        experiment = load_experiment(name, root / "experiments")
        wanted[name] = paths_of(experiment)
        if name not in known:
            said.append(f"added {name} to {FILE}")
        elif known[name] is not None and known[name] != wanted[name]:
            said.append(f"{_difference(experiment, known[name])}: put right")
    if None in known.values():
        said.append(f"{FILE}: experiments is a mapping from name to data and weights now: written")
    if NO_WEIGHTS in (entry["weights"] for entry in wanted.values()) and not (root / NO_WEIGHTS).is_file():
        (root / NO_WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(root / NO_WEIGHTS, NO_WEIGHTS_TEXT.encode())
    if not said:
        return
    editor, file = YAML(), root / FILE
    content = editor.load(read_text(file, FILE))
    if not content["experiments"] or not isinstance(content["experiments"], dict):
        content["experiments"] = CommentedMap()
    for name, entry in wanted.items():
        if content["experiments"].get(name) != entry:
            content["experiments"][name] = entry
    with atomic_path(file) as aside:
        editor.dump(content, aside)
    for line in said:
        notify(line)


def _read(root: Path) -> dict[str, Any]:
    """The mapping in the file; a list of names becomes a mapping to None."""
    try:
        found = yaml.safe_load(read_text(root / FILE, FILE))["experiments"]
    except FileNotFoundError:
        raise UsageError(f"no {FILE} in {root.resolve()}: run this in the project's folder") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{FILE}: {yaml_fault(error)}") from None
    except (KeyError, TypeError):
        found = None
    if found and isinstance(found, list) and all(isinstance(name, str) for name in found):
        found = dict.fromkeys(found)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise other_shape(found)
    return found


def other_shape(found: Any) -> UsageError:
    """The refusal of what the file has in the place of experiments."""
    return UsageError(f"{FILE}: experiments: expected a mapping from names to data and weights; got {found!r}")


def _difference(experiment: "Experiment", entry: Any) -> str:
    name, wanted = experiment.name, paths_of(experiment)
    given = entry if isinstance(entry, dict) else {}
    key = next((key for key in (*wanted, *given) if given.get(key) != wanted.get(key)), "")
    return f"{FILE}: experiments.{name}.{key} is {given.get(key)}, by experiments/{name}.yaml it is {wanted.get(key)}"
