"""Loading bundles. Digests are checked before files are read, shapes before anything is executed; there is no pickle."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quee.ensembles import FILE as ENSEMBLES
from quee.ensembles import Ensembles, read_ensembles
from quee.errors import IntegrityError, QueeError, UsageError
from quee.exits.heads import ExitHeads, sizes
from quee.features import GateView
from quee.network.architectures import outside_files
from quee.network.base import SegmentedBackbone
from quee.network.files import load_precisions
from quee.paths import PathTree, read_tree
from quee.policies.base import Basis, Router
from quee.policies.files import PREDICTORS, read_policy, read_predictors
from quee.policies.networks import Predictors
from quee.precision import Precision
from quee.runtime.canary import Canary
from quee.runtime.classifier import AdaptiveClassifier
from quee.runtime.engines import open_engine
from quee.runtime.manifest import CANARY, NAME, Manifest, check_files, read_manifest
from quee.runtime.operating import Point
from quee.runtime.profile import read_profile
from quee.runtime.timed import FILE as VALIDATION
from quee.runtime.timed import read_validation
from quee.work.io import file_digest, read_json

FAULTS = (QueeError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError)
"""Errors raised on reading files that do not belong together."""


LOG = logging.getLogger(__name__)


def load_bundle(
    path: str | Path, engine: str = "torch", threads: int | None = None, profiled: bool = True, held: bool = True
) -> AdaptiveClassifier:
    """The classifier of a bundle directory, executed by an engine; with its profile, if there is one and `profiled` is true.

    Unless `held` is false, the engine is compared with the bundle's canary: with the whole canary at once, or by `auto`
    with each segment and precision before its first run. Raises IntegrityError with the reason where a file is missing,
    unexpected, a foreign link, altered or of another format, or where the contents of files do not fit together;
    DisagreementError where the engine differs from the reference by more than is allowed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    try:
        view, policy, points, ensembles = _parts(folder, manifest)
        validation = read_validation(folder)
        _check_validation(folder, policy, view, validation)
        canary = Canary.read(folder)
        _check_canary(folder, policy, view, canary)
    except IntegrityError:
        raise
    except FAULTS as error:
        reason = " ".join(str(error).split()) or "unreadable"
        kind = "" if isinstance(error, QueeError) else f"{type(error).__name__}: "
        raise IntegrityError(f"{folder}: its files do not fit together: {kind}{reason}") from error
    graphs = folder if manifest.graphs else None
    runs = open_engine(engine, view, graphs, threads, canary if held else None)
    facts = manifest.model_dump(mode="json")
    found = AdaptiveClassifier(
        view, policy, policy.costs.routed, points, manifest.classes, manifest.budget, facts, runs, ensembles
    )
    found.digest, found.validation, found.canary = file_digest(folder / NAME), validation, canary
    if held and canary is None and engine != "torch":
        LOG.warning(
            "%s has no canary, so that engine %s is not held against the reference: make the bundle anew",
            folder,
            engine,
        )
    if held and engine != "auto":
        found.hold()
    found.profile = read_profile(folder, found.digest) if profiled else None
    return found


def load_view(folder: Path, precisions: Sequence[str], embedding: bool) -> GateView:
    """The networks and exit heads of a bundle's folder. Raises IntegrityError where a network would read other files."""
    kwargs = read_json(folder / "backbone.json")["kwargs"]
    if outside := outside_files(kwargs):
        raise IntegrityError(f"{folder / 'backbone.json'}: {outside[0]!r} is not allowed: bundles read no other files")
    backbone = load_precisions(folder, folder, map(Precision, precisions))
    return GateView(backbone, ExitHeads.load(folder / "heads.safetensors", backbone.first), embedding)


def _parts(folder: Path, manifest: Manifest) -> tuple[GateView, Router, list[Point], Ensembles | None]:
    tree, description = read_tree(folder)
    _check_tree(folder, manifest, tree, description)
    view = load_view(folder, description["precisions"], manifest.embedding)
    _check_view(folder, manifest, tree, description, view)
    predictors = read_predictors(folder) if PREDICTORS in manifest.files else None
    if predictors is not None:
        _check_predictors(folder, tree, view, predictors)
    ensembles = read_ensembles(folder) if manifest.ensembles else None
    if ensembles is not None:
        fault = ensembles.fault(tree, len(manifest.classes))
        _fit(not fault, folder / ENSEMBLES, fault)
    policy = read_policy(folder, manifest.policy, Basis(tree, description, predictors))
    for own in policy.policies().values():
        fits = own.classes in (0, len(manifest.classes))
        _fit(fits, folder, f"policy {manifest.policy} answers {own.classes} classes instead of {len(manifest.classes)}")
    points = list(manifest.operating_points)
    # The knob of a policy without a price is the number of one of its points.
    known = policy.priced or all(point.trade_off < len(policy.knobs(0)) for point in points)
    _fit(known, folder / NAME, f"operating points that policy {manifest.policy} does not have")
    for part in policy.parts(np.array([point.trade_off for point in points])):
        said = {point.policy for point in np.array(points, object)[part.rows]}
        name = part.name or manifest.policy
        _fit(
            said == {name}, folder / NAME, f"operating points of policy {name} name {', '.join(sorted(said - {name}))}"
        )
    return view, policy, points, ensembles


def _fit(good: bool, where: Path, what: str) -> None:
    if not good:
        raise IntegrityError(f"{where}: {what}")


