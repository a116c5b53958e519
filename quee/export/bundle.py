"""Writing bundles: a directory with everything the classifier needs, and a card for people."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from quee.cache.read import FeatureCache
from quee.ensembles import FILE as ENSEMBLES
from quee.errors import UsageError
from quee.evaluation.losses import REPEATS, accuracy_losses
from quee.evaluation.measured import float_errors
from quee.export.canary import write_canary
from quee.export.gates import export_gates
from quee.export.graphs import export_graphs
from quee.export.networks import load_view
from quee.export.torch_engine import TorchEngine
from quee.features import UNCERTAINTY
from quee.intervals import interval, resamples
from quee.measure import ACCURACY, LABELLED, Measure, measure_of
from quee.policies.base import Basis, Router
from quee.policies.files import PREDICTORS, write_policy
from quee.policies.registry import deployable
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.precision import Precision
from quee.runtime.executor import Executor
from quee.runtime.manifest import seal
from quee.runtime.operating import Guarantee, Point
from quee.runtime.timed import write_validation
from quee.work.io import read_json, write_json, write_tensors

CARD = """# {name}

An adaptive image classifier: each image takes its own path through one network, in which segments run at different
precisions and easy images leave early. {decides}

| | |
| --- | --- |
| backbone | {backbone}, {segments} segments |
| input | {height} × {width} pixels, {channels} channel(s), resized and cropped by the classifier |
| classes | {classes} |
| precisions | {precisions} |
| policy | {policy}; default budget {budget} |
{measured}
On validation data, cost 1 being the static w8a8 network:

{table}

In brackets where the mean on new data will be (95 %, bootstrap over validation samples); points below the float network with
what they are at most (95 %, for all points at once). A budget is a ceiling: less is spent where more does not show.
{guaranteed}

## Use

```python
classifier = quee.load_bundle("this folder")
classifier.predict(images, budget={budget})  # class indices; `explain` says why
classifier.predict(images, accuracy_loss=1.0)  # the cheapest point that loses at most 1 point to the float network
```

`quee verify` checks every file, with `--execute` also what engines make of the images in `canary.safetensors`: a few
of the validation split. `quee predict` classifies files. Nothing here is executed code or a pickle.

## Limits

