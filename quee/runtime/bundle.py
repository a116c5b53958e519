"""Loading bundles. Digests are checked before files are read, shapes before anything is executed; there is no pickle."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from quee.ensembles import FILE as ENSEMBLES
from quee.ensembles import Ensembles, read_ensembles
from quee.errors import IntegrityError, QueeError, UsageError, shortened
from quee.features import UNCERTAINTY, GateView, feature_names
from quee.paths import PathTree, read_tree
from quee.policies.base import Basis, Router
from quee.policies.files import PREDICTORS, read_policy, read_predictors
from quee.policies.networks import Predictors
from quee.runtime.canary import Canary
from quee.runtime.classifier import AdaptiveClassifier
from quee.runtime.engines import default_engine, open_engine
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.gate import gate_name
from quee.runtime.manifest import CANARY, NAME, Manifest, check_files, read_manifest, require_fit
from quee.runtime.operating import Point
from quee.runtime.profile import read_profile
from quee.runtime.replaced import read_settled
from quee.runtime.timed import FILE as VALIDATION
from quee.runtime.timed import read_validation
from quee.runtime.view import BundleView
from quee.runtime.watch import Watch
from quee.work.extras import require_package
from quee.work.io import file_digest

FAULTS = (QueeError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError)
"""Errors raised on reading files that do not belong together."""


LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """A bundle's files, read and found to fit together; its networks are not loaded."""

    digest: str
    """SHA-256 of `bundle.json`, which holds the digests of all other files."""
    manifest: Manifest
    description: dict[str, Any]
    """`tree.json`"""
    view: BundleView
    policy: Router
    points: list[Point]
    ensembles: Ensembles | None
    validation: dict[str, np.ndarray]
    canary: Canary | None


def read_bundle(path: str | Path) -> Contents:
    """Read and check a bundle directory; no engine is opened, so that neither PyTorch nor another engine is imported.

    Raises IntegrityError and BusyError as `load_bundle` does. Networks and exit heads are checked against the rest when
    engine torch loads them, exported graphs when an engine is compared with the canary.
    """
    folder = Path(path)
    return read_settled(folder, NAME, lambda: _read_bundle(folder))


def _read_bundle(folder: Path) -> Contents:
    manifest = read_manifest(folder)
    digest = file_digest(folder / NAME)
    check_files(folder, manifest)
    with _fitting(folder):
        tree, description = read_tree(folder)
        _check_tree(folder, manifest, tree, description)
        view = _view(folder, manifest, tree, description)
        policy, points, ensembles = _parts(folder, manifest, tree, description, view)
        validation, canary = read_validation(folder), Canary.read(folder)
        _check_validation(folder, policy, view, validation)
        _check_canary(folder, policy, view, canary, len(manifest.classes))
    _check_same(folder, digest)
    return Contents(digest, manifest, description, view, policy, points, ensembles, validation, canary)


def load_bundle(
    path: str | Path, engine: str | None = None, threads: int | None = None, profiled: bool = True, held: bool = True
) -> AdaptiveClassifier:
    """The classifier of a bundle directory, executed by an engine.

    Args:
        path: Folder of the bundle.
        engine: "torch", the reference, "openvino", "onnxruntime", "auto" or "cuda". The default is "torch", and "auto" where
            PyTorch is not installed.
        threads: Number of threads of the engine; by default the cores that the process may use.
        profiled: Whether the profile beside the bundle is read, if there is one.
        held: Whether the engine is compared with the bundle's canary: an engine of PyTorch with the whole canary at once, one
            of exported graphs with each graph before its first run, and "auto" with each segment and precision before its
            first run.

    Raises:
        IntegrityError: with the reason where a file is missing, unexpected, a foreign link, altered or of another format, or
            where the contents of files do not fit together.
        BusyError: where a pipeline replaces the bundle, and does not end within two minutes.
        DisagreementError: where the engine differs from the reference by more than is allowed; where graphs are compared at
            their first run, that run and all later ones raise it.
        QueeError: that names the extra to install where the engine is missing.
        UsageError: where `path` is no path.
    """
    if not isinstance(path, str | PathLike):
        raise UsageError(f"load_bundle: {shortened(repr(path), 80)} is no path; give the folder of a bundle")
    folder, name = Path(path), engine or default_engine()
    return read_settled(folder, NAME, lambda: _load(folder, name, threads, profiled, held))


def _load(folder: Path, name: str, threads: int | None, profiled: bool, held: bool) -> AdaptiveClassifier:
    read = _read_bundle(folder)
    manifest, canary = read.manifest, read.canary
    runs = open_engine(name, read.view, folder if manifest.graphs else None, threads, canary if held else None)
    _check_same(folder, read.digest)
    found = AdaptiveClassifier(
        read.view,
        read.policy,
        read.policy.costs.routed,
        read.points,
        manifest.classes,
        manifest.budget,
        manifest.model_dump(mode="json"),
        runs,
        read.ensembles,
    )
    found.digest, found.validation, found.canary = read.digest, read.validation, canary
    found.float_cost = read.description.get("float_cost")
    if held and canary is None and name != "torch":
        LOG.warning(
            "%s has no canary, so that engine %s is not held against the reference: make the bundle anew", folder, name
        )
    if held and canary is not None and isinstance(runs, GraphEngine):
        runs.watch = Watch(canary, found.executor)
    elif held and name != "auto":
        found.hold()
    found.profile = read_profile(folder, found.digest) if profiled else None
    return found


def _check_same(folder: Path, digest: str) -> None:
    """Raises IntegrityError where the bundle was replaced since its `bundle.json` had that digest."""
    require_fit(file_digest(folder / NAME) == digest, folder, "it was replaced while it was read")


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Within this block any error of reading files says that they do not fit together."""
    try:
        yield
    except IntegrityError:
        raise
    except FAULTS as error:
        reason = " ".join(str(error).split()) or "unreadable"
        kind = "" if isinstance(error, QueeError) else f"{type(error).__name__}: "
        raise IntegrityError(f"{folder}: its files do not fit together: {kind}{reason}") from error


def _view(folder: Path, manifest: Manifest, tree: PathTree, description: dict[str, Any]) -> BundleView:
    where, names = folder / "tree.json", description["feature_names"]
    embedding = len(names) - len(UNCERTAINTY)
    known = names == feature_names(embedding) and manifest.embedding == (embedding > 0)
    require_fit(known, where, "its features are not those of the heads")

    def load() -> GateView:
        require_package("torch", f"{folder}: loading its networks", "train")
        from quee.export.networks import checked_view  # PyTorch is an extra

        with _fitting(folder):
            return checked_view(folder, manifest, tree, description)

    return BundleView(names, tree.segments, manifest.preprocessing, manifest.embedding, load)


def _parts(
    folder: Path, manifest: Manifest, tree: PathTree, description: dict[str, Any], view: BundleView
) -> tuple[Router, list[Point], Ensembles | None]:
    predictors = read_predictors(folder) if PREDICTORS in manifest.files else None
    if predictors is not None:
        _check_predictors(folder, tree, view, predictors)
    ensembles = read_ensembles(folder) if manifest.ensembles else None
    if ensembles is not None:
        fault = ensembles.fault(tree, len(manifest.classes))
        require_fit(not fault, folder / ENSEMBLES, fault)
    policy = read_policy(folder, manifest.policy, Basis(tree, description, predictors))
    for own in policy.policies().values():
        fits = own.classes in (0, len(manifest.classes))
        require_fit(
            fits, folder, f"policy {manifest.policy} answers {own.classes} classes instead of {len(manifest.classes)}"
        )
    gates = {
        own or manifest.policy: [gate_name(own or manifest.policy, gate) for gate in range(1, tree.segments + 1)]
        for own in policy.policies()
    }
    known = not manifest.gates or {own: list(names) for own, names in manifest.gates.items()} == gates
    require_fit(known, folder / NAME, f"gates are not those of {', '.join(gates)}, from 1 to {tree.segments}")
    points = list(manifest.operating_points)
    # The knob of a policy without a price is the number of one of its points.
    known = policy.priced or all(point.trade_off < len(policy.knobs(0)) for point in points)
    require_fit(known, folder / NAME, f"operating points that policy {manifest.policy} does not have")
    for part in policy.parts(np.array([point.trade_off for point in points])):
        said = {point.policy for point in np.array(points, object)[part.rows]}
        name = part.name or manifest.policy
        require_fit(
            said == {name}, folder / NAME, f"operating points of policy {name} name {', '.join(sorted(said - {name}))}"
        )
    return policy, points, ensembles


def _check_tree(folder: Path, manifest: Manifest, tree: PathTree, description: dict[str, Any]) -> None:
    where, nodes = folder / "tree.json", description["nodes"]
    require_fit([n["node"] for n in nodes] == list(range(len(tree))), where, "its nodes are not numbered in order")
    require_fit([n["parent"] for n in nodes] == tree.parent.tolist(), where, "parents do not fit the paths")
    require_fit([n["gate"] for n in nodes] == tree.gate.tolist(), where, "gates do not fit the paths")
    require_fit(int(tree.gate.max()) == tree.segments, where, f"its paths do not have {tree.segments} segments")
    keys = ("bitflops", "cost", "head_cost", "predictor_cost", "segment_cost")
    costs = np.array([[*(n[key] for key in keys), n.get("ensemble_cost", 0.0)] for n in nodes], dtype=float)
    require_fit(bool(np.isfinite(costs).all() and (costs >= 0).all()), where, "a cost is negative or not finite")
    require_fit(description["unit_bitflops"] > 0, where, "unit_bitflops is not above 0")
    require_fit(description["classes"] == list(manifest.classes), where, "its classes are not those of bundle.json")
    wanted = {str(p): f"{p}.safetensors" for p in tree.precisions if not p.is_float}
    require_fit(
        manifest.precision_files == wanted, folder / "bundle.json", f"precision_files are not {', '.join(wanted)}"
    )
    firsts = {p.first for p in manifest.operating_points}
    known = {b for b, node in enumerate(tree.children[-1]) if node >= 0}
    require_fit(
        firsts <= known, folder / "bundle.json", f"operating points begin with precision {max(firsts)}, unknown here"
    )


def _check_predictors(folder: Path, tree: PathTree, view: BundleView, predictors: Predictors) -> None:
    where, networks = folder / PREDICTORS, predictors.networks
    require_fit(len(networks) == tree.segments - 1, where, f"networks for {len(networks)} gates of {tree.segments - 1}")
    for gate, network in enumerate(networks, 1):
        inputs, outputs = gate * (len(view.names) + len(tree.precisions)), len(tree.suffixes(gate))
        first, last = tuple(network.first.weight.shape), tuple(network.last.weight.shape)
        fits = network.mean.shape == network.scale.shape == (inputs,) and first[1] == inputs
        require_fit(fits, where, f"gate {gate} takes {first[1]} inputs instead of {inputs}")
        require_fit(last == (outputs, first[0]), where, f"gate {gate} gives {last[0]} outputs instead of {outputs}")


def _check_validation(folder: Path, policy: Router, view: BundleView, arrays: dict[str, np.ndarray]) -> None:
    if arrays:
        tree = policy.tree
        where, (samples, nodes, features) = folder / VALIDATION, arrays["features"].shape
        require_fit(
            arrays["error"].shape == (samples, len(tree)) and samples > 0, where, f"{arrays['error'].shape} errors"
        )
        require_fit(arrays.get("group", arrays["error"]).shape[0] == samples, where, "groups of other samples")
        before = int((tree.gate < tree.segments).sum())
        require_fit(
            (nodes, features) == (before, len(view.names)), where, f"features of {nodes} nodes instead of {before}"
        )
        for name, own in policy.policies().items():
            wanted = {f"{name}.carried": (samples, len(tree), own.carries), f"{name}.error": (samples, len(tree))}
            for key, shape in wanted.items() if own.carries else ():
                fits = key in arrays and arrays[key].shape == shape
                require_fit(fits, where, f"{key} missing or not of shape {shape}")


def _check_canary(folder: Path, policy: Router, view: BundleView, canary: Canary | None, classes: int) -> None:
    if canary is not None:
        carried = max(own.carries for own in policy.policies().values())
        fault = canary.fault(policy.tree, view.input.shape, classes, len(view.names), carried)
        require_fit(not fault, folder / CANARY, fault)
