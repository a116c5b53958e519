"""Experiments: one YAML file each, one block per stage, checked before anything runs.

Schema of `experiments/NAME.yaml`. Unknown keys, wrong types and values out of range are refused with the file, the
key, the bad value and what is valid. A comment or reformatting changes nothing; a block or key left out means its
default. Stages depend on the settings as `resolved` gives them, so that a changed default is a changed setting: nothing
else in this file may decide a number.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from quee.data.sets import DATASET, sets_of
from quee.errors import IntegrityError, UsageError
from quee.precision import Precision
from quee.work.registry import unknown


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _precision(name: str) -> str:
    try:
        return str(Precision(name))
    except UsageError as error:
        raise ValueError(str(error)) from None


PrecisionName = Annotated[str, BeforeValidator(lambda v: _precision(v) if isinstance(v, str) else v)]
Listed = BeforeValidator(_listed)
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Block(BaseModel):
    """One stage's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Splits(Block):
    """Shares of the data per split; `calibration` is a number of training samples.

    `evaluation_set` says what an official evaluation set becomes: `pooled` with the training set, of which all shares
    count; `held_out`: the splits other than `train`, for a backbone that has seen the official training set; or `test`
    alone, for a backbone trained here. Shares count in the set a split is taken from and sum to at most 1 in each.
    """

    train: Share = 0.45
    calibration: Annotated[int, Field(ge=16, le=1024)] = 256
    predictor: Share = 0.25
    validation: Share = 0.10
    certification: Share = 0.0
    test: Share = 0.20
    evaluation_set: Literal["pooled", "held_out", "test"] = "pooled"

    @model_validator(mode="after")
    def _sums(self) -> "Splits":
        for names in sets_of(self.evaluation_set):
            total = sum(getattr(self, name) for name in names)
            if not total <= 1 + 1e-9:
                raise ValueError(f"shares of {', '.join(names)} sum to {total:g}; they may sum to at most 1")
        if min(self.train, self.predictor, self.validation, self.test) <= 0:
            raise ValueError("train, predictor, validation and test must each be above 0")
        return self


class Prepare(Block):
    dataset: str
    splits: Splits = Splits()
    limit: Count | None = None
    """Use only this many samples of each official set (a seeded, stratified choice)."""
    seed: Seed = 0


class Augmentation(Block):
    """Random changes to training images; all off by default."""

    flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Shift by up to this many pixels."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Zoom by a factor in [1 - scale, 1 + scale]."""
    erase: Share = 0.0
    """Probability of blanking a random rectangle."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of mixup's beta distribution; 0 is off."""


class Backbone(Block):
    name: str
    kwargs: dict[str, Any] = {}
    gates: Annotated[tuple[Count, ...], Listed] = (2, 4, 6, 8)
    """Number of blocks done at each gate; the last is the depth of the backbone."""
    mode: Literal["train", "pretrained", "finetune", "linear_probe"] = "train"
    """`train`: from random weights on the training split; `pretrained`: weights as they are; `finetune`: weights trained
    on; `linear_probe`: weights frozen, a new head fitted on what they see of the training split."""
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    """Name under which `quee weights add` keeps them; for every mode but `train`."""
    trained_blocks: Annotated[int, Field(ge=0)] | None = None
    """`finetune` alone: only so many last blocks, and what follows them, are trained; all of it by default."""
    transfer_ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    """`finetune` alone: learning rate of the weights taken over, relative to the head's."""
    epochs: Count = 100
    batch_size: Count = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Where the cosine ends, for all weights alike."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights; 0 is off."""
    mixed_precision: Literal["auto", "bf16", "none"] = "auto"
    """Products of training in bf16; `auto`: on a GPU that has it."""
    augmentation: Augmentation = Augmentation()
    seed: Seed = 0

    @field_validator("gates")
    @classmethod
    def _rising(cls, gates: tuple[int, ...]) -> tuple[int, ...]:
        if not gates or list(gates) != sorted(set(gates)):
            raise ValueError("gates must rise strictly, as [2, 4, 6, 8]")
        return gates

    @model_validator(mode="after")
    def _fits_mode(self) -> "Backbone":
        if self.mode == "train" and self.weights is not None:
            raise ValueError("weights are for modes pretrained, finetune, linear_probe; mode is train")
        if self.mode != "train" and self.weights is None:
            raise ValueError(f"mode {self.mode} needs weights, a name given to `quee weights add`")
        if self.mode != "finetune" and self.trained_blocks is not None:
            raise ValueError(f"trained_blocks is for mode finetune; mode is {self.mode}")
        return self


class Considered(Block):
    """Which paths of the tree are considered; uniform paths always are."""

    max_switches: Annotated[int, Field(ge=0)] | None = None
    """Keep paths that change precision at most so often."""
    monotone: Literal["up", "down"] | None = None
    """Keep paths whose precision never falls (`up`) or never rises (`down`)."""
    sample: Count | None = None
    """Keep so many full-length paths, drawn at random, and their prefixes."""
    seed: Seed = 0