A budget holds on average over images like the validation data, not for every image (`max_cost` does) and not when the
images change. Accuracies are those the operating points were chosen by, so a little too good; the experiment's report
has those on test data. Costs are BitFLOPs, not milliseconds. The classifier always answers, also to what is no image of
any class.
"""


PREDICTED = """What is predicted at each gate is the probability of error of every way on, and
what that way costs."""
GATES = "Each gate decides by policy {policy}, from what its exit head says."


def operating_points(sweep: Sweep, name: str, floating: np.ndarray | None = None) -> list[Point]:
    """The points of a deployed policy's sweep by rising validation cost, with intervals for the means on new data, and what
    serves budgets and accuracy losses.

    `name` is that of the policy; `floating` (V,) are the float network's errors on the validation samples, None where they are
    not known.
    """
    assert sweep.knobs is not None and sweep.first is not None
    points, names = [], sweep.policies or (name,) * len(sweep.knobs)
    costs, correct = sweep.costs["validation"], 1.0 - sweep.errors["validation"]
    labelled = _labelled(sweep)
    weights = resamples(len(costs), REPEATS, 0, sweep.groups)
    cost_ends, accuracy_ends = (np.stack(interval(weights @ v), axis=1).tolist() for v in (costs, correct))
    losses: list[tuple[float | None, float | None]] = [(None, None)] * costs.shape[1]
    if floating is not None:
        found = accuracy_losses(sweep.errors["validation"], floating, REPEATS, groups=sweep.groups)
        losses = list(zip(*(values.tolist() for values in found), strict=True))
    for number, point in enumerate(sweep.order.tolist()):
        cost, accuracy = float(costs[:, point].mean()), float(correct[:, point].mean())
        around_accuracy, around_cost = _holding(accuracy, accuracy_ends[point]), _holding(cost, cost_ends[point])
        around_accuracy = (max(around_accuracy[0], 0.0), min(around_accuracy[1], 1.0))
        at = Point(
            float(sweep.knobs[point]),
            int(sweep.first[point]),
            cost,
            accuracy,
            around_accuracy,
            around_cost,
            labelled=None if labelled is None else labelled[point],
            policy=names[point],
            taken=sweep.taken(number),
            accuracy_loss=losses[point][0],
            accuracy_loss_limit=losses[point][1],
        )
        points.append(at)
    return points


def _labelled(sweep: Sweep) -> list[tuple[float, float, float]] | None:
    """Accuracy on the labelled images and its interval at each point; None where all images are labelled, or none is."""
    if LABELLED not in sweep.errors:
        return None
    correct = 1.0 - sweep.errors[LABELLED]
    means, ends = correct.mean(axis=0), interval(resamples(len(correct), REPEATS, 0) @ correct)
    around = [_holding(float(mean), (float(low), float(high))) for mean, low, high in zip(means, *ends, strict=True)]
    return [(float(mean), max(low, 0.0), min(high, 1.0)) for mean, (low, high) in zip(means, around, strict=True)]


def _holding(mean: float, ends: Sequence[float]) -> tuple[float, float]:
    """The interval, widened to hold the mean, from which it may differ by rounding."""
    return min(mean, ends[0]), max(mean, ends[1])


def guarantees_of(certification: Mapping[str, Any], method: str, policy: str) -> list[Guarantee]:
    """One method's guarantees from `evaluate`'s block `certification`; statements that were not certified are left out.

    `policy` is the method's name in the registry, which its points bear where they are not of several policies.
    """
    found = []
    for what, by_limit in sorted(certification["methods"].get(method, {}).items()):
        for limit, by_kind in sorted(by_limit.items(), key=lambda item: float(item[0])):
            for kind, point in sorted(by_kind.items()):
                if point is not None:
                    facts = (certification["delta"], certification["samples"])
                    where = (point["lambda"], point["validation_cost"], certification["reference"])
                    at = (point["policy"] or policy, point["knob"])
                    found.append(Guarantee(what, float(limit), kind, *facts, *where, *at))
    return found


def write_bundle(
    out: Path,
    name: str,
    backbone: Path,
    quantized: Path,
    heads: Path,
    cache: FeatureCache,
    basis: Basis,
    learned: Mapping[str, Router],
    policy: str,
    budget: float,
    classes: list[str],
    images: Callable[[np.ndarray], np.ndarray],
    guarantees: Sequence[Guarantee] = (),
    trade_offs: int = 120,
    floating: np.ndarray | None = None,
) -> None:
    """Write a bundle into the folder `out`; its points come from validation.

    `policy` names a deployable entry of the registry: one of the policies in `learned`, or one fitted on validation.
    `images(ids)` gives prepared images (n, c, h, w) of samples of the cache; a few are kept as the canary. `guarantees`
    are the policy's own, from a sweep of `trade_offs` trade-offs. `floating` (V,) are the float network's errors on the
    validation samples, by default those of the cache, if it has them.
    """
    tree, description, method = basis.tree, basis.description, deployable()[policy]
    beside = len(cache.of(LABELLED))
    splits = ("validation", LABELLED) if beside else ("validation",)
    setting, measure = replace(Setting.of(cache, splits, points=trade_offs), policies=learned), measure_of(description)
    chosen = method.of(setting)
    if chosen is None:
        raise UsageError(f"bundle.policy: {policy} cannot be fitted without samples in split 'predictor'")
    floating = float_errors(setting, "validation") if floating is None else floating
    points = operating_points(routed_sweep(policy, setting, chosen), policy, floating)
    used = list(dict.fromkeys(point.policy for point in points))
    predicts = any(deployable()[name].learned for name in used)
    files = [(backbone / "model.safetensors", "model.safetensors"), (heads, "heads.safetensors")]
    quantised = {str(p): f"{p}.safetensors" for p in sorted(tree.precisions) if not p.is_float}
    files += [(quantized / target, target) for target in quantised.values()]
    for source, target in files:
        shutil.copyfile(source, out / target)
    facts = read_json(backbone / "backbone.json")
    write_json(out / "backbone.json", {k: facts[k] for k in ("format", "gates", "kwargs", "name")})
    if predicts and basis.predictors is not None:
        write_tensors(out / PREDICTORS, basis.predictors.arrays())
    write_policy(out, policy, chosen)
    if cache.ensembles is not None:
        write_tensors(out / ENSEMBLES, cache.ensembles.arrays())
    kept = {k: v for k, v in description.items() if k not in ("files", "references", "reference_precisions")}
    write_json(out / "tree.json", kept)
    write_validation(out, cache.of("validation"), chosen)
    embedding = len(description["feature_names"]) > len(UNCERTAINTY)
    view = load_view(out, description["precisions"], embedding)
    executor = Executor(TorchEngine(view), chosen, len(view.names), cache.ensembles)
    write_canary(out, executor, points, cache.of("validation").sample_id, images)
    graphs = defaultdict(list)
    for graph in sorted(export_graphs(view, tree.precisions, out)):  # `PRECISION.segmentN.onnx`
        graphs[graph.partition(".")[0]].append(graph)
    seen = len(description["feature_names"])
    sizes = (len(classes), seen, seen - len(UNCERTAINTY))
    gates = export_gates(chosen, policy, cache.ensembles, *sizes, out)
    transform = view.backbone.models[Precision("fp32")].input
    shown = points[:: max(1, -(-len(points) // 8))]
    card = measure.said(CARD).format(
        name=f"quee-{name}",
        decides=PREDICTED if predicts else GATES.format(policy=", ".join(used)),
        backbone=facts["name"],
        segments=tree.segments,
        height=transform.size[0],
        width=transform.size[1],
        channels=transform.channels,
        classes=len(classes),
        precisions=", ".join(map(str, tree.precisions)),
        policy=policy if used == [policy] else f"{policy} ({', '.join(used)})",
        budget=budget,
        measured=_measured(measure, beside),
        table=_table(measure, shown),
        guaranteed=measure.said(_guaranteed(guarantees)),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    seal(
        out,
        {
            "budget": budget,
            "canary": True,
            "classes": classes,
            "embedding": embedding,
            "ensembles": cache.ensembles is not None,
            "experiment": name,
            "gates": gates,
            "graphs": graphs,
            "guarantees": [asdict(g) for g in guarantees],
            "operating_points": [_kept(p) for p in points],
            "policy": policy,
            "precision_files": quantised,
            "preprocessing": transform.facts(),
            **measure.facts,
        },
    )


def _kept(point: Point) -> dict[str, Any]:
    """A point's entry in `bundle.json`; `labelled` is there only where images were labelled beside others."""
    facts = asdict(point)
    if point.labelled is None:
        del facts["labelled"]
    return facts


