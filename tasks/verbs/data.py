"""Verbs `quee data` and `quee weights`: bring the inputs of experiments under version control."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee.cli import PLAIN, AsJson, naming
from quee.cli.keywords import settings_of
from quee.data import DATA, dataset_called, known_dataset, names_in
from quee.errors import IntegrityError, QueeError, UsageError
from quee.work.counts import counted

if TYPE_CHECKING:
    import numpy as np

    from quee.data.importers.base import Answering
    from quee.data.weights_facts import WeightsFacts
    from quee.work.workers import Lanes
    from tasks.verbs.measuring import Checked

data_app = typer.Typer(help="Add, list, check and show datasets.", no_args_is_help=True, **PLAIN)
weights_app = typer.Typer(help="Add, list and check pretrained weights.", no_args_is_help=True, **PLAIN)

EMBEDDED = {"digits": Path("data.dvc")}
"""Datasets whose DVC file is not beside their folder."""

MEASURED = 1024
"""Most images that weights are measured on, unless another number is given."""
NAMED = 10
"""Most classes named in a closing line."""

Name = Annotated[str, typer.Argument(help="Name of the dataset.")]


@data_app.command("add")
def add(
    name: Name,
    source: Annotated[Path | None, typer.Argument(help="Archive or folder with the public files.")] = None,
    extra: Annotated[bool, typer.Option("--extra", help="SVHN: add the extra set to the training set.")] = False,
    ground_truth: Annotated[
        Path | None, typer.Option(help="ImageNet: labels of the validation images, instead of the devkit's.")
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Folders, Parquet: the folder or split that is the evaluation set."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME", help="Parquet: which one of several configurations.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Parquet: the column with the labels.")] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            metavar="ORDER",
            help="Folders, Parquet with names: classes as text (1, 10, 2), natural (1, 2, 10), or a file with a name a line.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Which images belong together (of one patient, one video), so that no split divides them. Parquet: the "
            "column, `group` if it is there. Folders: a CSV file with columns image and group.",
        ),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Folders without labels: weights whose answers become labels; results are agreement.",
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="With --answers: other images, in class folders, on which accuracy is told."
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without images that cannot be used.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Import anew what is there.")] = False,
    json_: AsJson = False,
) -> None:
    """Import a dataset into data/NAME as Parquet, whole or not at all, and track it with DVC.

    A name other than the registered ones takes a folder of class folders or of Parquet files with images, or with --answers
    a folder of images without labels. The closing lines say what was left out, chosen or merged, and which images are there
    twice.
    """
    from quee.data.class_order import order_given
    from quee.data.importers import Options, import_dataset
    from quee.data.walk import some

    target = DATA / name
    refuse_untracked(target)
    new = not target.exists()
    if labelled is not None and answers is None:
        raise UsageError(f"--labelled {labelled}: goes with --answers WEIGHTS, for images without labels")
    order, beside = order_given(class_order), None if labelled is None else str(labelled)
    options = Options(extra, ground_truth, evaluation, config, label, order, group, answers, beside, skip_bad)
    network = None if answers is None else _answering(name, answers, order)
    report = import_dataset(name, source, target, options, replace, _lanes, network)
    track(target, EMBEDDED.get(name), new=new)
    if report.source:
        describe(target.with_name(f"{name}.dvc"), f"from {report.source}")
    found = summary(name)
    if json_:
        typer.echo(json.dumps({**found, "report": report.facts()}, indent=1))
        return
    classes, digest = found["classes"], found["digest"][:12]
    named = f"{counted(len(classes), 'class', 'classes')} ({some(classes, NAMED)})"
    typer.echo(f"added {target}: {counted(found['samples'], 'image')}, {named}, digest {digest}")
    for line in report.lines():
        typer.echo(line)


def _unrecorded(weights: Path) -> Path | None:
    """The file of weights, unless DVC has recorded it: a recorded file is missing where it is not there, not misnamed."""
    from tasks.dvc.inputs import pointer_of

    return weights if pointer_of(Path(), weights) is None else None


def _answering(name: str, weights: str, order: str | tuple[str, ...] | None) -> "Answering":
    from quee.data import DATASETS
    from quee.data.weights_facts import weights_path
    from tasks.answering import answering

    if name in DATASETS:
        raise UsageError(f"--answers does not apply to {name}, whose images have labels; give the images another name")
    if isinstance(order, str):
        raise UsageError(
            f"--class-order {order}: with --answers give a file with a name a line, in the order of the outputs"
        )
    with naming(_unrecorded(weights_path(weights))):
        return answering(weights, dataset_called(name).channels, order)


def _lanes(seconds: float) -> "Lanes":
    from tasks.scale import read_scale

    return read_scale().lanes_for(seconds)


@data_app.command("list")
def list_(json_: AsJson = False) -> None:
    """Show the datasets here, with counts, classes and digest, and where to get the others."""
    from tasks.dvc.inputs import how_to_pull

    rows = [summary(name) for name in names_in(DATA)]
    if json_:
        typer.echo(json.dumps(rows, indent=1))
        return
    wide = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        if row["present"]:
            counts = f"{row['train']} + {row['evaluation']} images"
            classes = counted(len(row["classes"]), "class", "classes")
            typer.echo(f"{row['name']:{wide}} {counts:24} {classes}  digest {row['digest'][:12]}")
            if row["unused"]:
                typer.echo(f"{'':{wide}} not used: {', '.join(row['unused'])}")
        else:
            where = how_to_pull(row["tracked_by"]) if row["tracked_by"] else row["source"]
            typer.echo(f"{row['name']:{wide}} not there: {where}")


@data_app.command("check")
def check(name: Name, json_: AsJson = False) -> None:
    """Decode every image of a dataset and report those that do not decode, by sample id."""
    from quee.data.decode import bad_images
    from quee.data.files import DatasetFiles
    from tasks.dvc.inputs import refuse_unpulled

    known = known_dataset(name, DATA)
    refuse_unpulled(Path(), DATA / name)
    images = DatasetFiles(DATA / name, known)
    faults = []
    for fault in bad_images(images, f"checking {name}"):
        faults.append(fault)
        if not json_:
            typer.echo(fault)
    if json_:
        typer.echo(json.dumps({"name": name, "samples": len(images), "bad": faults}, indent=1))
    if faults:
        raise IntegrityError(f"{DATA / name}: {len(faults):,} of {counted(len(images), 'image')} cannot be decoded")
    if not json_:
        typer.echo(f"{DATA / name}: {counted(len(images), 'image')} can be decoded")


@data_app.command("sheet")
def sheet_(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Picture to write: .png or .webp.")],
    images: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="Number of images on it.")] = 96,
) -> None:
    """Write a picture with examples of a dataset: classes take turns, from the evaluation set where there is one."""
    from quee.data.sheet import sheet
    from quee.data.source import open_dataset
    from quee.work.io import refuse_unwritable, write_bytes
    from tasks.dvc.inputs import refuse_unpulled

    refuse_unwritable(file)
    known_dataset(name, DATA)
    refuse_unpulled(Path(), DATA / name)
    picture = sheet(open_dataset(DATA / name, name), images, file.suffix)
    write_bytes(file, picture)
    typer.echo(f"wrote {file}: {len(picture):,} bytes")


@weights_app.command("add")
def add_weights(
    name: Annotated[str, typer.Argument(help="Name experiments use; that of the backbone unless --backbone is given.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="PyTorch checkpoint or safetensors file, or a folder with config.json beside the weights."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="EXPERIMENT", help="Instead of FILE: what this experiment's stage backbone made."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Backbone the weights must fit; by default what the folder says, NAME, or what the file says."
        ),
    ] = None,
    head: Annotated[Path | None, typer.Option(help="DINOv2: file of the published linear head, to join.")] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(
            metavar="DATASETS",
            help="Data sets whose official training sets they have seen, as imagenet,cifar10; or none.",
        ),
    ] = None,
    seen: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --trained-on: the training images they have seen, if not all; a text file with an original name a line.",
        ),
    ] = None,
    never_seen: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --trained-on: the training images they have never seen, in the same form."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in backbone.kwargs: in_chans=1; a YAML value; repeatable."),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Round to half precision (float16): half the size, read as float32.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace weights of that name.")] = False,
) -> None:
    """Check weights against a backbone, copy them to data/weights/NAME.safetensors, and track them with DVC.

    For published weights, by the names that `quee weights list` shows, quee knows the backbone and the training data. The
    samples that weights have seen are recorded one by one, by their pixels, where their images are here: those of an
    experiment's weights, and of data sets that --trained-on names. So no experiment holds them out, whatever its data are
    called.
    """
    from quee.data.walk import some
    from quee.data.weights import import_weights
    from quee.data.weights_facts import NAME, PUBLISHED, weights_facts, weights_path

    if not NAME.fullmatch(name):
        raise UsageError(f"weights name {name!r}; valid: letters, digits, _ . and -")
    known, target = PUBLISHED.get(name), weights_path(name)
    if target.exists() and not replace:
        raise UsageError(f"{target} is there already; give --replace to replace it")
    if (file is None) == (from_ is None):
        raise UsageError("give FILE, or --from EXPERIMENT")
    if from_ is not None:
        given = {"--backbone": backbone, "--head": head, "--trained-on": trained_on, "--set": set_}
        given |= {"--seen": seen, "--never-seen": never_seen}
        if told := [option for option, value in given.items() if value]:
            raise UsageError(f"{told[0]} goes with FILE; --from {from_} knows it")
        _add_from(from_, name, target, half)
        return
    assert file is not None
    sets = known.trained_on if known else None
    if trained_on is not None:
        sets = () if trained_on == "none" else tuple(part.strip() for part in trained_on.split(","))
        if not all(sets if trained_on != "none" else ("none",)):
            raise UsageError(f"--trained-on {trained_on!r}: give names of data sets, as imagenet,cifar10, or none")
        _refuse_other_spellings(sets)
    chosen = backbone or (known.backbone if known else None)
    refuse_untracked(target)
    new, kwargs = not target.exists(), settings_of(set_ or [])
    keys = _identified(sets or (), seen, never_seen)
    with naming(file), naming(head):
        count = import_weights(chosen, file, target, head, sets, kwargs, keys, half)
    track_as(target, target.with_name(f"{name}.dvc"), new=new)
    facts = weights_facts(target)
    keywords = dict(facts.kwargs or {})
    how = f"the backbone's own; `quee weights check {name} DATASET` measures what the weights want"
    stated = "as stated" if keywords.pop("preprocessing", None) else how
    typer.echo(f"added {target}: {count:,} parameters of {facts.backbone}{_written(keywords)}, {_seen(facts)}")
    typer.echo(f"read as: {facts.read_as}")
    if others := [part for part in sets or () if part not in names_in(DATA)]:
        typer.echo(
            f"no data set is called {', '.join(others)} here; experiments go by names to keep from testing on what was seen"
        )
    if facts.classes is not None:
        named = some(facts.classes, NAMED)
        typer.echo(f"its outputs are called {named}; with mode pretrained, a data set's classes must have these names")
    typer.echo(f"images are prepared with {facts.prepared}; {stated}")


def _identified(names: Sequence[str], seen: Path | None, never_seen: Path | None) -> dict[str, "np.ndarray"]:
    """Keys of the samples that weights have seen, by data set of `names`: of those in a list, or of all training samples.

    Left out are data sets that are not here, and, without a list, those whose images are too large to be kept decoded; their
    names tell then. Raises UsageError for a list without exactly one data set that is here.
    """
    import numpy as np

    from quee.data.identity import sample_keys, samples_named
    from quee.data.source import open_dataset

    if seen is not None and never_seen is not None:
        raise UsageError("--seen and --never-seen: give one of them")
    here = [name for name in names if any((DATA / name).glob("train-*.parquet"))]
    listed, option = (seen, "--seen") if seen is not None else (never_seen, "--never-seen")
    if listed is not None and len(here) != 1:
        raise UsageError(
            f"{option} {listed}: names images of one data set that is here and that --trained-on names; there are "
            f"{len(here)}: {', '.join(here) or 'none'}"
        )
    found = {}
    for name in here:
        images = open_dataset(DATA / name, name)
        ids = np.arange(images.train_samples)
        if listed is not None:
            own = samples_named(images, listed, option)
            ids = own if seen is not None else np.setdiff1d(ids, own)
        elif images.image_size() is None:
            continue
        if len(ids):
            found[name] = sample_keys(images, ids)
    return found


def _written(kwargs: dict[str, Any]) -> str:
    return "".join(f" {key}={json.dumps(value)}" for key, value in kwargs.items())


def _refuse_other_spellings(names: tuple[str, ...]) -> None:
    """Raises UsageError for another spelling of a known data set, which would count as another data set."""
    from quee.data.files import same_name

    here = {same_name(name): name for name in names_in(DATA)}
    for name in names:
        if name not in here.values() and (known := here.get(same_name(name))):
            raise UsageError(f"--trained-on {name}: the data set is called {known} here")
        if name == "none":
            raise UsageError("--trained-on none: stands alone, for weights that have seen no data set")


def _add_from(experiment: str, name: str, target: Path, half: bool) -> None:
    from quee.data.source import open_dataset
    from quee.data.weights import take_weights
    from quee.data.weights_facts import weights_facts
    from quee.settings.experiment import load_experiment
    from quee.work.io import read_json

    dataset = load_experiment(experiment).prepare.dataset  # refuses an unknown name
    results = Path("artifacts") / experiment
    if missing := [stage for stage in ("prepare", "backbone") if not (results / stage).is_dir()]:
        raise UsageError(f"missing folder: {results / missing[0]}; `quee run {experiment}` makes it")
    refuse_untracked(target)
    new = not target.exists()
    images = open_dataset(DATA / dataset, dataset, read_json(results / "prepare" / "dataset.json")["files"])
    count = take_weights(results / "backbone", results / "prepare", target, images, half)
    track_as(target, target.with_name(f"{name}.dvc"), new=new)
    facts = weights_facts(target)
    typer.echo(f"added {target}: {count:,} parameters of {facts.backbone}, {_told(facts)}")
    typer.echo(f"read as: {facts.read_as}")


@weights_app.command("check")
def check_weights(
    name: Annotated[str, typer.Argument(help="Name of weights that `quee weights add` keeps.")],
    dataset: Annotated[str, typer.Argument(help="Data set whose classes they tell.")],
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A field of the preprocessing, instead of measuring it: interpolation=bicubic; repeatable.",
        ),
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            "--class-order",
            "--classes",
            metavar="ORDER",
            help="Order of the outputs: text (1, 10, 2), natural (1, 2, 10), or a file with a name a line.",
        ),
    ] = None,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an order of classes that is found.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Measure what is stated, too; it is never changed.")] = False,
    images: Annotated[int, typer.Option(metavar="N", help="Most images to measure on.")] = MEASURED,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in backbone.kwargs: img_size=32; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and record nothing.")] = False,
    json_: AsJson = False,
) -> None:
    """Measure how images must be prepared for weights, and which output is which class, where no file states it.

    The usual values are tried on labelled training images that no experiment here holds out: size of images, mean and
    deviation, order of channels, crop, interpolation, order of classes. What is clearly best is recorded with the weights,
    where stages read it. Exit status 2 where two values are close, or nothing is above chance; then nothing is recorded.
    """
    from quee.data.weights_facts import weights_path
    from tasks.verbs.measuring import Request, check

    given, kwargs = settings_of(state or [], "--state"), settings_of(set_ or [])
    target = weights_path(name)
    refuse_untracked(target)
    with naming(_unrecorded(target)):
        found = check(Request(name, dataset, images, all_, given, class_order, kwargs))
    if json_:
        typer.echo(json.dumps(found.facts(), indent=1))
    else:
        for line in found.lines():
            typer.echo(line)
    if dry_run and write is None:
        return
    keep_measured(found, write)
    if not json_:
        typer.echo(
            f"recorded in {target}; experiments that use it take it unless backbone.kwargs.preprocessing says otherwise"
        )


def keep_measured(found: "Checked", write: Path | None = None) -> None:
    """Record what was measured with the weights, and track them; raises UsageError where somebody has to decide."""
    from quee.data.weights_facts import weights_path

    target = weights_path(found.request.weights)
    found.refuse_open(write)
    found.record()
    track_as(target, target.with_name(f"{target.stem}.dvc"))


@weights_app.command("list")
def list_weights(json_: AsJson = False) -> None:
    """Show the weights here, with their backbones, and where to get the published ones."""
    from quee.data.weights_facts import PUBLISHED, WEIGHTS, how_to_add_weights, weights_facts
    from quee.work.io import file_digest

    rows: list[dict[str, Any]] = []
    for file in sorted(WEIGHTS.glob("*.safetensors")):
        facts = weights_facts(file)
        digest = file_digest(file)
        known = {
            "backbone": facts.backbone,
            "kwargs": facts.kwargs,
            "classes": facts.classes and list(facts.classes),
            "measured": facts.measured,
            "read_as": facts.read_as,
            "trained_on": facts.trained_on and list(facts.trained_on),
            "fitted_on": facts.fitted and {"dataset": facts.fitted.dataset, "samples": len(facts.fitted.ids)},
            "seen": facts.seen and dict(facts.seen),
            "told": _told(facts),
        }
        rows.append({"name": file.stem, "bytes": file.stat().st_size, "digest": digest, **known})
    if json_:
        typer.echo(json.dumps(rows, indent=1))
        return
    tracked = [file.stem for file in sorted(WEIGHTS.glob("*.dvc"))]
    named = [str(row["name"]) for row in rows]
    absent = [name for name in dict.fromkeys([*tracked, *PUBLISHED]) if name not in named]
    wide = max(map(len, [*named, *absent]))
    for row in rows:
        about = f"{row['backbone']}, {row['told']}"
        typer.echo(f"{row['name']:{wide}} {row['bytes']:>14,} bytes  digest {str(row['digest'])[:12]}  {about}")
    for name in absent:
        typer.echo(f"{name:{wide}} not there: {how_to_add_weights(name)}")


def _told(facts: "WeightsFacts") -> str:
    own = facts.fitted
    fitted = [] if own is None else [f"fitted on {len(own.ids):,} samples of {own.dataset}"]
    measured = [f"measured {facts.measured}"] if facts.measured else []
    said = [_seen(facts)] if facts.trained_on or facts.seen or not fitted else []
    return ", ".join([*fitted, *said, *measured])


def _seen(facts: "WeightsFacts") -> str:
    """The data sets that weights were trained on, with the number of samples that are known one by one."""
    by_sample = {name: f"{name} ({count:,} images, known one by one)" for name, count in (facts.seen or {}).items()}
    names = [by_sample.get(name, name) for name in dict.fromkeys([*(facts.trained_on or ()), *by_sample])]
    if facts.trained_on is None and not names:
        return "trained on unknown data"
    return f"trained on {', '.join(names) or 'nothing registered here'}"


def summary(name: str) -> dict[str, Any]:
    """The row of a dataset in `quee data list`; `digest` covers its files' names and contents."""
    from quee.data.files import DatasetFiles
    from tasks.dvc.inputs import pointer_of

    dataset = dataset_called(name)
    known: dict[str, Any] = {"name": name, "title": dataset.title, "source": dataset.source}
    try:
        images = DatasetFiles(DATA / name, dataset)
    except IntegrityError as error:
        if "missing file" not in str(error):
            raise
        return {**known, "present": False, "tracked_by": pointer_of(Path(), DATA / name)}
    return {
        **known,
        "present": True,
        "samples": len(images),
        "train": images.train_samples,
        "evaluation": images.evaluation_samples,
        **({} if images.answers is None else {"answers": images.answers, "labelled": images.labelled_samples}),
        "classes": list(images.classes),
        "unused": sorted(
            {path.name for path in images.folder.glob("*.parquet")} - {path.name for path in images.files}
        ),
        "digest": _digest(images.digests),
    }