class Paths(Block):
    precisions: Annotated[tuple[PrecisionName, ...], Listed, Field(min_length=1)] = ("w3a3", "w4a4", "w8a8")
    """In any order; the tree has them by their bits, the fewest first."""
    references: Annotated[tuple[PrecisionName, ...], Listed] = ("fp32",)
    """Uniform paths evaluated beside the tree; without `fp32` here or in `precisions` no float accuracy is told."""
    max_nodes: Count = 500
    considered: Considered = Considered()

    @field_validator("precisions", "references")
    @classmethod
    def _rising(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(names, key=Precision))

    @model_validator(mode="after")
    def _distinct(self) -> "Paths":
        names = self.precisions + self.references
        if len(set(names)) < len(names):
            raise ValueError(f"a precision is named twice among precisions and references: {', '.join(names)}")
        return self


class Quantize(Block):
    """Each ingredient is the preset's unless it is given; `docs/quantization.md` describes them."""

    preset: Literal["minmax", "percentile", "mse", "repq", "erq", "fast", "best"] = "fast"
    weights: Literal["minmax", "mse"] | None = None
    """Search of the weight scales: the full range, or the least squared error."""
    activations: Literal["minmax", "percentile", "mse"] | None = None
    importance: Literal["none", "output"] | None = None
    """Whether ranges are searched for the error of the values, or of the layer's output they cause."""
    bias_correction: bool | None = None
    fold_norms: bool | None = None
    softmax: Literal["uniform", "log"] | None = None
    gelu: Literal["uniform", "two_range", "shifted_log", "searched"] | None = None
    ridge: bool | None = None
    ridge_strength: Annotated[float, Field(ge=0)] | None = None
    rounding: Literal["nearest", "compensated", "learned"] | None = None
    propagate: bool | None = None
    """Whether layers are calibrated behind quantized ones."""
    target: Literal["same", "float"] | None = None
    iterations: Count | None = None
    """Steps per block of learned rounding."""
    path_aware: bool = True
    """Whether a segment is calibrated on the mixture of prefixes that paths produce."""
    stem: PrecisionName | None = None
    """Precision of the stem, where it is not segment 1's."""
    head: PrecisionName | None = None
    """Precision of the backbone's own head; w8a8 unless given."""
    layers: dict[str, PrecisionName] | None = None
    """Layers of integer networks with a precision of their own, by name or pattern: `{blocks.*.mlp.fc2: w8a8}`."""
    mixed: bool = False
    """Whether the layers of a segment have bits of their own, within the BitFLOPs of its precision."""
    seed: Seed = 0

    @field_validator("layers", mode="before")
    @classmethod
    def _from_pairs(cls, layers: Any) -> Any:
        pairs = isinstance(layers, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in layers)
        return dict(layers) if pairs else layers

    @field_serializer("layers", when_used="json")
    def _as_pairs(self, layers: dict[str, str] | None) -> list[list[str]] | None:
        """Pairs, because the first pattern that fits a layer counts, and DVC sees no order of keys."""
        return None if layers is None else [[name, precision] for name, precision in layers.items()]


class Exits(Block):
    pooling: Literal["cls", "cls_mean"] = "cls_mean"
    """What a head sees: the class token, or it and the mean patch token."""
    prefixes: Literal["mixed", "float"] = "mixed"
    """What ran before the states that heads and embedding are fitted on: precisions of the tree drawn per sample and
    segment, or the float network."""
    draws: Count = 8
    """Passes over the training samples, each with new augmentation and new prefix precisions."""
    max_samples: Count | None = None
    augment: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strength of the L2 penalty: half of it times the sum of a head's squared weights is added to the cross-entropy
    summed over all states, in nats."""
    embedding: Annotated[int, Field(ge=0)] = 8
    """Principal components of the pooled state among the state features."""
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _without_training(cls, given: Any) -> Any:
        if isinstance(given, dict) and (gone := sorted({"epochs", "learning_rate"} & set(given))):
            raise ValueError(
                f"{' and '.join(gone)}: no longer a setting, since heads are fitted to the optimum; leave it out "
                "(weight_decay is the strength of the penalty)"
            )
        return given


class Features(Block):
    embedding: bool = True
    """Whether state features include the compressed embedding."""


class Targets(Block):
    clusters: Annotated[int, Field(ge=1, le=1000)] = 20
    sweep: Annotated[tuple[Count, ...], Listed] = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100)
    """Numbers of clusters for which the calibration error is reported."""
    shrinkage: Annotated[float, Field(ge=0)] = 4.0
    """α: so many samples' worth of a path's mean error pulls each cluster's."""
    per_node: Annotated[int, Field(ge=0)] = 64
    """Up to so many nodes at a gate each node has its own clusters; above, the gate's nodes share them."""
    seed: Seed = 0