def _measured(measure: Measure, labelled: int) -> str:
    """What agreement is, for the card; empty where images are labelled."""
    if measure is ACCURACY:
        return ""
    beside = f"Accuracy is that on {labelled:,} labelled images beside them.\n" if labelled else ""
    return (
        f"\nThe images had no labels: agreement is with {measure.against}, and says nothing of their errors.\n{beside}"
    )


def _table(measure: Measure, points: Sequence[Point]) -> str:
    columns = ["mean cost", measure.name, "points below the float network"]
    columns += ["accuracy, labelled images"] if points[0].labelled else []
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    return "\n".join([*lines, *map(_row, points)])


def _row(point: Point) -> str:
    cost, accuracy = (
        "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
        for ends in (point.cost_interval, point.accuracy_interval)
    )
    lost = "–"
    if point.accuracy_loss is not None and point.accuracy_loss_limit is not None:
        lost = f"{point.accuracy_loss:.2f} [at most {point.accuracy_loss_limit:.2f}]"
    beside = "" if point.labelled is None else " {:.4f} [{:.3f}, {:.3f}] |".format(*point.labelled)
    return f"| {point.cost:.3f}{cost} | {point.accuracy:.4f}{accuracy} | {lost} |{beside}"


def _guaranteed(guarantees: Sequence[Guarantee]) -> str:
    """The statements that hold with probability 1 - δ, as a table; empty where there are none."""
    said = [g for g in guarantees if g.method == "learn_then_test"]
    if not said:
        return ""
    rows = [f"| {g.words} | {g.trade_off:.5g} | {g.cost:.3f} |" for g in said]
    return (
        f"\nCertified on {said[0].samples:,} samples that nothing else touched, each with probability "
        f"{1 - said[0].delta:g} and alone:\n\n| | trade-off | mean cost on validation |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )
