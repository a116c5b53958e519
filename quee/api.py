"""`quee.fit`: the pipeline without any orchestrator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quee.cache.answers import with_ensembles
from quee.cache.build import MANY_CLASSES, describe_tree
from quee.cache.read import FeatureCache, no_references
from quee.cost import trace_cost
from quee.ensembles import as_cached
from quee.errors import UsageError
from quee.evaluation.resplits import fit_policies
from quee.exits.fitting import behind, fit_exits
from quee.export.bundle import write_bundle
from quee.features import GateView
from quee.fitting.checks import (
    aside_of,
    bundle_path,
    check_order,
    check_pixels,
    check_size,
    checked_settings,
    divided,
    rebuilt,
)
from quee.fitting.foreign import COMPARED, as_backbone, refuse_other_answers
from quee.fitting.given import Given, read_beside, read_images, refuse_beside
from quee.fitting.labels import class_indices
from quee.measure import ACCURACY, AGREEMENT, LABELLED, Measure
from quee.network.asking import ask
from quee.network.base import SegmentedBackbone
from quee.network.execution import MICRO_BATCH, MultiPrecisionBackbone, walk_tree
from quee.network.files import save_backbone, save_quantized
from quee.paths import PathTree
from quee.precision import Precision
from quee.quantization.calibration import quantize_paths
from quee.quantization.format_choice import with_formats
from quee.quantization.layers import own_layers
from quee.quantization.mixed import SAMPLES
from quee.runtime.bundle import load_bundle
from quee.runtime.classifier import AdaptiveClassifier
from quee.settings.experiment import Experiment
from quee.settings.quantize import QuantizationConfig
from quee.settings.requirements import policy_faults
from quee.trees.candidates import Found, candidate, rows_of
from quee.trees.search import Search
from quee.trees.settled import Settled
from quee.work.progress import progress

BATCH = 256


def fit(
    model: nn.Module,
    images: Any,
    labels: Any = None,
    out: str | Path = "bundle",
    precisions: Sequence[str] | str = "auto",
    kwargs: Mapping[str, Any] | None = None,
    budget: float = 0.2,
    seed: int = 0,
    *,
    pixels: str = "uint8",
    classes: Sequence[str] | None = None,
    preprocessing: Any = None,
    labelled: tuple[Any, Any] | None = None,
    policy: str = "auto",
) -> AdaptiveClassifier:
    """Make a bundle at `out` from a trained network and images it was not trained on, and load it.

    Half of the images fit the exit heads, and a part of these the quantizers. Three tenths fit the predictors, and the
    rest chooses operating points. The model is not changed.

    Args:
        model: A backbone of `create_backbone`, or a classifier of timm, torchvision or transformers of a family that is
            read here. Such a module may be in training mode, on a GPU or in half precision: a copy is taken in float32.
        images: As `AdaptiveClassifier.route` takes them. Images with labels may also be batches: pairs (images, labels) or
            (image, label) from an iterable, or from a function that returns an iterator. Batches are read once and kept
            beside `out` until the end, one byte per channel at the backbone's size.
        labels: (n,) class indices or names. Images without labels (an array, a list, or batches that are arrays) get the
            float network's own answers as labels; what the bundle calls accuracy is then agreement with the float network,
            and it says so.
        out: Folder of the bundle, which must not exist.
        precisions: Those of the tree, as ["w2a4", "w4a4", "w8a8"], or "auto": up to three, each with bits by layer or
            without, that are chosen by what candidates do on a part of the images (`quee.trees`).
        kwargs: Not needed: compared with the keywords that the backbone was made with, which it remembers.
        budget: Default budget of the bundle, in units of the static w8a8 network.
        seed: Seed of everything that is drawn.
        pixels: "unit" says that arrays hold floats from 0 to 1; "uint8" that they hold bytes.
        classes: Names of the backbone's outputs in their order. Without it, names among the labels are assigned to the
            outputs in sorted order; a warning says so unless the backbone's answers confirm the order.
        preprocessing: A mapping with mean, std, interpolation, crop_pct and img_size, torchvision's `weights.transforms()`,
            or an image processor of transformers. A module of timm says it in its own configuration.
        labelled: With images without labels: a pair of a few hundred other images and their labels. The accuracy on them is
            told at every operating point; nothing is fitted to them.
        policy: What decides at the gates. "auto" takes, by budget, the one that is best on the images that choose.

    Returns:
        The classifier of the bundle at `out`.

    Raises:
        UsageError: for arguments that cannot be fitted, before anything is computed; nothing is left on disk.
    """
    target = bundle_path(out)
    backbone, original = as_backbone(model, preprocessing)
    settings = checked_settings(backbone, precisions, budget, seed, policy)
    own = rebuilt(backbone, kwargs)
    for fault in policy_faults(policy, own.num_classes, "quee.fit: policy"):
        raise UsageError(fault)
    if labels is not None:
        refuse_beside(labelled)
    with aside_of(target) as aside:
        normal = own.input
        with (
            closing(read_images(images, labels, normal, pixels, aside)) as given,
            closing(read_beside(labelled, normal, pixels, aside)) as beside,
        ):
            known = given if given.labels is not None else beside
            truth, names = class_indices(known.labels, classes, own.num_classes)
            parts: dict[str, np.ndarray] = {}
            if given.labels is not None:
                refuse_beside(labelled)
                parts = divided(truth, names, settings.prepare.seed)
            check_pixels(*given.extremes())
            if original is not None:
                refuse_other_answers(own, original, given.batch(np.arange(min(COMPARED, len(given)))))
                if len(known):
                    check_size(own, known, truth)
            if len(known):
                guessed = known.labels is not None and known.labels.named and classes is None
                check_order(own, known, truth, names, guessed)
            if parts:
                _fit(own, given, truth, names, parts, settings, aside)
            else:
                answers = answers_of(own, given)
                parts = divided(answers, names, settings.prepare.seed, answered=True)
                _fit(own, given, answers, names, parts, settings, aside, AGREEMENT, (beside, truth))
        load_bundle(aside / "bundle")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise UsageError(f"{target} was made meanwhile; give a new path")
        (aside / "bundle").rename(target)
    return load_bundle(target)


def _fit(
    own: SegmentedBackbone,
    given: Given,
    indices: np.ndarray,
    names: list[str],
    parts: dict[str, np.ndarray],
    settings: Experiment,
    aside: Path,
    measure: Measure = ACCURACY,
    beside: tuple[Given, np.ndarray] | None = None,
) -> None:
    """Write the bundle `aside/bundle`; `beside` are labelled images with their classes (n,), to which nothing is fitted."""
    models: dict[Precision, SegmentedBackbone] = {Precision("fp32"): own}
    settled = _settled(own, given, indices, parts, settings)
    tree, every = settled.tree, settled.configs(settings.quantize)
    configs = [every[precision] for precision in tree.precisions if not precision.is_float]
    if configs:
        batches = list(given.batch(parts["calibration"]).split(64))
        models.update(quantize_paths(own, configs, batches, settings.prepare.seed))
    multi = MultiPrecisionBackbone(models)
    train = parts["train"]
    prefixes = behind(settings.exits, tree.precisions)
    steps = -(-len(train) // BATCH)
    absent = set(range(own.num_classes)) - set(indices[train].tolist())  # classes that were never answered
    heads, _ = fit_exits(
        multi, prefixes, lambda _: drawn(given, indices, train), settings.exits, steps, len(train), absent
    )
    view = GateView(multi, heads, embedding=True)
    description = describe_tree("fit", tree, [], trace_cost(own, layers=own_layers(own, configs)), view, names)
    description |= measure.facts
    own_heads = _cache(multi, view, tree, description, given, indices, parts, beside)
    cache = with_ensembles(own_heads, settings.targets.ensemble)
    basis, learned = fit_policies(cache, settings)
    work, result, judged = aside / "work", aside / "bundle", np.sort(parts["validation"])
    work.mkdir()
    result.mkdir()
    assert own.made_with is not None
    save_backbone(work, own, own.made_with)
    for precision, model in models.items():
        if not precision.is_float:
            save_quantized(work, precision, model)
    heads.save(work / "heads.safetensors")
    write_bundle(
        result,
        "fit",
        work,
        work,
        work / "heads.safetensors",
        cache,
        basis,
        learned,
        settings.bundle.policy,
        settings.bundle.budget,
        names,
        lambda ids: given.batch(ids).numpy(),
        floating=_answers(own, given, judged) != indices[judged],
    )


def _settled(
    own: SegmentedBackbone, given: Given, indices: np.ndarray, parts: dict[str, np.ndarray], settings: Experiment
) -> Settled:
    """The tree, as named or chosen on split validation."""
    rows = rows_of(parts, settings.quantize.seed)

    def images(ids: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        for start in range(0, len(ids), MICRO_BATCH):
            part = ids[start : start + MICRO_BATCH]
            yield given.batch(part), indices[part]

    def measure(configs: Mapping[str, QuantizationConfig]) -> dict[str, Found]:
        found = {}
        with progress("candidates for the tree", len(configs)) as bar:
            for name, config in configs.items():
                found[name] = candidate(own, config, images, rows)
                bar.advance()
        return found

    few = given.batch(rows.calibration)
    rounded = with_formats(own, [QuantizationConfig("w4a4")], few)[0].float_products
    products = {} if rounded == "auto" else {"format": rounded}  # `auto` stays where there are no such products
    search = Search(
        own, settings.paths, settings.quantize, products, lambda: few[:SAMPLES], measure, indices[rows.fitted],
        indices[rows.judged], settings.quantize.seed,
    )  # fmt: skip
    return search.settle()


def drawn(given: Given, indices: np.ndarray, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels (n,) of all rows. One batch is in memory at a time."""
    for start in range(0, len(rows), BATCH):
        ids = rows[start : start + BATCH]
        yield given.batch(ids), torch.from_numpy(indices[ids])