class Predictors(Block):
    hidden: Count = 32
    epochs: Count = 200
    batch_size: Count = 1024
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    patience: Count = 15
    seed: Seed = 0


class FittedQ(Block):
    folds: Annotated[int, Field(ge=2, le=20)] = 4
    """Parts of the predictor split for cross-fitting."""
    knots: Annotated[int, Field(ge=2, le=64)] = 12
    """Trade-offs λ at which the values are fitted; between them they are interpolated."""
    blend: Share | Literal["auto"] = 0.5
    """Share of the fitted values in a decision, the rest being the plan's; `auto`: by gate and λ, from cross-fitting."""


class Policies(Block):
    first_step: Literal["rollout", "marginal"] = "rollout"
    """How `plan` chooses the first precision at gate 0."""
    fitted_q: FittedQ = FittedQ()
    seed: Seed = 0


class Certification(Block):
    """Guarantees, where `prepare` keeps a certification split."""

    delta: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Probability with which a guarantee may fail."""
    accuracy_losses: Annotated[tuple[Positive, ...], Listed] = (0.005, 0.01, 0.02)
    """Limits on the accuracy lost against the static network at the highest precision."""


class Quality(Block):
    """Predictors of deliberately different quality, and other numbers of clusters; each entry is fitted once."""

    widths: Annotated[tuple[Count, ...], Listed] = (1, 4)
    """Hidden units."""
    samples: Annotated[tuple[Share, ...], Listed] = (0.02, 0.1)
    """Shares of the predictor split to learn from."""
    noise: Annotated[tuple[Positive, ...], Listed] = (0.5, 1.0, 2.0)
    """Standard deviations of noise on the logits."""
    clusters: Annotated[tuple[Count, ...], Listed] = (1, 5, 20, 50)


class Evaluate(Block):
    points: Annotated[int, Field(ge=100, le=10_000)] = 120
    """Trade-offs and thresholds in a sweep."""
    budgets: Annotated[tuple[Positive, ...], Listed, Field(min_length=1)] = (
        0.05,
        0.1,
        0.15,
        0.2,
        0.3,
        0.4,
        0.6,
        0.8,
        1.0,
    )
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """Seeds of targets, predictors and policies: the first is the stages' own, the others are fitted from the cache."""
    resplits: Annotated[int, Field(ge=0, le=1000)] = 0
    """Repetitions on random re-divisions of the held-out rows, targets and predictors fitted anew."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    certification: Certification = Certification()
    quality: Quality = Quality()
    seed: Seed = 0


Axis = Literal[
    "clusters", "targets", "hidden", "features", "heads", "considered", "precisions", "gates", "first_step", "commit",
    "fitted_q", "reference",
]  # fmt: skip
AXES: tuple[Axis, ...] = get_args(Axis)
"""What `quee ablate` varies, one at a time; `reference` adds methods that learn nothing."""


class Ablate(Block):
    """The grid of `quee ablate`: each axis departs from the experiment's own settings in one thing."""

    axes: Annotated[tuple[Axis, ...], Listed, Field(min_length=1)] = AXES
    seeds: Annotated[int, Field(ge=3, le=100)] = 3
    """Repetitions of every point; targets, predictors and policies are fitted anew in each."""
    divide: Literal["none", "learning", "all"] = "learning"
    """What each repetition divides anew: nothing; the predictor and validation splits between each other; the test split
    too, for data so small that one test set tells little."""
    clusters: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Listed] = (1, 5, 10, 20, 50, 100, 150)
    targets: Annotated[tuple[Literal["labels", "neighbours", "p_label"], ...], Listed] = (
        "labels",
        "neighbours",
        "p_label",
    )
    """Instead of clusters: errors as they are, their mean over nearest neighbours, or 1 - probability of the label."""
    neighbours: Count = 50
    hidden: Annotated[tuple[Count, ...], Listed] = (4, 8, 16, 64, 128)
    heads: Annotated[tuple[Literal["mixed", "float"], ...], Listed] = ()
    """Exit heads fitted on states behind other prefixes than `exits.prefixes` says; the network runs for each."""
    considered: Annotated[tuple[Considered, ...], Listed] = (
        Considered(max_switches=0),
        Considered(max_switches=1),
        Considered(monotone="up"),
        Considered(monotone="down"),
        Considered(sample=8),
        Considered(sample=24),
    )
    """Paths to keep of the cached tree; a sample is drawn anew in each repetition."""
    precisions: Annotated[tuple[Annotated[tuple[PrecisionName, ...], Listed, Field(min_length=1)], ...], Listed] = ()
    """Precisions to keep; by default every one left out, and every one alone."""
    added: Annotated[tuple[PrecisionName, ...], Listed] = ()
    """References of `paths` to take into the tree, one at a time; the network runs for each."""
    gates: Annotated[tuple[Annotated[tuple[Count, ...], Listed, Field(min_length=2)], ...], Listed] = ()
    """Gates to keep, as 1 for the first; the last always among them. By default every one left out, and every second."""
    blend: Annotated[tuple[Share | Literal["auto"], ...], Listed] = (0.5, 1.0, "auto")
    """Shares of the fitted values in `fitted_q`."""
    points: Annotated[int, Field(ge=20, le=10_000)] = 60
    """Trade-offs λ in each sweep."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 2000
    seed: Seed = 0


class Report(Block):
    title: str = ""


class Bundle(Block):
    policy: str = "fitted_q"
    """A deployable entry of `quee.policies.registry`."""
    budget: Positive = 0.2
    """The budget the deployed classifier runs at unless told otherwise."""


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
        raise UsageError(unknown("experiment", name, experiment_names(folder)))
    return parse_experiment(name, path.read_text(encoding="utf-8"), str(path))


def experiment_names(folder: Path = Path("experiments")) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def parse_experiment(name: str, text: str, source: str) -> Experiment:
    """Check the text of an experiment; `source` names it in errors."""
    return _checked(name, read_content(text, source), source)


def read_content(text: str, source: str) -> dict[str, Any]:
    """The blocks of an experiment as they are written, defaults not filled in; raises UsageError where it is no YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(
            text
        )  # YAML 1.2, as DVC reads it: 1e-3 is a number; refuses equal keys
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{source}: not YAML: {where}{' '.join(problem.split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{source}: expected blocks such as `prepare:`; valid: {', '.join(BLOCKS)}")
    return content


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every block with all its defaults, and under `dataset` what the registry knows of the data set, as plain values."""
    from quee.data import DATASETS

    blocks = experiment.model_dump(mode="json", exclude={"name"})
    return {**blocks, DATASET: DATASETS.facts(experiment.prepare.dataset)}


def parse_resolved(name: str, text: str, source: str) -> Experiment:
    """The experiment of which `resolved` gave the values in a JSON text; `source` names it in errors."""
    try:
        content = json.loads(text)
        blocks = {block: value for block, value in content.items() if block != DATASET}
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"{source}: not the settings of an experiment ({error})") from None
    return _checked(name, blocks, source)


def is_given(content: dict[str, Any], key: str) -> bool:
    """Whether the blocks of an experiment, as they are written, say something about a dotted key."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _checked(name: str, content: dict[str, Any], source: str) -> Experiment:
    strange = [key for key in content if key not in BLOCKS]
    if strange:
        raise UsageError(f"{source}: {unknown('block', str(strange[0]), list(BLOCKS))}")
    empty: dict[str, Any] = {block: {} for block in BLOCKS if content.get(block) is None}
    try:
        experiment = Experiment(**{**content, **empty, "name": name})
    except ValidationError as error:
        raise UsageError(_explain(error, source)) from None
    _check_names(experiment, source)
    _check_settings(experiment, source)
    return experiment


def checked_experiment(source: str, **blocks: Any) -> Experiment:
    """Settings given from Python; `source` names them in the UsageError that says what is wrong with them."""
    try:
        return Experiment(**blocks)
    except ValidationError as error:
        raise UsageError(_explain(error, source)) from None


def _check_names(experiment: Experiment, source: str) -> None:
    from quee.data import DATASETS
    from quee.network.architectures import refuse_unknown

    if experiment.prepare.dataset not in DATASETS:
        message = unknown("dataset", experiment.prepare.dataset, list(DATASETS))
        raise UsageError(f"{source}: prepare.dataset: {message}")
    refuse_unknown(experiment.backbone.name, f"{source}: backbone.name: ")


def _check_settings(experiment: Experiment, source: str) -> None:
    from quee.settings.requirements import check_settings

    try:
        check_settings(experiment)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def _explain(error: ValidationError, source: str) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        *parents, last = fault["loc"]
        valid = [name for name in _fields(parents) if name != "name"]
        return f"{source}: {key}: {unknown('key', str(last), valid)}"
    if fault["type"] == "missing" or isinstance(fault["input"], dict):
        return f"{source}: {key}: {message}"
    return f"{source}: {key}: {message}; got {fault['input']!r}"


def _fields(parents: list[Any]) -> dict[str, FieldInfo]:
    model: type[BaseModel] = Experiment
    for part in parents:
        if isinstance(part, int):  # a place in a list, whose entries' block was found with its key
            continue
        annotation = model.model_fields[str(part)].annotation
        found = next(iter(get_args(annotation)), annotation)
        assert isinstance(found, type)
        model = found
    return model.model_fields
