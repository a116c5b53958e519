"""Stage `backbone`: the float backbone, which is trained, finetuned, probed, or used as it is."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from quee.cost import trace_cost
from quee.data.class_order import has_names
from quee.data.fitted import refuse_held_out
from quee.data.identity import sample_keys
from quee.data.source import ImageSource, open_dataset
from quee.data.splits import split_ids, thinned
from quee.data.walk import some
from quee.data.weights import head_classes, load_weights, refuse_other_kwargs, refuse_overlap
from quee.data.weights_facts import PUBLISHED, built_with, has_seen, seen_samples, weights_facts, weights_path
from quee.errors import UsageError
from quee.exits.gates import FITTED, JUDGED, choose_gates
from quee.measure import LABELLED
from quee.network.answers import above_chance, find_order
from quee.network.architectures import create_backbone, is_headless
from quee.network.asking import ask
from quee.network.base import SegmentedBackbone
from quee.network.device import place
from quee.network.execution import MICRO_BATCH
from quee.network.files import save_backbone
from quee.network.predictions import Networks, predict
from quee.network.sizes import candidates
from quee.network.unstated import Answers, Pixels, better_size
from quee.precision import Precision
from quee.settings.backbone import Backbone
from quee.settings.requirements import check_classes, check_head
from quee.settings.sets import HELD_OUT
from quee.work.io import file_digest, read_json, write_json, write_table
from quee.work.store import Store
from quee.work.threads import spare_threads
from tasks.scale import Scale, read_scale
from tasks.stage import Stage, main
from tasks.training import train

FP32 = Precision("fp32")
ASKED, LEAST = 256, 50
"""Most and fewest training images on which pretrained weights are checked."""
SAME = 0.999
"""Least share of equal answers of a float network on two CPUs."""
SVC_LIMIT = 200_000
"""Pixels × samples up to which the support vector machine is fitted for comparison."""


def run(stage: Stage) -> None:
    """Make the backbone and record its accuracy; for small data also that of an RBF support vector machine.

    The settings of stage `features` decide where accuracy is computed; the result does not depend on it.
    """
    scale = read_scale()
    store = scale.store(stage)
    settings, prepared = stage.experiment.backbone, stage.input("prepare")
    described = read_json(prepared / "dataset.json")
    images = open_dataset(stage.data, stage.experiment.prepare.dataset, described["files"])
    ids = split_ids(prepared / "splits.parquet")
    facts: dict[str, Any] = {"fitted_on": ids["train"].tolist(), "mode": settings.mode}
    if settings.weights is not None:
        facts |= weights_record(stage, images, ids)
    torch.manual_seed(settings.seed)
    backbone, kwargs = build(settings, described["classes"])
    if settings.mode == "pretrained":
        asked = thinned(ids["train"], ASKED, seed=0)
        check_answers(stage, backbone, images, asked, scale.device)
        if settings.weights not in PUBLISHED and "img_size" not in kwargs:
            check_size(stage, backbone, images, asked, scale.device)
    macs = trace_cost(backbone).macs
    spare_threads(macs)
    history, trained = train(stage, backbone, images, ids, scale, macs)
    facts |= trained
    save_backbone(stage.out, backbone, kwargs, **facts)
    if settings.fixed_gates is None:
        backbone.set_gates(measured_gates(stage, backbone, images, described["files"], ids, scale, store))
        save_backbone(stage.out, backbone, kwargs, **facts)
    write_table(stage.out / "history.parquet", pa.table(history.columns()))
    networks = Networks.at(
        stage.data, stage.experiment.prepare.dataset, described["files"], stage.out, device=scale.device
    )
    own = isinstance(facts["fitted_on"], list) and len(facts["fitted_on"]) > 0  # fitted on samples of these splits
    if own and settings.mode == "pretrained" and settings.weights is not None:
        own = weights_facts(weights_path(settings.weights)).own
    known = ("train", "validation", "test") if own else ("validation", "test")
    told = [split for split in (*known, LABELLED) if len(ids[split])]
    rows = np.concatenate([ids[split] for split in told])
    lanes = scale.lanes(macs * len(rows))
    found = predict(networks, [FP32], rows, store, scale.shard_size, lanes, "evaluating the backbone")
    right = np.split(found[FP32] == images.labels[rows], np.cumsum([len(ids[split]) for split in told])[:-1])
    accuracy = {split: float(part.mean()) for split, part in zip(told, right, strict=True)}
    metrics = {
        "accuracy": accuracy,
        "device": scale.device,
        "macs": macs,
        **images.measure.facts,
        "parameters": sum(p.numel() for p in backbone.parameters()),
    }
    small = images.image_size() is not None and len(ids["train"]) * prod(backbone.input.size) <= SVC_LIMIT
    if own and small:  # pixels of images of one size alone can be compared
        x = {
            split: np.asarray(images.decode(ids[split])).reshape(len(ids[split]), -1) / 255
            for split in ("train", "test")
        }
        from sklearn.svm import SVC  # slow to import, and needed here only

        svc = SVC().fit(x["train"], images.labels[ids["train"]])
        metrics["svc_accuracy"] = float(svc.score(x["test"], images.labels[ids["test"]]))
    _refuse_other_answers(images, accuracy)
    write_json(stage.out / "metrics.json", metrics)


def _refuse_other_answers(images: ImageSource, found: Mapping[str, float]) -> None:
    """Refuse a backbone that is not the network whose answers are the labels; near ties may differ between CPUs."""
    least = min(share for split, share in found.items() if split != LABELLED)
    if images.answers is not None and least < SAME:
        raise UsageError(
            f"backbone: {100 * least:.1f} % of its answers are those of {images.answers['weights']!r}, which are the labels of "
            f"{images.folder}: it prepares images in another way; `quee data add {images.folder.name} SOURCE --answers "
            f"{images.answers['weights']} --replace` makes them anew"
        )


def measured_gates(
    stage: Stage,
    backbone: SegmentedBackbone,
    images: ImageSource,
    files: dict[str, str],
    ids: Mapping[str, np.ndarray],
    scale: Scale,
    store: Store,
) -> tuple[int, ...]:
    """The gates chosen for the backbone in `stage.out`; writes what they were chosen from to `gates.json`."""
    settings = stage.experiment.backbone
    judged = thinned(ids["validation"], JUDGED, settings.seed)
    rows = np.union1d(thinned(ids["train"], FITTED, settings.seed), judged)
    networks = Networks.at(stage.data, stage.experiment.prepare.dataset, files, stage.out, device=scale.device)
    lanes = scale.lanes(trace_cost(backbone).macs * len(rows))
    labels, held = images.labels[rows], np.isin(rows, judged)
    choice = choose_gates(networks, backbone, settings.segments, rows, labels, held, store, lanes)
    write_json(stage.out / "gates.json", choice.record)
    print(f"gates after blocks {list(choice.gates)}: {choice.record['reason']}", flush=True)
    return choice.gates


def weights_record(stage: Stage, images: ImageSource, ids: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The facts of `backbone.json` about pretrained weights.

    Samples of another data set count as the whole of that data set. Raises UsageError where the weights have seen
    held-out samples, or were added for a backbone with other keywords.
    """
    settings, dataset = stage.experiment.backbone, stage.experiment.prepare.dataset
    assert settings.weights is not None
    path = weights_path(settings.weights)
    known = weights_facts(path)
    refuse_overlap(stage.experiment, known)
    refuse_other_kwargs(settings, known)
    seen = seen_samples(settings.weights, images, dataset)
    elsewhere = {known.fitted.dataset} if known.fitted is not None and seen is None else set()
    record: dict[str, Any] = {
        "weights": {
            "name": settings.weights,
            "sha256": file_digest(path),
            "trained_on": None if known.trained_on is None else sorted({*known.trained_on, *elsewhere}),
        }
    }
    if seen is not None:
        _refuse_seen(stage, settings.weights, np.flatnonzero(seen), ids, images, by_key=known.seen is not None)
    by_name = dataset in (known.trained_on or ()) and dataset not in (known.seen or ())
    if seen is not None and not by_name and not _is_training_set(seen, images):
        now = ids["train"][:0] if settings.mode == "pretrained" else ids["train"]
        record["fitted_on"] = np.union1d(np.flatnonzero(seen), now).tolist()  # earlier training still counts
    elif (seen is not None and not by_name) or has_seen(known, dataset, settings.mode):
        record["fitted_on"] = "official training set"
    elif settings.mode == "pretrained":
        record["fitted_on"] = []
    return record


