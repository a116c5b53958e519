"""`quee plan EXPERIMENT --measure N`: every stage on a few synthetic images at full size, and what the whole will take here.

The experiment runs twice, on N and on fewer JPEGs of each official set, with random weights, in a project of its own. What
grows between the two, per unit of a stage's work, is taken to grow on; the rest is its start. Stages run on one core, and
those that share their work among cores are reckoned to be as many times faster. Accuracy means nothing here.
"""

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from quee.data import DATA, dataset_called
from quee.errors import UsageError
from quee.settings.experiment import load_experiment, read_content
from quee.settings.sets import HELD_OUT, sets_of
from quee.work.counts import counted
from quee.work.io import read_json
from quee.work.machine import cpu_name
from quee.work.threads import cores
from tasks.dvc.experiments import FILE, paths_of
from tasks.dvc.lock import stage_names
from tasks.dvc.process import environment, run_logged
from tasks.dvc.session import StageError
from tasks.scale import FILE as MACHINE
from tasks.scale import read_scale
from tasks.stage import INTERRUPTED, artifacts_of
from tasks.stages import SETTINGS
from tasks.verbs.forecast import TRAINING

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment

PLACE = Path(".quee") / "rehearsal"
LEAST, FEWER = 32, 4
"""Fewest images of a set in a run, and the part of N that the first of the two runs has where that is no fewer."""
VARIED = (375, 500)
"""Height and width of a synthetic image of a data set whose images differ in size: ImageNet's usual ones."""
QUALITY = 92
"""Of the JPEGs: with it those of ImageNet's size have 100 kB, ImageNet's 110."""
SHARED = ("backbone", "tree", "quantize", "exits", "features")
"""Stages whose work is shared among all cores; the others are reckoned to take as long on many cores as on few."""
FIXED = ("report", "bundle")
"""Stages that take as long on many images as on few."""
HOLDING, COPIES = ("targets", "predictors", "policies", "evaluate", "report", "bundle"), 3
"""Stages that hold the feature cache in memory, and how many times over: its columns, and what is derived of them."""


@dataclass(frozen=True)
class Whole:
    """A data set as it is published."""

    training: int
    evaluation: int
    size: tuple[int, int] | None = None
    """Height and width; None where images are as the registry says."""


PUBLISHED = {
    "cifar10": Whole(50_000, 10_000),
    "cifar100": Whole(50_000, 10_000),
    "imagenet": Whole(1_281_167, 50_000, VARIED),
    "mnist": Whole(60_000, 10_000),
    "svhn": Whole(73_257, 26_032),
}
"""Data sets that need not be here."""


@dataclass(frozen=True)
class Run:
    """What a stage took on so many images of each set."""

    units: float
    """Its work, in units that are the same in both runs and in the whole."""
    seconds: float
    cpu: float
    """Seconds of a core."""
    bytes: float
    """Of its result."""
    memory: float
    """Bytes of its process at most."""


@dataclass(frozen=True)
class Projected:
    """A stage's run on the whole data set."""

    stage: str
    measured: float
    """Seconds on the larger number of images."""
    core_seconds: float | None
    """None where it took no longer on more images, so that nothing can be projected."""
    seconds: float | None
    """On this machine's cores."""
    bytes: float
    memory: float


@dataclass(frozen=True)
class Rehearsal:
    """What an experiment will take here."""

    experiment: str
    images: int
    """Synthetic images of each set."""
    whole: int
    """Images of both official sets."""
    stages: list[Projected]

    def to_json(self) -> dict[str, Any]:
        machine = {"cores": cores(), "processor": cpu_name()}
        return {**asdict(self), "machine": machine}

    def lines(self) -> list[str]:
        """A table of 80 columns."""
        lines = [
            f"{self.experiment}: {self.whole:,} images, projected from {self.images:,} synthetic ones of each set;",
            f"{cpu_name()}, {counted(cores(), 'core')} as busy as now",
            f"{'stage':<12}{'measured':>11}{'hours of a core':>18}{'hours here':>13}{'memory':>12}{'disk':>12}",
        ]
        lines += [_line(f"{one.stage:<12}{one.measured:>9.1f} s", one) for one in self.stages]
        sums = {
            key: sum(getattr(one, key) or 0.0 for one in self.stages)
            for key in ("measured", "core_seconds", "seconds", "bytes")
        }
        whole = Projected("all", **sums, memory=max(one.memory for one in self.stages))
        lines.append(_line(f"{'all':<12}{whole.measured:>9.1f} s", whole))
        if unknown := [one.stage for one in self.stages if one.core_seconds is None]:
            lines += [
                f"?: took no longer on {self.images:,} images than on fewer, so nothing can be said: {', '.join(unknown)}.",
                "They are not in the sum. A quieter machine or more images tell.",
            ]
        return lines