def answers_of(own: SegmentedBackbone, given: Given) -> np.ndarray:
    """The float network's answers (n,); raises UsageError where it answers one class alone."""
    found = _answers(own, given, np.arange(len(given)))
    if len(found) and (found == found[0]).all():
        raise UsageError(
            f"the network answers class {found[0]} to each of {len(found)} images without labels: is preprocessing= right?"
        )
    return found


def _answers(own: SegmentedBackbone, given: Given, rows: np.ndarray) -> np.ndarray:
    """The float network's answers (n,) to the images of rows (n,)."""
    with progress("answers of the float network", len(rows)) as bar:

        def batches() -> Iterator[Tensor]:
            for start in range(0, len(rows), MICRO_BATCH):
                part = rows[start : start + MICRO_BATCH]
                yield given.batch(part)
                bar.advance(len(part))

        return ask(own, batches())


def _batch(given: Given, beside: tuple[Given, np.ndarray] | None, ids: np.ndarray) -> Tensor:
    """Images of ids (n,), rising: those of `given`, then those beside."""
    if beside is None or ids[-1] < len(given):
        return given.batch(ids)
    own, other = ids[ids < len(given)], ids[ids >= len(given)] - len(given)
    return torch.cat([given.batch(own), beside[0].batch(other)]) if len(own) else beside[0].batch(other)