def _is_training_set(seen: np.ndarray, images: ImageSource) -> bool:
    """Whether the samples seen (N,) are those of the official training set, of which there is an evaluation set beside."""
    cut = images.train_samples
    return cut < len(seen) and bool(seen[:cut].all())


def _refuse_seen(
    stage: Stage,
    name: str,
    seen: np.ndarray,
    ids: Mapping[str, np.ndarray],
    images: ImageSource,
    by_key: bool,
) -> None:
    """Refuse weights that have seen held-out samples. A smoke run draws its own splits, so it prints the refusal.

    Samples that are known `by_key` are known with all their copies. A copy of a sample that is not held out is the data
    set's own doing and stays; the number is printed.
    """
    held_out = {split: own for split, own in ids.items() if split in (*HELD_OUT, LABELLED)}
    if by_key:
        every = np.concatenate(list(held_out.values()))
        suspect = np.intersect1d(every, seen)
        if len(suspect):
            others = np.setdiff1d(np.arange(len(images)), every)
            copies = suspect[np.isin(sample_keys(images, suspect), sample_keys(images, others))]
            if len(copies):
                print(f"held-out samples that equal others of {stage.data}: {len(copies):,}", flush=True)
            seen = np.setdiff1d(seen, copies)
    try:
        refuse_held_out(name, seen, held_out)
    except UsageError as error:
        if stage.limit is None:
            raise
        print(f"smoke run: {error}", flush=True)