def _digest(files: dict[str, str]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def refuse_untracked(path: Path) -> None:
    """Raises UsageError where DVC could not track a path that is going to be made: behind a link, or with a DVC file that git
    ignores, which DVC refuses."""
    from tasks.dvc.inputs import link_before
    from tasks.dvc.lock import ignored_by

    if not Path(".dvc").is_dir():
        return
    if behind := link_before(Path(), path):
        raise UsageError(f"{path} would not be tracked: {behind}")
    for dvc_file in dict.fromkeys((path.with_name(f"{path.name}.dvc"), path.with_suffix(".dvc"))):
        if rule := ignored_by(Path(), dvc_file):
            raise UsageError(f"{path} would not be tracked: git ignores {dvc_file} by {rule}; change that rule")


def track(path: Path, dvc_file: Path | None = None, *, new: bool = False) -> None:
    """Track a file or folder with DVC, by `dvc add`, or by `dvc commit` where `dvc_file` tracks it already.

    Raises QueeError with DVC's reason. A `new` file or folder is then removed, so that the same command can be repeated.
    """
    if not Path(".dvc").is_dir():
        typer.echo(f"{path} is not tracked: there is no DVC project here", err=True)
        return
    from tasks.dvc.process import run_dvc

    arguments = ["commit", "--force", str(dvc_file)] if dvc_file and dvc_file.is_file() else ["add", str(path)]
    done = run_dvc(Path.cwd(), *arguments)
    if done.status:
        if new:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        state = "was not kept" if new else "is there"
        raise QueeError(f"{path} {state}: DVC did not take it: {done.reason}")


def describe(dvc_file: Path, text: str) -> None:
    """Record a text as the description in a DVC file, if there is one; DVC keeps it when the data change."""
    if not dvc_file.is_file():
        return
    from ruamel.yaml import YAML

    from quee.work.io import write_bytes

    yaml, content = YAML(), io.StringIO()
    found = yaml.load(dvc_file.read_text(encoding="utf-8"))
    found["desc"] = text
    yaml.dump(found, content)
    write_bytes(dvc_file, content.getvalue().encode())


def track_as(path: Path, dvc_file: Path, *, new: bool = False) -> None:
    """Like `track`, with a DVC file of another name than DVC's choice."""
    track(path, dvc_file, new=new)
    made = path.with_name(f"{path.name}.dvc")
    if made.is_file():
        made.rename(dvc_file)