def _check_tree(folder: Path, manifest: Manifest, tree: PathTree, description: dict[str, Any]) -> None:
    where, nodes = folder / "tree.json", description["nodes"]
    _fit([n["node"] for n in nodes] == list(range(len(tree))), where, "its nodes are not numbered in order")
    _fit([n["parent"] for n in nodes] == tree.parent.tolist(), where, "parents do not fit the paths")
    _fit([n["gate"] for n in nodes] == tree.gate.tolist(), where, "gates do not fit the paths")
    _fit(int(tree.gate.max()) == tree.segments, where, f"its paths do not have {tree.segments} segments")
    keys = ("bitflops", "cost", "head_cost", "predictor_cost", "segment_cost")
    costs = np.array([[*(n[key] for key in keys), n.get("ensemble_cost", 0.0)] for n in nodes], dtype=float)
    _fit(bool(np.isfinite(costs).all() and (costs >= 0).all()), where, "a cost is negative or not finite")
    _fit(description["unit_bitflops"] > 0, where, "unit_bitflops is not above 0")
    _fit(description["classes"] == list(manifest.classes), where, "its classes are not those of bundle.json")
    wanted = {str(p): f"{p}.safetensors" for p in tree.precisions if not p.is_float}
    _fit(manifest.precision_files == wanted, folder / "bundle.json", f"precision_files are not {', '.join(wanted)}")
    firsts = {p.first for p in manifest.operating_points}
    known = {b for b, node in enumerate(tree.children[-1]) if node >= 0}
    _fit(firsts <= known, folder / "bundle.json", f"operating points begin with precision {max(firsts)}, unknown here")


def _check_view(folder: Path, manifest: Manifest, tree: PathTree, description: dict[str, Any], view: GateView) -> None:
    backbone, heads, where = view.backbone, view.heads, folder / "heads.safetensors"
    model = backbone.models[Precision("fp32")]
    _fit(backbone.segments == tree.segments, folder / "tree.json", f"the backbone has {backbone.segments} segments")
    _fit(
        len(manifest.classes) == backbone.classes,
        folder / "bundle.json",
        f"the backbone has {backbone.classes} classes",
    )
    _fit(len(heads.heads) == tree.segments, where, f"heads for {len(heads.heads)} gates of {tree.segments}")
    for gate, head in enumerate(heads.heads, 1):
        last = gate == tree.segments
        _fit((not head.classifiers) == last, where, f"gate {gate} has a head too many or few")
        wanted = (0, 0) if last else (_pooled_width(model, gate, head.pooling, where), backbone.classes)
        for classifier in head.classifiers.values():
            for layers in (classifier.floating, classifier.quantized):
                found = sizes(layers)
                _fit((found[0], found[-1]) == wanted, where, f"gate {gate}: {found} instead of {wanted}")
        plain = (heads.embedding, _pooled_width(model, gate, model.global_pooling, where))
        shape = None if head.projection is None else tuple(head.projection.weight.shape)
        _fit(shape in (None, plain), where, f"gate {gate}: {shape} instead of {plain}")
        _fit((shape is None) == (not heads.embedding), where, f"gate {gate}: embedding missing or left over")
    _fit(description["feature_names"] == view.names, folder / "tree.json", "its features are not those of the heads")
    if manifest.preprocessing is not None:
        _fit(manifest.preprocessing == model.input, folder / "bundle.json", "preprocessing is not the backbone's")


def _pooled_width(model: SegmentedBackbone, gate: int, pooling: str, where: Path) -> int:
    """Length of a pooled state at a gate; raises IntegrityError for a pooling that the backbone does not have."""
    try:
        return model.pooled_width(gate, pooling)
    except UsageError as error:
        raise IntegrityError(f"{where}: {error}") from None


def _check_predictors(folder: Path, tree: PathTree, view: GateView, predictors: Predictors) -> None:
    where, networks = folder / PREDICTORS, predictors.networks
    _fit(len(networks) == tree.segments - 1, where, f"networks for {len(networks)} gates of {tree.segments - 1}")
    for gate, network in enumerate(networks, 1):
        inputs, outputs = gate * (len(view.names) + len(tree.precisions)), len(tree.suffixes(gate))
        first, last = tuple(network.first.weight.shape), tuple(network.last.weight.shape)
        fits = network.mean.shape == network.scale.shape == (inputs,) and first[1] == inputs
        _fit(fits, where, f"gate {gate} takes {first[1]} inputs instead of {inputs}")
        _fit(last == (outputs, first[0]), where, f"gate {gate} gives {last[0]} outputs instead of {outputs}")


def _check_validation(folder: Path, policy: Router, view: GateView, arrays: dict[str, np.ndarray]) -> None:
    if arrays:
        tree = policy.tree
        where, (samples, nodes, features) = folder / VALIDATION, arrays["features"].shape
        _fit(arrays["error"].shape == (samples, len(tree)) and samples > 0, where, f"{arrays['error'].shape} errors")
        _fit(arrays.get("group", arrays["error"]).shape[0] == samples, where, "groups of other samples")
        before = int((tree.gate < tree.segments).sum())
        _fit((nodes, features) == (before, len(view.names)), where, f"features of {nodes} nodes instead of {before}")
        for name, own in policy.policies().items():
            wanted = {f"{name}.carried": (samples, len(tree), own.carries), f"{name}.error": (samples, len(tree))}
            for key, shape in wanted.items() if own.carries else ():
                _fit(key in arrays and arrays[key].shape == shape, where, f"{key} missing or not of shape {shape}")


def _check_canary(folder: Path, policy: Router, view: GateView, canary: Canary | None) -> None:
    if canary is not None:
        image = view.backbone.models[Precision("fp32")].input.shape
        carried = max(own.carries for own in policy.policies().values())
        fault = canary.fault(policy.tree, image, view.backbone.classes, len(view.names), carried)
        _fit(not fault, folder / CANARY, fault)