def build(settings: Backbone, names: Sequence[str]) -> tuple[SegmentedBackbone, dict[str, Any]]:
    """The backbone with its starting weights and a head for the classes `names`, and the kwargs that build it again.

    Images are prepared as the settings say, else as the weights say, else as the backbone's own configuration says.
    Raises UsageError where kwargs or the weights' own head are for other classes.
    """
    kwargs, classes = built_with(settings), len(names)
    if "num_classes" not in kwargs and is_headless(settings.name):
        kwargs["num_classes"] = classes
    path = None if settings.weights is None else weights_path(settings.weights)
    check_classes(settings, classes)
    if path is not None:
        _say_changed(settings, weights_facts(path).preprocessing)
    backbone = create_backbone(settings.name, settings.fixed_gates, **kwargs)
    if backbone.num_classes != classes:
        kwargs["num_classes"] = classes
        torch.manual_seed(settings.seed)
        backbone = create_backbone(settings.name, settings.fixed_gates, **kwargs)
    if path is not None:
        own = head_classes(path)
        check_head(settings, classes)
        other = own != classes or settings.mode == "linear_probe" or _of_other_classes(settings, path, names)
        load_weights(backbone, path, other, names)
    return backbone, kwargs


def _of_other_classes(settings: Backbone, path: Path, names: Sequence[str]) -> bool:
    """Whether training needs a new head because the weights' outputs have other names; prints it then."""
    outputs = weights_facts(path).classes
    if not settings.trains or outputs is None or has_names(outputs, names):
        return False
    print(
        f"a new head: the outputs of {settings.weights!r} are called {some(outputs, 5)}, not {some(names, 5)}",
        flush=True,
    )
    return True


def _say_changed(settings: Backbone, recorded: Mapping[str, Any]) -> None:
    """Print where an experiment prepares images in another way than its weights say."""
    for key, value in settings.kwargs.get("preprocessing", {}).items():
        if key in recorded and recorded[key] != value:
            told = f"weights {settings.weights!r} say {recorded[key]}"
            print(f"backbone.kwargs.preprocessing.{key}: {value}, as the experiment says; {told}", flush=True)


def check_answers(stage: Stage, backbone: SegmentedBackbone, images: ImageSource, ids: np.ndarray, device: str) -> None:
    """Refuse a pretrained backbone whose answers to training images `ids` are not above chance, or fit another order of
    classes.

    Nothing else tells weights whose images are prepared in another way than in their training. A smoke run has too few
    images to tell and is not checked.
    """
    if stage.limit is not None or len(ids) < LEAST:
        return
    truth, classes = images.labels[ids], images.classes
    backbone.to(place(device))
    answer = ask(backbone, (x for _, x, _ in images.batches(ids, backbone.input, MICRO_BATCH)))
    backbone.cpu()
    name, right = stage.experiment.backbone.weights, f"{100 * float((answer == truth).mean()):.1f} %"
    how = (
        f"`quee weights check {name} {stage.experiment.prepare.dataset}` measures how images must be prepared for them"
    )
    order = find_order(answer, truth, classes, np.arange(len(classes)))
    if order is not None:
        known = order.words or "an order of its own"
        raise UsageError(
            f"backbone.weights: {right} of {name!r}'s answers to {len(ids)} training images are right, but "
            f"{100 * order.found:.0f} % where its outputs are in another order ({known}); {how}, and the order"
        )
    if not above_chance(answer, truth):
        raise UsageError(
            f"backbone.weights: {right} of {name!r}'s answers to {len(ids)} training images are right, which is not "
            f"above chance; {how}"
        )
    print(images.measure.said(f"accuracy on {len(ids)} training images: {right}, with {backbone.input}"), flush=True)


def check_size(stage: Stage, backbone: SegmentedBackbone, images: ImageSource, ids: np.ndarray, device: str) -> None:
    """Refuse a size of images that nobody stated where answers to training images `ids` are clearly better at another."""
    if stage.limit is not None or len(ids) < LEAST:
        return
    pixels: Pixels = lambda first, last, transform: images.fitted(ids[first:last], transform)  # noqa: E731
    sizes, meant = candidates(backbone, images.image_size()), np.arange(len(images.classes))
    backbone.to(place(device))
    better = better_size(Answers(backbone, pixels, images.labels[ids], meant, sizes))
    backbone.cpu()
    if better is not None:
        name, dataset = stage.experiment.backbone.weights, stage.experiment.prepare.dataset
        raise UsageError(
            f"backbone.weights: {better}; `quee weights check {name} {dataset}` records the size with the weights, or "
            f"backbone.kwargs.img_size states it: {backbone.input.size[0]} to keep it"
        )


if __name__ == "__main__":
    main(run)
