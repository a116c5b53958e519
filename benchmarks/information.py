"""What a gate could know: confidence, the predictors as they are, and a large network on twenty times the samples.

    python benchmarks/information.py EXPERIMENT [--precision w4a4] [--images 100000] [--json FILE]

For an experiment on a data set that is drawn (`street_characters`, `cluttered_fashion`), whose stages up to `exits` have run.
Images beyond the data set's own are drawn from its evaluation part. Along one uniform path every gate's state is kept: state
features, log-probabilities of its exit, and the pooled state whole. A quarter of the groups judges, the others fit.

Rows, what decides and on how many samples it was fitted:

- confidence: exits where the largest probability is above one threshold, the same at every gate
- features, few: a network of the predictors' size on the state features along the path, on as many samples as the experiment has
- features, many: the same on all samples that fit
- state, few and many: two hidden layers of 256 units on state features, log-probabilities and pooled states along the path

Columns: AUROC of the gain at each gate (samples that some later exit puts right, by predicted error now minus the least later;
confidence: by doubt), and mean accuracy over log-uniform costs between the first exit and the whole path, where a sample
exits as soon as no later exit has less predicted error + λ · cost; every segment counts the same. Differences to confidence
have 95 % intervals over judging groups. The oracle takes the cheapest right exit.
"""

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from quee.data import DATASETS
from quee.data.stream import ORIGINS
from quee.data.transforms import ready
from quee.exits.heads import ExitHeads
from quee.features import GateView
from quee.groups import folds_of
from quee.intervals import half_width
from quee.network.execution import walk_tree
from quee.network.files import load_precisions
from quee.paths import PathTree
from quee.precision import FLOAT, Precision
from quee.predictors import auroc
from quee.settings.experiment import load_experiment
from quee.work.io import read_json
from quee.work.progress import progress

BATCH, POINTS, COSTS = 64, 400, 64
POOLING = "cls_mean"


