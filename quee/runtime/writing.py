"""Writing bundles: a directory with everything the classifier needs, and a card for people."""

import shutil
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from quee.cache import FeatureCache
from quee.data.transforms import Preprocessing
from quee.evaluation.methods import routed_sweep
from quee.evaluation.sweep import Setting, Sweep
from quee.io import read_json, write_json, write_tensors
from quee.paths import PathTree
from quee.policies import Costs, FittedQ, Plan
from quee.precision import Precision
from quee.predictors import Predictors
from quee.runtime.bundle import load_view, policy_costs
from quee.runtime.export import export_graphs
from quee.runtime.manifest import seal
from quee.runtime.operating import Point
from quee.runtime.timed import write_validation

CARD = """# {name}

An adaptive image classifier: each image takes its own path through one network, in which segments run at different
precisions and easy images leave early. What is predicted at each gate is the probability of error of every way on, and
what that way costs.

| | |
| --- | --- |
| backbone | {backbone}, {segments} segments |
| input | {height} × {width} pixels, {channels} channel(s), resized and cropped by the classifier |
| classes | {classes} |
| precisions | {precisions} |
| policy | {policy}; default budget {budget} |

On validation data, cost 1 being the static w8a8 network:

| mean cost | accuracy |
| --- | --- |
{table}

## Use

```python
classifier = quee.load_bundle("this folder")
classifier.predict(images, budget={budget})  # class indices; `explain` says why
```

`quee verify` checks every file; `quee predict` classifies files. Nothing here is executed code or a pickle.

## Limits

A budget holds on average over images like the validation data, not for every image (`max_cost` does) and not when the
images change. Accuracies are those the operating points were chosen by, so a little too good; the experiment's report
has those on test data. Costs are BitFLOPs, not milliseconds. The classifier always answers, also to what is no image of
any class.
"""


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
    files = [(backbone / "model.safetensors", "model.safetensors"), (heads, "heads.safetensors")]
    quantised = {str(p): f"{p}.safetensors" for p in sorted(tree.precisions) if not p.is_float}
    files += [(quantized / target, target) for target in quantised.values()]
    for source, target in files:
        shutil.copyfile(source, out / target)
    facts = read_json(backbone / "backbone.json")
    write_json(out / "backbone.json", {k: facts[k] for k in ("format", "gates", "kwargs", "name")})
    write_tensors(out / "predictors.safetensors", predictors.arrays())
    write_tensors(out / "fitted_q.safetensors", fitted.arrays())
    kept = {k: v for k, v in description.items() if k not in ("files", "references", "reference_precisions")}
    write_json(out / "tree.json", kept)
    write_validation(out, cache.of("validation"))
    embedding = len(description["feature_names"]) > 4
    view = load_view(out, description["precisions"], embedding)
    graphs = defaultdict(list)
    for graph in sorted(export_graphs(view, tree.precisions, out)):  # `PRECISION.segmentN.onnx`
        graphs[graph.partition(".")[0]].append(graph)
    transform = Preprocessing.from_timm(view.backbone.models[Precision("fp32")].input)
    shown = points[:: max(1, -(-len(points) // 8))]
    card = CARD.format(
        name=f"quee-{name}",
        backbone=facts["name"],
        segments=tree.segments,
        height=transform.size[0],
        width=transform.size[1],
        channels=transform.channels,
        classes=len(classes),
        precisions=", ".join(map(str, tree.precisions)),
        policy=policy,
        budget=budget,
        table="\n".join(f"| {p.cost:.3f} | {p.accuracy:.4f} |" for p in shown),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    seal(
        out,
        {
            "budget": budget,
            "classes": classes,
            "embedding": embedding,
            "experiment": name,
            "graphs": graphs,
            "operating_points": [asdict(p) for p in points],
            "policy": policy,
            "precision_files": quantised,
            "preprocessing": asdict(transform),
        },
    )
