"""Bundles: a directory with everything the classifier needs, every file checked by its digest; no pickle, no links."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quee.cache import FeatureCache
from quee.errors import IntegrityError
from quee.evaluation.methods import routed_sweep
from quee.evaluation.sweep import Setting, Sweep
from quee.exits import ExitHeads
from quee.features import GateView
from quee.io import FORMAT, file_digest, read_json, read_tensors, verify_digests, write_json, write_tensors
from quee.paths import PathTree
from quee.policies import Costs, FittedQ, Plan
from quee.precision import Precision
from quee.predictors import Predictors
from quee.runtime.classifier import AdaptiveClassifier
from quee.runtime.operating import Point
from quee.store import load_precisions

CARD = """# {name}

An adaptive classifier: each image takes its own path through the network, by predicted error and cost.

- classes: {classes}
- precisions: {precisions}; segments: {segments}
- policy: {policy}; default budget: {budget} of the static w8a8 network
- on validation it spends {low:.3f} to {high:.3f}, with accuracy {worst:.4f} to {best:.4f}

A budget holds on average over data like the validation data. Costs are BitFLOPs, not milliseconds.
"""


def policy_costs(tree: PathTree, description: dict[str, Any], policy: Plan | FittedQ) -> Costs:
    """Costs with the policy's own decisions counted."""
    spend = policy.bitflops if isinstance(policy, FittedQ) else policy.predictors.bitflops
    return Costs.of(tree, description, [spend(gate) for gate in range(1, tree.segments)])


def operating_points(sweep: Sweep, tree: PathTree) -> list[Point]:
    """The sweep's points by rising validation cost, none dearer than one more accurate on validation."""
    assert sweep.nodes is not None
    nodes, points = sweep.nodes["validation"], []
    cost, accuracy = sweep.costs["validation"].mean(axis=0), 1 - sweep.errors["validation"].mean(axis=0)
    for point in sweep.order:
        first = int(tree.choice[tree.lineage(int(nodes[0, point]))[0]])
        points.append(Point(float(sweep.values[point]), first, float(cost[point]), float(accuracy[point])))
    return points


def write_bundle(
    out: Path,
    name: str,
    backbone: Path,
    quantized: Path,
    heads: Path,
    cache: FeatureCache,
    predictors: Predictors,
    fitted: FittedQ,
    policy: str,
    budget: float,
    classes: list[str],
) -> None:
    """Write a bundle into the folder `out`; `policy` is `plan` or `fitted_q`, chosen points come from validation."""
    tree, description = cache.tree, cache.description
    chosen: Plan | FittedQ = fitted if policy == "fitted_q" else fitted.plan
    costs = policy_costs(tree, description, chosen)
    setting = Setting({"validation": cache.of("validation")}, Costs.of(tree, description))
    points = operating_points(routed_sweep(policy, setting, chosen, costs), tree)
    needed = set(tree.precisions)
    files = [(backbone / "model.safetensors", "model.safetensors"), (heads, "heads.safetensors")]
    files += [(quantized / f"{p}.safetensors", f"{p}.safetensors") for p in sorted(needed) if not p.is_float]
    for source, target in files:
        shutil.copyfile(source, out / target)
    facts = read_json(backbone / "backbone.json")
    write_json(out / "backbone.json", {k: facts[k] for k in ("format", "gates", "kwargs", "name")})
    write_tensors(out / "predictors.safetensors", predictors.arrays())
    write_tensors(out / "fitted_q.safetensors", fitted.arrays())
    kept = {k: v for k, v in description.items() if k not in ("files", "references", "reference_precisions")}
    write_json(out / "tree.json", kept)
    card = CARD.format(
        name=f"quee-{name}",
        classes=len(classes),
        precisions=", ".join(map(str, tree.precisions)),
        segments=tree.segments,
        policy=policy,
        budget=budget,
        low=points[0].cost,
        high=points[-1].cost,
        worst=points[0].accuracy,
        best=max(p.accuracy for p in points),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    checksums = {path.name: file_digest(path) for path in sorted(out.iterdir())}
    write_json(
        out / "bundle.json",
        {
            "budget": budget,
            "classes": classes,
            "embedding": len(description["feature_names"]) > 4,
            "experiment": name,
            "files": checksums,
            "format": FORMAT,
            "operating_points": [asdict(p) for p in points],
            "policy": policy,
            "precision_files": {str(p): f"{p}.safetensors" for p in sorted(needed) if not p.is_float},
        },
    )


def load_bundle(path: str | Path) -> AdaptiveClassifier:
    """The classifier of a bundle directory.

    Raises IntegrityError with the reason when a file is missing, left over, a link, altered, or of another format.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise IntegrityError(f"no bundle at {folder}: not a directory")
    description = read_json(folder / "bundle.json")
    if description.get("format") != FORMAT:
        raise IntegrityError(f"{folder}: bundle format {description.get('format')!r}; this version reads {FORMAT}")
    present = {file.name for file in folder.iterdir()} - {"bundle.json"}
    expected = set(description["files"])
    if present != expected:
        raise IntegrityError(f"{folder}: missing or left-over files: {', '.join(sorted(present ^ expected))}")
    if links := [file.name for file in folder.iterdir() if file.is_symlink() or not file.is_file()]:
        raise IntegrityError(f"{folder}: {links[0]} is not a plain file")
    verify_digests(folder, description["files"])
    tree_description = read_json(folder / "tree.json")
    names = [node["path"] for node in tree_description["nodes"]]
    tree = PathTree.from_names(tree_description["precisions"], tree_description["segments"], names)
    backbone = load_precisions(folder, folder, map(Precision, tree_description["precisions"]))
    view = GateView(backbone, ExitHeads.load(folder / "heads.safetensors"), description["embedding"])
    predictors = Predictors.from_arrays(read_tensors(folder / "predictors.safetensors"))
    spent = [predictors.bitflops(gate) for gate in range(1, tree.segments)]
    plan = Plan(tree, Costs.of(tree, tree_description, spent), predictors)
    policy: Plan | FittedQ = plan
    if description["policy"] == "fitted_q":
        policy = FittedQ.from_arrays(plan, read_tensors(folder / "fitted_q.safetensors"))
    costs: np.ndarray = policy_costs(tree, tree_description, policy).routed
    points = [Point(**point) for point in description["operating_points"]]
    return AdaptiveClassifier(view, policy, costs, points, description["classes"], description["budget"], description)