def gathered(
    name: str, precision: str, images: int
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """By gate, state features (n, F) and what lies behind them (n, G); errors (n, L) and groups (n,)."""
    artifacts, experiment = Path("artifacts") / name, load_experiment(name)
    dataset = experiment.prepare.dataset
    backbone = load_precisions(
        artifacts / "backbone", artifacts / "quantize", [Precision(n) for n in (precision, FLOAT)]
    )
    heads = ExitHeads.load(artifacts / "exits/heads.safetensors", backbone.first)
    view, transform = GateView(backbone, heads, experiment.features.embedding), backbone.models[Precision(FLOAT)].input
    tree = PathTree([precision], backbone.segments)
    origin, source = ORIGINS[dataset], str(DATASETS[dataset].drawn_from)
    own = 20_000

    def images_of(pixels: np.ndarray, start: int) -> torch.Tensor:
        return ready(transform.coloured(transform.fit_arrays(pixels)), np.arange(start, start + BATCH), transform)

    features: list[list[np.ndarray]] = [[] for _ in range(len(tree))]
    behind: list[list[np.ndarray]] = [[] for _ in range(len(tree))]
    errors, groups = [], []
    with progress("states", images // BATCH) as bar:
        for start in range(own, own + images // BATCH * BATCH, BATCH):
            pixels, labels, group = origin.draw(source, "test", start, start + BATCH)
            wrong = np.empty((BATCH, len(tree)), bool)
            for node, state in walk_tree(backbone, tree, images_of(pixels, start)):
                gate = int(tree.gate[node])
                log_probs, found = view(gate, Precision(precision), state)
                pooled = heads.seen(backbone, gate, state)(POOLING).float().numpy()
                features[node].append(found)
                behind[node].append(np.concatenate([log_probs, pooled], axis=1).astype(np.float16))
                wrong[:, node] = log_probs.argmax(axis=1) != labels
            errors.append(wrong)
            groups.append(group)
            bar.advance()
    return (
        [np.concatenate(rows) for rows in features],
        [np.concatenate(rows) for rows in behind],
        np.concatenate(errors),
        np.concatenate(groups),
    )


def fitted(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, hidden: list[int], epochs: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A network with sigmoid outputs for marks y (n, k); the epoch is chosen on a tenth of the groups."""
    torch.manual_seed(0)
    held = folds_of(len(x), groups, 10, 0) == 0
    mean, scale = x[~held].mean(axis=0, dtype=np.float64), x[~held].std(axis=0, dtype=np.float64) + 1e-6

    def ready(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((values - mean) / scale).astype(np.float32))

    sizes = [x.shape[1], *hidden]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.GELU(), nn.Dropout(0.1))]
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], y.shape[1]))
    rate = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    loss, (own, marks) = nn.BCEWithLogitsLoss(), (ready(x[~held]), torch.from_numpy(y[~held].astype(np.float32)))
    judged, told = ready(x[held]), torch.from_numpy(y[held].astype(np.float32))
    best, kept = np.inf, model.state_dict()
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(own)).split(256):
            rate.zero_grad()
            loss(model(own[rows]), marks[rows]).backward()
            rate.step()
        model.eval()
        with torch.inference_mode():
            now = float(loss(model(judged), told))
        if now < best:
            best, kept = now, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(kept)
    model.eval()

    def predicted(values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = [torch.sigmoid(model(ready(part))) for part in np.array_split(values, max(1, len(values) // 4096))]
        return torch.cat(parts).numpy()

    return predicted


def routed(leaves: np.ndarray, errors: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Errors (n,), the mean over log-uniform costs, of choices (points, n) of exits."""
    spent, wrong = cost[leaves], np.take_along_axis(errors[None], leaves[:, :, None], axis=2)[:, :, 0]
    order = np.argsort(spent.mean(axis=1), kind="stable")
    mean, wrong = spent.mean(axis=1)[order], wrong[order].astype(float)
    found = np.zeros(errors.shape[0])
    for budget in np.geomspace(cost[0], cost[-1], COSTS):
        high = int(np.searchsorted(mean, budget, side="right"))
        low = max(high - 1, 0)
        high = min(high, len(mean) - 1)
        weight = 0.0 if mean[high] <= mean[low] else (min(budget, mean[high]) - mean[low]) / (mean[high] - mean[low])
        found += (1 - weight) * wrong[low] + weight * wrong[high]
    return found / COSTS


def by_price(predicted: list[np.ndarray], cost: np.ndarray) -> np.ndarray:
    """(points, n) exits taken, from predicted errors (n, L - j) at gates j: now, and at each later exit."""
    prices = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, POINTS)])
    count = len(predicted[0])
    leaves = np.full((len(prices), count), len(cost) - 1)
    going = np.ones((len(prices), count), bool)
    for gate, found in enumerate(predicted):
        now = found[None, :, 0] + prices[:, None] * cost[gate]
        later = np.min(found[None, :, 1:] + prices[:, None, None] * cost[None, None, gate + 1 :], axis=2)
        out = going & (now <= later)
        leaves[out] = gate
        going &= ~out
    return leaves


def by_threshold(confidence: np.ndarray, last: int) -> np.ndarray:
    """(points, n) exits taken by one threshold on confidence (n, L - 1)."""
    thresholds = np.quantile(confidence, np.linspace(0, 1, POINTS))
    sure = confidence[None] > np.append(thresholds, 1.1)[:, None, None]
    return np.where(sure.any(axis=2), sure.argmax(axis=2), last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--precision", default="w4a4", help="of the path; one that stage quantize made")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    features, behind, errors, groups = gathered(options.experiment, options.precision, options.images)
    segments = errors.shape[1]
    cost = np.arange(1, segments + 1) / segments
    judge = folds_of(len(errors), groups, 4, 0) == 0
    fit = np.flatnonzero(~judge)
    counts = read_json(Path("artifacts") / options.experiment / "prepare/dataset.json")["splits"]
    few = np.sort(np.random.default_rng(0).choice(fit, min(len(fit), int(counts["predictor"])), replace=False))
    confidence = np.stack([own[:, 0] for own in features[:-1]], axis=1)
    baseline = routed(by_threshold(confidence[judge], segments - 1), errors[judge], cost)
    hopeless = np.logical_and.accumulate(errors[:, ::-1], axis=1)[:, ::-1]
    right = errors[:, :-1] & ~hopeless[:, 1:]
    rows = [{
        "what": "confidence", "samples": 0, "accuracy": 1 - baseline.mean(),
        "gain_auroc": [auroc(1 - confidence[judge, j : j + 1], right[judge, j : j + 1]) for j in range(segments - 1)],
    }]  # fmt: skip
    kinds = {"features": ([32], [features]), "state": ([256, 256], [features, behind])}
    for kind, (hidden, sources) in kinds.items():
        for samples in (few, fit):
            predicted = []
            for gate in range(segments - 1):
                x = np.concatenate([part[at] for part in sources for at in range(gate + 1)], axis=1)
                model = fitted(x[samples], errors[samples, gate:], groups[samples], hidden, options.epochs)
                predicted.append(model(x[judge]))
            found = routed(by_price(predicted, cost), errors[judge], cost)
            width = half_width(baseline - found, 1.96, groups[judge])
            rows.append({
                "what": kind, "samples": len(samples), "accuracy": 1 - found.mean(),
                "over_confidence": [float((baseline - found).mean() + side * width) for side in (0, -1, 1)],
                "gain_auroc": [
                    auroc((p[:, :1] - p[:, 1:].min(axis=1, keepdims=True)), right[judge, j : j + 1])
                    for j, p in enumerate(predicted)
                ],
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    best = np.where((~errors[judge]).any(axis=1), (~errors[judge]).argmax(axis=1), 0)
    rows.append({"what": "oracle, the cheapest right exit", "accuracy": float((~errors[judge]).any(axis=1).mean()),
                 "cost": float(cost[best].mean())})  # fmt: skip
    result = {"exits": (1 - errors[judge].mean(axis=0)).tolist(), "judged": int(judge.sum()), "rows": rows}
    print(json.dumps(result, indent=1, default=float))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float))


if __name__ == "__main__":
    main()
