"""Experiments: one YAML file each, one block per stage, checked before anything runs.

Schema of `experiments/NAME.yaml`: each block is one file of this package. Unknown keys, wrong types and values out of
range are refused with the file, the key, the bad value and the valid values. Comments and formatting have no effect; an
absent block or key has its default. Stages depend on the settings that `resolved` returns, so a changed default is a
changed setting. Nothing else in this file may decide a number.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from quee.data import DATASETS, facts, known_dataset
from quee.errors import IntegrityError, UsageError
from quee.settings.ablate import Ablate
from quee.settings.backbone import Backbone
from quee.settings.block import Block, refusal
from quee.settings.bundle import Bundle
from quee.settings.evaluate import Evaluate
from quee.settings.exits import Exits
from quee.settings.features import Features
from quee.settings.names import experiment_names
from quee.settings.paths import Paths
from quee.settings.policies import Policies
from quee.settings.predictors import Predictors
from quee.settings.prepare import Prepare
from quee.settings.quantize import Quantize
from quee.settings.report import Report
from quee.settings.sets import DATASET
from quee.settings.targets import Targets
from quee.settings.text import read_text, yaml_fault
from quee.work.registry import unknown


class Experiment(Block):
    """One dataset × backbone × settings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    prepare: Prepare
    backbone: Backbone
    paths: Paths = Paths()
    quantize: Quantize = Quantize()
    exits: Exits = Exits()
    features: Features = Features()
    targets: Targets = Targets()
    predictors: Predictors = Predictors()
    policies: Policies = Policies()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    bundle: Bundle = Bundle()
    ablate: Ablate = Ablate()


BLOCKS = tuple(name for name in Experiment.model_fields if name != "name")


def load_experiment(name: str, folder: Path = Path("experiments")) -> Experiment:
    """The experiment of that name from `folder/name.yaml`.

    Raises UsageError naming the file, the key, the bad value and the valid ones.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(unknown("experiment", name, experiment_names(folder), "`quee experiments list`"))
    return parse_experiment(name, read_text(path), str(path), folder.parent / "data")


def parse_experiment(name: str, text: str, source: str, data: Path = Path("data")) -> Experiment:
    """Check the text of an experiment; `source` names it in errors, `data` is the folder of the data sets."""
    return _checked(name, read_content(text, source), source, data)


def read_content(text: str, source: str) -> dict[str, Any]:
    """The blocks of an experiment as written, without defaults; raises UsageError where the text is not YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(
            text
        )  # YAML 1.2, as DVC reads it: 1e-3 is a number; refuses equal keys
    except YAMLError as error:
        raise UsageError(f"{source}: {yaml_fault(error)}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{source}: expected blocks such as `prepare:`; valid: {', '.join(BLOCKS)}")
    return content


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every block with all defaults, and the registry's facts of the data set under `dataset`, as plain values."""
    blocks = experiment.model_dump(mode="json", exclude={"name"})
    return {**blocks, DATASET: facts(experiment.prepare.dataset)}


def parse_resolved(name: str, text: str, source: str, data: Path = Path("data")) -> Experiment:
    """Read an experiment from the output of `resolved` as JSON text; `source` names the text in errors."""
    try:
        content = json.loads(text)
        blocks = {block: value for block, value in content.items() if block != DATASET}
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"{source}: not the settings of an experiment ({error})") from None
    return _checked(name, blocks, source, data)


def is_given(content: dict[str, Any], key: str) -> bool:
    """Whether the blocks of an experiment, as written, set a dotted key."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _checked(name: str, content: dict[str, Any], source: str, data: Path) -> Experiment:
    strange = [key for key in content if key not in BLOCKS]
    if strange:
        raise UsageError(f"{source}: {unknown('block', str(strange[0]), list(BLOCKS))}")
    empty: dict[str, Any] = {block: {} for block in BLOCKS if content.get(block) is None}
    try:
        experiment = Experiment(**{**content, **empty, "name": name})
    except ValidationError as error:
        raise UsageError(f"{source}: {refusal(error, Experiment)}") from None
    _check(experiment, source, data)
    return experiment


def checked_experiment(source: str, **blocks: Any) -> Experiment:
    """Check settings given from Python; `source` names them in the UsageError about a fault."""
    try:
        return Experiment(**blocks)
    except ValidationError as error:
        raise UsageError(f"{source}: {refusal(error, Experiment)}") from None


def check_policy(name: object, source: str) -> None:
    """Raises UsageError where no policy of that name can be deployed."""
    from quee.policies.registry import deployable

    if name not in (valid := deployable()):
        raise UsageError(f"{source}: {unknown('policy', str(name), sorted(valid))}")


def _check(experiment: Experiment, source: str, data: Path) -> None:
    """Refuse names that are not registered, and other faults that show without data and network."""
    from quee.network.architectures import outside_files, refuse_unknown
    from quee.trees.shape import largest

    paths, backbone = experiment.paths, experiment.backbone
    try:
        known_dataset(experiment.prepare.dataset, data)
    except UsageError as error:
        raise UsageError(f"{source}: prepare.dataset: {error}") from None
    refuse_unknown(backbone.name, f"{source}: backbone.name: ")
    try:
        largest(paths, backbone.segments)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    # The default can be deployed (tested), and looking a policy up imports them all.
    if experiment.bundle.policy != Bundle().policy:
        check_policy(experiment.bundle.policy, f"{source}: bundle.policy")
    if outside := outside_files(backbone.kwargs):
        raise UsageError(
            f"{source}: backbone.kwargs.{outside[0]}: a bundle reads no other files; give weights by name in backbone.weights"
        )
    if backbone.drawn:
        _check_drawn(experiment, source)
    if experiment.prepare.splits.folds and experiment.evaluate.resplits:
        raise UsageError(
            f"{source}: evaluate.resplits: {experiment.evaluate.resplits}; with prepare.splits.folds every held-out sample "
            "but those of validation is tested once already: valid: 0"
        )


def _check_drawn(experiment: Experiment, source: str) -> None:
    """Refuse training on drawn images where none can be drawn, or where held-out samples come from the same sources."""
    dataset, evaluation_set = experiment.prepare.dataset, experiment.prepare.splits.evaluation_set
    drawn = [name for name in DATASETS if DATASETS[name].drawn_from]
    if dataset not in drawn:
        raise UsageError(f"{source}: backbone.drawn: {dataset} is not drawn; valid with {', '.join(sorted(drawn))}")
    if evaluation_set != "held_out":
        raise UsageError(
            f"{source}: backbone.drawn: the sources of all training images are seen; prepare.splits.evaluation_set must be "
            f"'held_out'; got {evaluation_set!r}"
        )