def _cache(
    backbone: MultiPrecisionBackbone,
    view: GateView,
    tree: PathTree,
    description: dict[str, Any],
    given: Given,
    labels: np.ndarray,
    parts: dict[str, np.ndarray],
    beside: tuple[Given, np.ndarray] | None = None,
) -> FeatureCache:
    """The feature cache of own heads of the rows outside `train`, in memory, then of the labelled images beside them."""
    kept = np.sort(np.concatenate([parts["predictor"], parts["validation"]]))
    split = np.where(np.isin(kept, parts["validation"]), "validation", "predictor").astype(object)
    first = len(given)  # of the ids of the images beside
    if beside is not None:
        kept = np.append(kept, first + np.arange(len(beside[0])))
        split = np.append(split, np.full(len(beside[0]), LABELLED, object))
        labels = np.append(labels, beside[1])
    prediction = np.zeros((len(kept), len(tree)), np.int32)
    p_label = np.zeros((len(kept), len(tree)), np.float32)
    features = np.zeros((len(kept), len(tree), len(view.names)), np.float32)
    classes = view.backbone.classes
    heads = None if classes > MANY_CLASSES else np.zeros((*prediction.shape, classes), np.float16)
    with progress("features", len(kept)) as bar:
        for start in range(0, len(kept), BATCH):
            rows = slice(start, start + BATCH)
            own = kept[rows]
            for node, state in walk_tree(backbone, tree, _batch(given, beside, own)):
                log_probs, features[rows, node] = view(int(tree.gate[node]), tree.paths[node][-1], state)
                prediction[rows, node] = log_probs.argmax(axis=1)
                p_label[rows, node] = np.exp(log_probs[np.arange(len(own)), labels[own]])
                if heads is not None:
                    heads[rows, node] = as_cached(log_probs)
            bar.advance(len(own))
    label = labels[kept].astype(np.int32)
    return FeatureCache(
        tree,
        description,
        kept,
        split,
        label,
        prediction,
        prediction != label[:, None],
        p_label,
        features,
        **no_references(len(kept), len(view.names)),
        head_log_probs=heads,
    )