def _line(start: str, one: Projected) -> str:
    core, here = ("?" if value is None else f"{value / 3600:.2f}" for value in (one.core_seconds, one.seconds))
    return f"{start}{core:>18}{here:>13}{one.memory / 1e9:>9.1f} GB{one.bytes / 1e6:>9,.0f} MB"


def rehearse(root: Path, name: str, images: int, show: Callable[[str], None]) -> Rehearsal:
    """Run all stages of an experiment on few images; `show` gets a line per stage.

    Raises UsageError where there are too few images or the whole is not known, and StageError naming the log of a stage
    that failed.
    """
    read_scale(file=root / MACHINE).refuse_absent()
    experiment = load_experiment(name, root / "experiments")
    least = max(LEAST, 2 * len(dataset_called(experiment.prepare.dataset).classes))
    if images < 2 * least:
        raise UsageError(f"--measure {images}: {name} needs at least {2 * least} images of each set")
    whole = _whole(root, experiment)
    runs = []
    for count in (max(images // FEWER, least), images):
        place = root / PLACE / f"{name}-{count}"
        shutil.rmtree(place, ignore_errors=True)
        runs.append(_run(root, place, experiment, count, whole, show))
        shutil.rmtree(place)
    full = _splits(experiment, whole)
    few, many, held = *runs, cache_bytes(experiment, full)
    found = [projected(stage, few[stage], many[stage], units(stage, experiment, full), held) for stage in many]
    return Rehearsal(name, images, full["images"], found)


def units(stage: str, experiment: "Experiment", samples: Mapping[str, int]) -> float:
    """A stage's work by the numbers of samples: of splits, `calibration`, and `images` of both official sets."""
    from quee.network.schedule import steps_in_all
    from quee.trees.candidates import CALIBRATION, CALIBRATION_PASSES, FITTED, JUDGED

    settings, train = experiment.backbone, samples["train"]
    held_out = sum(samples[split] for split in HELD_OUT)
    evaluated = samples["validation"] + samples["test"]
    if stage == "backbone" and settings.mode != "pretrained":
        passes = steps_in_all(settings, train) * settings.batch_size if settings.trains else train
        return evaluated + TRAINING * passes
    if stage == "tree":
        calibrated = CALIBRATION_PASSES * min(CALIBRATION, samples["calibration"])
        return calibrated + min(FITTED, train) + min(JUDGED, samples["validation"])
    found = {
        "prepare": samples["images"],
        "backbone": evaluated,
        "quantize": CALIBRATION_PASSES * samples["calibration"] + samples["validation"],
        "exits": min(train, experiment.exits.max_samples or train),
        "targets": samples["predictor"],
        "predictors": samples["predictor"],
        "policies": samples["predictor"],
    }
    return float(found.get(stage, held_out))


def _whole(root: Path, experiment: "Experiment") -> Whole:
    """The data set that is here, or the published one."""
    from quee.data.source import open_dataset

    dataset = experiment.prepare.dataset
    if any((root / DATA / dataset).glob("*.parquet")):
        found = open_dataset(root / DATA / dataset, dataset)
        return Whole(found.train_samples, found.evaluation_samples, found.image_size() or VARIED)
    if dataset in PUBLISHED:
        return PUBLISHED[dataset]
    raise UsageError(
        f"experiments/{experiment.name}.yaml: data set {dataset!r} is not here, and how large it is is not known; known: "
        f"{', '.join(PUBLISHED)}"
    )


def _splits(experiment: "Experiment", whole: Whole) -> dict[str, int]:
    """Numbers of samples by split, with `calibration` and `images`."""
    splits, limit = experiment.prepare.splits, experiment.prepare.limit
    training, evaluation = (min(size, limit or size) for size in (whole.training, whole.evaluation))
    per_set = {"pooled": [training + evaluation], "never_seen": [training, training, evaluation]}
    found: dict[str, int] = {}
    counts = per_set.get(splits.evaluation_set, [training, evaluation])
    for count, names in zip(counts, sets_of(splits.evaluation_set), strict=True):
        found |= {name: round(getattr(splits, name) * count) for name in names}
    return {
        **found,
        "calibration": min(splits.calibration, found["train"]),
        "images": whole.training + whole.evaluation,
    }


def _run(
    root: Path, place: Path, experiment: "Experiment", count: int, whole: Whole, show: Callable[[str], None]
) -> dict[str, Run]:
    """All stages on so many images of each set; by stage."""
    make_project(root, place, experiment, count, whole)
    small = load_experiment(experiment.name, place / "experiments")
    artifacts, found = place / artifacts_of(experiment.name, count), dict[str, Run]()
    alone = {"QUEE_EXECUTOR": "inline", "QUEE_WORKERS": "1", "QUEE_DASK": "", "QUEE_SHARDS": ""}
    for stage in (SETTINGS, *stage_names(root)):
        log, began = place / f"{stage}.log", (time.perf_counter(), _cpu())
        command = [sys.executable, "-m", f"tasks.{stage}", experiment.name, "--limit", str(count)]
        status = run_logged(command, log, place, {**environment(), **alone}, None)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            raise StageError(f"rehearsal: stage {stage} failed on {count} images\nlog: {log}", status)
        if stage == SETTINGS:
            continue
        (record,) = (artifacts / "journal").glob(f"*-{stage}-*.json")
        known = read_json(record)
        counts = {
            **dict.fromkeys(("train", *HELD_OUT), 0),
            **read_json(artifacts / "prepare" / "dataset.json")["splits"],
        }
        counts |= {"calibration": min(small.prepare.splits.calibration, counts["train"]), "images": 2 * count}
        seconds, cpu = time.perf_counter() - began[0], _cpu() - began[1]
        found[stage] = Run(units(stage, small, counts), seconds, cpu, known["bytes"], known["peak_bytes"])
        show(
            f"  {stage:<12}{count:>6,} images {seconds:8.1f} s {cpu:8.1f} s of a core {known['peak_bytes'] / 1e9:6.1f} GB"
        )
    return found


def _cpu() -> float:
    """Seconds of a core that ended child processes took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def projected(stage: str, few: Run, many: Run, units: float, held: float = 0.0) -> Projected:
    """What grew from one run to the other grows on with the units of the whole; the rest stays.

    Of memory only `held` grows, the bytes of the feature cache in stages that hold it: others work in batches.
    """
    wider = many.units - few.units
    further = 0.0 if stage in FIXED or wider <= 0 else max(0.0, units - many.units) / wider
    cpu, size = further * (many.cpu - few.cpu), further * max(0.0, many.bytes - few.bytes)
    memory = many.memory + (COPIES * held if stage in HOLDING else 0)
    if further and cpu <= 0:
        return Projected(stage, many.seconds, None, None, many.bytes + size, memory)
    here = many.seconds + cpu / (cores() if stage in SHARED else 1)
    return Projected(stage, many.seconds, many.cpu + cpu, here, many.bytes + size, memory)


def cache_bytes(experiment: "Experiment", samples: Mapping[str, int]) -> float:
    """Of the feature cache in memory, for the largest tree that the settings allow."""
    from quee.features import feature_names
    from quee.trees.shape import largest
    from tasks.work.space import ROW_BYTES

    nodes = len(largest(experiment.paths, experiment.backbone.segments))
    row = ROW_BYTES + 4 * len(feature_names(experiment.exits.embedding if experiment.features.embedding else 0))
    return float(sum(samples[split] for split in HELD_OUT) * nodes * row)


def make_project(root: Path, place: Path, experiment: "Experiment", count: int, whole: Whole) -> None:
    """A project of the experiment alone, with so many synthetic images of each set and random weights."""
    from quee.data.weights_facts import weights_path

    dataset = dataset_called(experiment.prepare.dataset)
    classes = dataset.classes or tuple(f"class {number}" for number in range(count // 2))
    (place / "experiments").mkdir(parents=True)
    file = Path("experiments") / f"{experiment.name}.yaml"
    blocks = shrunk(read_content((root / file).read_text(encoding="utf-8"), str(file)), experiment, count)
    (place / file).write_text(yaml.safe_dump(blocks), encoding="utf-8")
    shutil.copy(root / "dvc.yaml", place / "dvc.yaml")
    (place / FILE).write_text(
        yaml.safe_dump({"experiments": {experiment.name: paths_of(experiment)}}), encoding="utf-8"
    )
    write_data(place / DATA / experiment.prepare.dataset, count, classes, whole.size or dataset.size, dataset.channels)
    if (name := experiment.backbone.weights) is not None:
        write_weights(place / weights_path(name), root, experiment, len(classes))


def shrunk(blocks: dict[str, Any], experiment: "Experiment", count: int) -> dict[str, Any]:
    """The experiment's blocks with shares and sizes for so few images. Repetitions, such as seeds, stay."""
    splits = experiment.prepare.splits
    held_out = {name: getattr(splits, name) for name in HELD_OUT}
    use = splits.evaluation_set
    if use == "held_out":
        total = sum(held_out.values())
        shares: dict[str, Any] = {
            "train": 1.0,
            **{name: share / total for name, share in held_out.items()},
            "folds": splits.folds,
        }
        train = count
    elif use == "pooled":
        shares = {"train": splits.train, **held_out, "folds": splits.folds}
        train = int(2 * count * splits.train)
    else:  # official sets that the network has not seen are divided alike
        use, shares, train = (
            "test",
            {"train": 0.5, "predictor": 0.3, "validation": 0.1, "certification": 0.1, "test": 1.0},
            count // 2,
        )
    blocks = {name: dict(block or {}) for name, block in blocks.items()}
    prepare, backbone = blocks["prepare"], blocks["backbone"]
    prepare.pop("limit", None)
    prepare["splits"] = {**shares, "evaluation_set": use, "calibration": max(16, min(splits.calibration, train))}
    for key in ("images", "sizes", "drawn"):
        backbone.pop(key, None)
    if experiment.backbone.mode != "pretrained":
        backbone.update(epochs=2, batch_size=max(2, min(experiment.backbone.batch_size, train // 2)), warmup_epochs=0)
    clusters = max(2, int(count * shares["predictor"]) // 4)
    targets = blocks.setdefault("targets", {})
    targets["clusters"] = min(experiment.targets.clusters, clusters)
    targets["sweep"] = sorted({min(number, clusters) for number in experiment.targets.sweep})
    return blocks


def write_data(folder: Path, count: int, classes: tuple[str, ...], size: tuple[int, int], channels: int) -> None:
    """`count` JPEGs of clouds for each official set, classes in turn."""
    from quee.data.writer import Sample, write_images

    folder.mkdir(parents=True)
    for number, name in enumerate(("train", "test")):
        random = np.random.default_rng(number)
        samples = (Sample(cloud(random, size, channels), f"{k}.jpg", k % len(classes)) for k in range(count))
        write_images(folder / f"{name}-00000-of-00001.parquet", samples, classes)


def cloud(random: np.random.Generator, size: tuple[int, int], channels: int) -> bytes:
    """A JPEG with equal contrast at every scale, as photographs have it."""
    from PIL import Image

    height, width = size
    total = np.zeros((height, width, channels))
    side = 2
    while side < 2 * max(size):
        grid = random.normal(size=(min(side, height), min(side, width), channels))
        layers = [
            np.asarray(
                Image.fromarray(grid[..., k].astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
            )
            for k in range(channels)
        ]
        total += np.stack(layers, axis=-1)
        side *= 2
    total -= total.min()
    pixels = np.rint(255 * total / total.max()).astype(np.uint8)
    data = BytesIO()
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def write_weights(target: Path, root: Path, experiment: "Experiment", classes: int) -> None:
    """Random weights under the name that the experiment has for its own."""
    import torch

    from quee.data.weights import import_weights
    from quee.data.weights_facts import PUBLISHED as PUBLIC
    from quee.data.weights_facts import weights_facts, weights_path
    from quee.network.architectures import create_backbone

    settings = experiment.backbone
    assert settings.weights is not None
    known, here = PUBLIC.get(settings.weights), root / weights_path(settings.weights)
    if known is None and not here.is_file():
        raise UsageError(
            f"backbone.weights: {settings.weights!r} are not here, and what network they are of is not known"
        )
    told = weights_facts(here).kwargs if here.is_file() else None
    kwargs = {key: value for key, value in {**(told or {}), **settings.kwargs}.items() if key != "num_classes"}
    torch.manual_seed(0)
    backbone = create_backbone(settings.name, num_classes=classes, **kwargs)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(backbone.state_dict(), Path(folder) / "weights.pth")
        own = {**kwargs, "num_classes": classes}
        import_weights(settings.name, Path(folder) / "weights.pth", target, kwargs=own, trained_on=())
