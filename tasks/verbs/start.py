"""Verb `quee start`: from images and a network to an experiment that is ready to run."""

import contextlib
import json
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee.cli import AsJson
from quee.cli.keywords import settings_of
from quee.data import DATA, RESERVED, names_in
from quee.errors import QueeError, UsageError
from tasks.verbs.going_on import Begun
from tasks.verbs.proposal import (
    ALL_SEEN,
    ASK,
    Choice,
    Images,
    Weights,
    mode_of,
    refuse_missing,
    text_of,
    use_of,
    weights_here,
)
from tasks.verbs.unlabelled import add_answered, network_given, without_labels

if TYPE_CHECKING:
    import numpy as np

    from quee.data.files import DatasetFiles
    from quee.settings.experiment import Experiment

LOOKED_AT = 1000
"""Images whose size is read."""
ESTIMATE = "ESTIMATE"
"""Stands for the estimate, which is made with the experiment's settings."""
ROWS = (
    *("images", "classes", "import", "network", "weights", "preprocessing", "measured", "mode", "splits", "estimate"),
)
"""What is printed, in this order."""
GREY = {"1", "L", "LA", "I", "I;16"}
"""Pillow's modes without colour."""
SHOWN = 8
"""Most classes that are named."""


def start(
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES", help="Folder of class folders or Parquet files, or a name of `quee data list`."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Checkpoint of your network, a file or a folder, or a name of `quee weights list`."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Architecture: where FILE does not say it, or to train one here.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the experiment, and of what is added; by default the folder's.")
    ] = None,
    seen: Annotated[
        bool | None,
        typer.Option(
            "--trained-on-these/--not-trained-on-these",
            help="Whether the weights were trained on these images, or on those of train/.",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for `quee weights add`; repeatable.")
    ] = None,
    evaluation: Annotated[str | None, typer.Option(metavar="NAME", help="As for `quee data add`.")] = None,
    config: Annotated[str | None, typer.Option(metavar="NAME", help="As for `quee data add`.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="As for `quee data add`.")] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            "--class-order",
            metavar="ORDER",
            help="Order of the network's outputs: text (1, 10, 2), natural (1, 2, 10), or a file with a name a line.",
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Beside images without labels: as for `quee data add`."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="As for `quee data add`.")] = False,
    json_: AsJson = False,
) -> None:
    """Add images and weights, say what they are, and write experiments/NAME.yaml with a comment on each choice.

    Makes the project first where there is none here. Some of the images are run through the network, to measure what the
    checkpoint does not state and to estimate the time; training and the pipeline are left to `quee run`. What cannot be
    run is refused before anything is added; after Ctrl-C the same command goes on. Images in no class folders have no labels:
    the network's answers take their place.
    """
    from quee.data.class_order import order_given
    from quee.data.importers import Options
    from tasks.dvc.dependencies import is_clone
    from tasks.dvc.project import is_project, make_project, refuse_place

    if not _dataset_here(images) and (labelled is not None or without_labels(Path(images))):
        with contextlib.redirect_stdout(sys.stderr if json_ else sys.stdout):
            own = name or _slug(Path(images).resolve().name)
            answering = network_given(own, Path(images), weights, seen)
            if not is_project(Path()):
                refuse_place(Path())
                make_project(Path(), notify=typer.echo)
            given = (backbone, set_ or [], class_order, labelled, skip_bad)
            images, weights = add_answered(own, Path(images), answering, *given)
        backbone, set_, class_order = None, None, None
    ordered = None if _dataset_here(images) else order_given(class_order)
    options = Options(evaluation=evaluation, config=config, label=label, class_order=ordered, skip_bad=skip_bad)
    request = _request(images, weights, backbone, name, seen, set_ or [], options, class_order)
    quiet = sys.stderr if json_ else sys.stdout
    with contextlib.redirect_stdout(quiet), request.begun.saying(lambda: _again(request)):
        project = is_project(Path())
        if not project:
            refuse_place(Path())
        network = _network(request)
        _refuse_unworkable(request, network)
        if not project or (request.begun.before and not is_clone(Path())):
            made = make_project(Path(), notify=typer.echo)
            if not project:
                typer.echo(f"made a project in {Path.cwd()}: {', '.join(made)}")
        found = _begin(request, network)
    if json_:
        typer.echo(json.dumps(found.facts, indent=1, ensure_ascii=False))
        return
    rows = {key: found.rows[key] for key in ROWS if key in found.rows}
    width = max(map(len, rows))
    for key, value in rows.items():
        for line in value.splitlines():
            typer.echo(f"{key:<{width}}  {line}")
            key = ""
    typer.echo(f"wrote experiments/{request.name}.yaml; next: quee run {request.name}")


@dataclass(frozen=True)
class Request:
    """What is asked for, checked as far as this needs no image and no weights."""

    name: str
    look: "Look"
    source: Path | None
    """The folder to import; None where the data set is here."""
    options: Any
    weights: str | None
    """Name of the weights; None where none are given."""
    file: Path | None
    """The checkpoint to add under that name; None where the weights are here."""
    backbone: str | None
    seen: bool | None
    set_: list[str]
    class_order: str | None
    """A value of `--class-order`."""
    begun: Begun

    @property
    def dataset(self) -> str:
        return self.look.images.dataset


@dataclass(frozen=True)
class Look:
    """The data set, or what an import is going to make of a folder."""

    images: Images
    labels: "np.ndarray"
    """(n,) of the training images, then of the evaluation images."""
    answered: bool = False
    """Whether the labels are a network's answers."""


@dataclass(frozen=True)
class Network:
    """The network that was given."""

    weights: Weights | None
    name: str
    kwargs: dict[str, Any]
    read_as: str = ""
    outputs: tuple[str, ...] | None = None
    """Names of the outputs, where the checkpoint has them."""


@dataclass(frozen=True)
class Found:
    """What `quee start` found and chose: lines for people, and facts for programs."""

    rows: dict[str, str]
    facts: dict[str, Any]
    coloured: bool
    """Whether any of the images is in colour."""


def _request(
    images: str,
    weights: str | None,
    backbone: str | None,
    name: str | None,
    seen: bool | None,
    set_: list[str],
    options: Any,
    class_order: str | None,
) -> Request:
    """Raises UsageError for arguments that lead nowhere, QueeError for a folder that is no data set."""
    from quee.data.weights_facts import weights_path
    from quee.network.architectures import refuse_unknown

    dataset = _dataset_here(images)
    source = None if dataset else Path(images)
    if source is not None and not source.exists():
        here = [known for known in names_in(DATA) if any((DATA / known).glob("train-*.parquet"))]
        raise UsageError(
            f"no folder {images!r}, and no data set of that name here; give a folder of class folders, or one of: "
            f"{', '.join(here) or 'none is here yet'}"
        )
    if weights is None and backbone is None:
        raise UsageError(
            "give your network: --weights FILE, or --backbone NAME to train one here (`quee weights list` shows published ones)"
        )
    if backbone is not None:
        refuse_unknown(backbone, "--backbone: ")
    if weights is None and seen is not None:
        raise UsageError("--trained-on-these and --not-trained-on-these are about --weights, which is not given")
    if weights is None and set_:
        raise UsageError(
            "--set goes with --weights; experiments/NAME.yaml has the keywords of a network that is trained here"
        )
    own = name or dataset or _slug(Path(images).resolve().name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", own) or own in RESERVED:
        raise UsageError(
            f"{own!r} is no name for an experiment: lower-case letters, digits and _ are valid; give --name NAME"
        )
    words = [images if source is None else str(source.resolve()), backbone, seen, class_order]
    asked = {"images": words, "weights": _stamp(weights), "set": set_, "options": _plain(options)}
    begun = Begun.of(own, asked)
    if (written := Path("experiments") / f"{own}.yaml").exists() and not begun.before:
        raise UsageError(f"{written} is there already; give --name NAME, or `quee run {own}`")
    weights_name, file = None, None
    if weights is not None:
        refuse_missing(weights)
        weights_name, file = (weights, None) if weights_here(weights) else (own, Path(weights))
        if file is not None and weights_path(own).is_file() and not begun.before:
            raise UsageError(f"{weights_path(own)} is there already; give --weights {own} to use it, or --name NAME")
        if file is None and set_:
            raise UsageError(
                f"--set goes with a checkpoint file; weights {weights!r} are here already: "
                f"`quee weights add {weights} FILE {' '.join(f'--set {word}' for word in set_)} --replace` changes their keywords"
            )
    look = _look(dataset or own, source, options, begun)
    return Request(own, look, source, options, weights_name, file, backbone, seen, set_, class_order, begun)


def _stamp(weights: str | None) -> list[Any]:
    """What tells a checkpoint from another one: path, and sizes and times of its files; of weights that are here the name."""
    if weights is None or not Path(weights).exists():
        return [weights]
    path = Path(weights).resolve()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return [str(path), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _plain(options: Any) -> dict[str, Any]:
    """Options of an import as values that JSON has."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options), default=str))
    plain.pop("skip_bad")  # the same call goes on with it after one without it was refused
    return plain


def _look(dataset: str, source: Path | None, options: Any, begun: Begun) -> Look:
    """A data set that is here, or what is going to be imported; no image is read.

    Raises UsageError where the place is taken, QueeError for a folder that is no data set.
    """
    import numpy as np

    from quee.data.importers import plan_import

    if source is None:
        files = _images(dataset)
        official = files.train_samples + files.evaluation_samples
        here = Images(dataset, files.train_samples, files.evaluation_samples, files.classes)
        return Look(here, files.labels[:official], files.answers is not None)
    if any((DATA / dataset).glob("*.parquet")) and not begun.before:
        raise UsageError(
            f"{DATA / dataset} is there already; give `quee start {DATA / dataset} …` to use it, or --name NAME"
        )
    shards = sorted(plan_import(dataset, source, options).shards, key=lambda shard: not shard.name.startswith("train-"))
    labels = np.concatenate([shard.labels for shard in shards])
    classes = shards[0].classes or tuple(map(str, range(int(labels.max()) + 1)))
    training = sum(shard.samples for shard in shards if shard.name.startswith("train-"))
    return Look(Images(dataset, training, len(labels) - training, classes), labels)


def _images(dataset: str) -> "DatasetFiles":
    from quee.data import dataset_called
    from quee.data.files import DatasetFiles

    return DatasetFiles(DATA / dataset, dataset_called(dataset))


def _dataset_here(images: str) -> str | None:
    """The name of a data set that is here, given by its name or its folder."""
    for name in (images, Path(images).name if Path(images).parent.resolve() == DATA.resolve() else ""):
        if name and not (name == images and Path(images).exists()) and any((DATA / name).glob("train-*.parquet")):
            return name
    return None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "mine"


def _begin(request: Request, network: Network) -> Found:
    """Add images and weights, choose, check, and write the experiment, which comes last."""
    from quee.data.weights_facts import weights_path
    from quee.settings.experiment import parse_experiment
    from quee.work.io import write_bytes
    from tasks.dvc.experiments import put_right

    begun = request.begun
    begun.keep()
    said: list[str] = []
    if request.source is not None:
        folder = DATA / request.dataset
        if str(folder) not in begun.added or len(_images(request.dataset)) != len(request.look.labels):
            begun.add(folder, _add_images(request))
        said = begun.added[str(folder)]
    if request.file is not None:
        path = weights_path(str(request.weights))
        if str(path) not in begun.added:
            _add_weights(request, network)
            begun.add(path, [])
    found = _proposal(request, network, said)
    file = Path("experiments") / f"{request.name}.yaml"
    experiment = parse_experiment(request.name, found.facts["experiment"], str(file))
    splits = _checked(experiment)
    if (enlarged := found.facts["enlarged"]) and experiment.backbone.mode != "pretrained":
        typer.echo(f"warning: {enlarged}", err=True)
    if measured := _measured(request, experiment, splits):
        network = _weights(request, weights_path(str(request.weights)))  # the size is among its keywords now
        found = _proposal(request, network, said)
        experiment = parse_experiment(request.name, found.facts["experiment"], str(file))
    found = _estimated(_prepared(found, experiment, measured), experiment, splits)
    write_bytes(file, found.facts["experiment"].encode())
    put_right(Path(), [request.name], lambda _: None)
    begun.end()
    return found


def _measured(request: Request, experiment: "Experiment", splits: dict[str, int]) -> list[str]:
    """Measure what the weights do not state, on training images of the experiment; returns the lines that say it.

    Raises UsageError where that is open.
    """
    from quee.data.weights_facts import weights_path
    from tasks.verbs.data import MEASURED, keep_measured, refuse_untracked, track_as
    from tasks.verbs.measuring import LEAST, check, state_order
    from tasks.verbs.measuring import Request as Measuring

    settings = experiment.backbone
    if settings.mode != "pretrained" or settings.weights is None:
        return []
    if request.look.answered:
        return ["not measured, for the images have no labels"]
    path = weights_path(settings.weights)
    refuse_untracked(path)
    asked = Measuring(
        settings.weights, experiment.prepare.dataset, MEASURED, class_order=request.class_order, planned=(experiment,)
    )
    if splits["train"] < LEAST:
        if request.class_order is not None:
            state_order(asked)
            track_as(path, path.with_name(f"{path.stem}.dvc"))
        return [f"not measured, for that takes {LEAST} training images"]
    checked = check(asked)
    keep_measured(checked)
    return list(checked.lines())


def _prepared(found: Found, experiment: "Experiment", measured: list[str]) -> Found:
    """With how images are prepared, and how that was measured."""
    from quee.data.weights_facts import built_with

    prepared = _built(experiment.backbone.name, built_with(experiment.backbone)).input
    if prepared.channels == 3:
        kind = "RGB" if found.coloured else "RGB, of which grey images fill all three channels"
    else:
        kind = "grey, so colours are dropped" if found.coloured else "grey"
    text = f"{prepared.size[0]}×{prepared.size[1]}, {kind}, {prepared}"
    rows = {**found.rows, "preprocessing": text, **({"measured": "\n".join(measured)} if measured else {})}
    return Found(rows, {**found.facts, "preprocessing": text, "measured": measured}, found.coloured)


def _again(request: Request) -> list[str]:
    """Arguments by which another call uses what this one has added."""
    from quee.data.weights_facts import weights_path

    folder, weights = DATA / request.dataset, request.weights
    images = folder if request.source is None or str(folder) in request.begun.added else request.source
    name = [] if images == folder and request.name == request.dataset else ["--name", request.name]
    if weights is not None and request.file is not None and str(weights_path(weights)) not in request.begun.added:
        weights = str(request.file)
    return [str(images), *(["--weights", weights] if weights is not None else []), *name]


def _network(request: Request) -> Network:
    """The network that is given. Raises UsageError where it is not said whether it has seen the images, and that decides."""
    from quee.data.weights_facts import weights_path

    if request.weights is None:
        assert request.backbone is not None
        return Network(None, request.backbone, {})
    found = _weights_in(request, request.file) if request.file else _weights(request, weights_path(request.weights))
    assert found.weights is not None
    if request.look.images.evaluation or found.weights.seen is False:
        return found
    if found.weights.seen is None and not _asked():
        return replace(found, weights=replace(found.weights, seen=False))
    raise UsageError(ALL_SEEN)


def _weights_in(request: Request, file: Path) -> Network:
    """Read a checkpoint without adding it."""
    from quee.data.weights import import_weights

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{request.weights}.safetensors"
        import_weights(request.backbone, file, target, kwargs=settings_of(request.set_))
        return _weights(request, target)


def _weights(request: Request, path: Path) -> Network:
    """The network of weights in a file of quee's."""
    from quee.data.weights import head_classes
    from quee.data.weights_facts import weights_facts

    facts, name, dataset = weights_facts(path), str(request.weights), request.dataset
    if request.backbone not in (None, facts.backbone):
        raise UsageError(f"--backbone {request.backbone}: the weights are of {facts.backbone}")
    told = None if facts.trained_on is None else dataset in facts.trained_on
    if dataset in (facts.seen or ()) or (facts.fitted is not None and facts.fitted.dataset == dataset):
        told = True
    if request.file is None and request.seen is not None and told != request.seen:
        state = "do not say what they were" if told is None else "were" if told else "were not"
        raise UsageError(
            f"weights {name!r} {state} trained on{'' if told is None else f' {dataset}'}, by their own account; "
            f"`quee weights add {name} FILE --trained-on {dataset if request.seen else 'none'} --replace` corrects it"
        )
    weights = Weights(name, head_classes(path), request.seen if told is None else told)
    # Stages take the preprocessing from the weights' file.
    kwargs = {key: value for key, value in (facts.kwargs or {}).items() if key != "preprocessing"}
    return Network(weights, facts.backbone, kwargs, facts.read_as, facts.classes)


def _refuse_unworkable(request: Request, network: Network) -> None:
    """Raises UsageError, before anything is added, where images and network do not go together, or images are too few.

    Stages would refuse the same.
    """
    from quee.data.class_order import outputs_given, positions
    from quee.data.splits import make_splits, rotations_of
    from quee.settings.experiment import checked_experiment, read_content
    from quee.settings.requirements import check_data, check_network, pool_of

    look, cut = request.look, request.look.images.training
    mode, use, kwargs = _choices(look.images, network)
    if mode.value == "pretrained" and network.outputs is not None and request.class_order is None:
        given = request.file or request.weights
        try:
            positions(network.outputs, look.images.classes, f"the head of {given}")
        except UsageError as error:
            more = "name the classes so, or give --class-order FILE: your names in the order of the outputs, one a line"
            raise UsageError(f"{error}; {more}") from None
    outputs_given(request.class_order, look.images.classes)
    gates = _built(network.name, kwargs).gates
    text = text_of(request.name, look.images, network.weights, network.name, kwargs, gates, mode, use, [])
    where = f"experiments/{request.name}.yaml"
    experiment = checked_experiment(
        where, name=request.name, **read_content(text, where)
    )  # the data set is not here yet
    settings = experiment.prepare
    evaluation = look.labels[cut:] if look.images.evaluation else None
    try:
        table = make_splits(look.labels[:cut], evaluation, settings.splits, settings.seed, settings.limit)
    except UsageError as error:
        raise UsageError(f"{request.source or request.dataset}: {error}") from None
    labels, pool = look.labels[table["sample_id"].to_numpy()], pool_of(experiment, look.labels, cut)
    for split in rotations_of(table):
        check_data(experiment, split, labels, pool, look.images.classes, answered=look.answered)
    own = experiment.backbone.model_copy(update={"weights": None, "kwargs": kwargs})  # their file is not here yet
    check_network(experiment.model_copy(update={"backbone": own}))


def _choices(images: Images, network: Network) -> tuple[Choice, Choice, dict[str, Any]]:
    """Mode, use of the evaluation set, and keywords of the backbone."""
    mode = mode_of(images, network.weights)
    kwargs = {**network.kwargs, "num_classes": len(images.classes)}
    return mode, use_of(images, network.weights, mode.value), kwargs


def _add_weights(request: Request, network: Network) -> None:
    from tasks.verbs.data import add_weights

    assert request.weights is not None and network.weights is not None
    seen = network.weights.seen
    trained_on = None if seen is None else request.dataset if seen else "none"
    with contextlib.redirect_stdout(StringIO()):  # the findings say the same
        add_weights(
            request.weights,
            request.file,
            backbone=request.backbone,
            trained_on=trained_on,
            set_=request.set_ or None,
            replace=request.begun.before,
        )


def _add_images(request: Request) -> list[str]:
    """Import the images; returns what the import left out, chose or merged."""
    from tasks.verbs.data import add

    told, printed = request.options, StringIO()
    given = {key: getattr(told, key) for key in ("evaluation", "config", "label", "skip_bad")}
    given["class_order"] = request.class_order
    with contextlib.redirect_stdout(printed):
        add(request.dataset, request.source, replace=request.begun.before, **given)
    return printed.getvalue().splitlines()[1:]


def _proposal(request: Request, network: Network, said: list[str]) -> Found:
    """The findings and the experiment, without the estimate."""
    files = _images(request.dataset)
    images = Images(request.dataset, files.train_samples, files.evaluation_samples, tuple(files.classes))
    weights, name = network.weights, network.name
    mode, use, kwargs = _choices(images, network)
    built, (sizes, coloured, largest) = _built(name, kwargs), _sizes(files)
    if weights is None and coloured and built.input.channels == 1:
        kwargs["in_chans"] = 3
        built = _built(name, kwargs)
    named = f"{', '.join(images.classes[:SHOWN])}{', …' if len(images.classes) > SHOWN else ''}"
    given = "".join(f", {key} {json.dumps(value)}" for key, value in sorted(kwargs.items()))
    rows = {
        "images": f"{len(files):,} in data/{images.dataset}: {images.training:,} for training, {images.evaluation:,} for "
        f"evaluation; {sizes}",
        "classes": f"{len(images.classes)}, in this order: {named}",
        **({"import": "\n".join(said)} if said else {}),
        "network": f"{name}{given}; {len(built.block_names)} blocks",
        **({"weights": f"read as: {network.read_as}"} if network.read_as else {}),
        "mode": f"{mode.value}: {mode.why}",
        "splits": f"{use.value}: {use.why}",
    }
    heading = [
        f"{len(files):,} images of {len(images.classes)} classes, and {name}. `quee start` wrote this; change what you "
        "like.",
        *(f"{key.capitalize()}: {rows[key]}" for key in ("images", "network", "weights") if key in rows),
        ESTIMATE,
        f"Command: quee run {request.name}",
    ]
    text = text_of(
        request.name,
        images,
        weights,
        name,
        kwargs,
        built.gates,
        mode,
        use,
        heading,
    )
    facts = {
        "name": request.name,
        "dataset": {"name": images.dataset, "training": images.training, "evaluation": images.evaluation},
        "classes": list(images.classes),
        "sizes": sizes,
        "import": said,
        "backbone": {"name": name, "kwargs": kwargs, "gates": list(built.gates)},
        "read_as": network.read_as,
        "enlarged": "" if weights is None else _enlarged(built, name, kwargs, largest, weights, images.dataset),
        "mode": {"value": mode.value, "why": mode.why},
        "splits": {"value": use.value, "why": use.why},
        "experiment": text,
        "command": f"quee run {request.name}",
    }
    return Found(rows, facts, coloured)


def _asked() -> bool:
    """Ask on a terminal whether the weights have seen the images; elsewhere raises UsageError with the options that say it."""
    if not sys.stdin.isatty():
        raise UsageError(ASK)
    return typer.confirm("Are these images among those that the weights were trained on?", err=True)


def _built(name: str, kwargs: dict[str, Any]) -> Any:
    import torch

    from quee.network.architectures import create_backbone

    with torch.device("meta"):
        return create_backbone(name, **kwargs)


def _enlarged(built: Any, name: str, kwargs: dict[str, Any], largest: int, weights: Weights, dataset: str) -> str:
    """A doubt in words, or nothing: all images are far smaller than the network's, whose weights fit any size."""
    taken = min(built.input.size)
    if "img_size" in kwargs or 2 * largest > taken:
        return ""
    try:
        other = _built(name, {**kwargs, "img_size": largest})
    except (QueeError, TypeError):
        return ""
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (built, other)]
    if shapes[0] != shapes[1]:
        return ""
    seen = "" if weights.seen is None else f" --trained-on {dataset if weights.seen else 'none'}"
    return (
        f"the images have {largest} pixels a side at most and are enlarged to {taken}, {name}'s usual size, which the weights "
        f"do not state; if they were trained on smaller ones, interrupt this, and then `quee weights add {weights.name} FILE "
        f"--backbone {name} --set img_size={largest}{seen} --replace` and `quee start {DATA / dataset} --weights {weights.name}`"
    )


def _sizes(files: "DatasetFiles") -> tuple[str, bool, int]:
    """Sizes and kinds of the images in words, whether any is in colour, and the longest side, from at most LOOKED_AT headers."""
    from quee.data.decode import open_image
    from quee.evenly import evenly

    rows = evenly(len(files), LOOKED_AT)
    found = [open_image(files.encoded[int(row)][0], files.name(int(row))) for row in rows]
    heights, widths = ([image.height for image in found], [image.width for image in found])
    kinds = sorted({image.mode for image in found})
    low, high = f"{min(heights)}×{min(widths)}", f"{max(heights)}×{max(widths)}"
    looked = "" if len(rows) == len(files) else f" (of {len(rows):,} looked at)"
    return (
        f"{low if low == high else f'{low} to {high}'} pixels{looked}, {', '.join(kinds)}",
        not set(kinds) <= GREY,
        max(heights + widths),
    )


def _checked(experiment: "Experiment") -> dict[str, int]:
    """Number of samples by split; raises what stage `prepare` and a run would refuse."""
    import pyarrow.compute as pc

    from quee.data.weights import refuse_other_kwargs, refuse_overlap
    from quee.data.weights_facts import weights_facts, weights_path
    from quee.work.io import read_table
    from tasks.prepare import run as prepare
    from tasks.stage import Stage, artifacts_of

    if experiment.backbone.weights is not None:
        facts = weights_facts(weights_path(experiment.backbone.weights))
        refuse_overlap(experiment, facts)
        refuse_other_kwargs(experiment.backbone, facts)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Stage("prepare", experiment, Path(folder), artifacts_of(experiment.name)))
        split = read_table(Path(folder) / "splits.parquet")["split"]
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(split).to_pylist()}
    return {name: counts[name] for name in sorted(counts)}


def _estimated(found: Found, experiment: "Experiment", splits: dict[str, int]) -> Found:
    from tasks.verbs.forecast import forecast

    text = forecast(experiment, splits)
    counts = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    rows = {**found.rows, "splits": f"{found.rows['splits']}\n{counts}", "estimate": text.said}
    yaml = found.facts["experiment"].replace(f"# {ESTIMATE}", f"# Estimate: {text.said}")
    facts = {**found.facts, "samples": splits, "seconds": list(text.seconds), "bytes": text.bytes, "experiment": yaml}
    return Found(rows, facts, found.coloured)
