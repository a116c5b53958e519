"""Fitting the predictors h_j to the targets p̃e.

Predictors are trained in floating point with cross-entropy and early stopping, then executed and counted at w8a8 like
exit heads; in floating point a predictor would cost a sixth of the cheapest segment of a small network.
`quee.policies.networks` executes them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from quee._perceptron import Fit, Lines, fit_perceptron
from quee.cache.read import FeatureCache
from quee.policies.networks import (
    CLIP,
    PRECISION,
    Layer,
    Network,
    Predictors,
    Skip,
    certainty,
    gate_inputs,
    rows_of,
)  # fmt: skip
from quee.quantization.layers import QuantizedLinear
from quee.quantization.weights import quantize_linear
from quee.settings.predictors import Predictors as PredictorSettings
from quee.targets import calibration_error, future_errors, spread

RANGE_ROWS = 4096
"""Number of inputs on which the ranges of the quantized layers are searched."""
MOST_ROWS = 1 << 18
"""Most rows (sample, node) that a gate's predictor is fitted to; of more, so many are drawn. It bounds memory and time where
there are many nodes, whose rows of one sample are much alike."""
LINE_ROWS = 1 << 14
"""Number of rows from which the start of a predictor is fitted."""
CERTAINTY = "max_probability"
"""Name of the feature that predictors start from."""
LEAST_SLOPE = 0.01
"""Least fall of the logit of the exit's error per unit of the logit of confidence, before training."""
BLOCK = 1 << 23
"""Numbers standardised, or predicted, at a time."""


def quantized(
    mean: np.ndarray, scale: np.ndarray, first: nn.Linear, last: nn.Linear, x: np.ndarray, skip: Skip | None = None
) -> Network:
    """A network from floating-point layers; the ranges of its quantizers are searched on inputs x (n, D)."""
    z = standardised(x[:: max(1, len(x) // RANGE_ROWS)], mean, scale)
    own = quantize_linear(first, z, PRECISION, "predictor.first")
    with torch.inference_mode():
        behind = quantize_linear(last, own(z).relu(), PRECISION, "predictor.last")
    return Network(mean, scale, _layer(own), _layer(behind), skip)


def _layer(layer: QuantizedLinear) -> Layer:
    return Layer.from_arrays({key: value.numpy() for key, value in layer.state_dict().items()})


def standardised(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
    """Inputs (n, D) at zero mean and unit variance, clipped."""
    found = np.empty(x.shape, np.float32)
    for rows in _blocks(len(x), x.shape[1]):
        found[rows] = np.clip((x[rows] - mean) / scale, -CLIP, CLIP)
    return torch.from_numpy(found)


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows of so many numbers each; a slice has about BLOCK numbers."""
    size = max(1, BLOCK // max(1, width))
    return (slice(start, start + size) for start in range(0, rows, size))


def fit_network(
    x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, settings: Fit, column: int | None = None
) -> tuple[Network, list[dict[str, float]]]:
    """Fit outputs y (n, outputs) in [0, 1] (NaN: unknown) by cross-entropy, stopping early on the validation rows.

    `column` is the input with the gate's own largest probability. The network starts from its logit alone, so that before
    training every output ranks samples exactly as confidence does; None fits a network without a skip. The first output
    is the error of exiting.
    """
    mean, scale = x.mean(axis=0, dtype=np.float64), np.maximum(x.std(axis=0, dtype=np.float64), 1e-6)
    inputs, lines = [standardised(x, mean, scale), standardised(x_val, mean, scale)], None
    if column is not None:
        inputs = [torch.column_stack([z, torch.from_numpy(certainty(own[:, column]))])
                  for z, own in zip(inputs, (x, x_val), strict=True)]  # fmt: skip
        few = slice(None, None, max(1, len(x) // LINE_ROWS))
        lines = Lines.fit(certainty(x[few, column]), y[few])
        lines.slope[0] = min(lines.slope[0], -LEAST_SLOPE)
    fitted, history = fit_perceptron(inputs[0], y, inputs[1], y_val, settings, lines)
    first, last = nn.Linear(x.shape[1], settings.hidden), nn.Linear(settings.hidden, y.shape[1])
    with torch.no_grad():
        for layer, weight, bias in ((first, fitted.first, fitted.first_bias), (last, fitted.last, fitted.last_bias)):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    skip = None if column is None else Skip(column, fitted.skip[:, 0].numpy().copy())
    return quantized(mean, scale, first, last, x, skip), history


def fit_predictors(
    cache: FeatureCache, targets: Iterable[np.ndarray], validation: FeatureCache, settings: PredictorSettings
) -> tuple[Predictors, list[dict[str, float]]]:
    """Fit h_1 … h_{L-1} on the predictor split; `targets` are p̃e (S, E) by gate, which may be made one after the other.

    Early stopping uses the realised errors on the validation split.
    """
    networks, history = [], []
    options = Fit(**settings.model_dump(include=set(Fit.__dataclass_fields__)))
    for gate, own in enumerate(targets, 1):
        x, y = rows_at(cache, gate, own, options.seed)
        x_val, y_val = rows_at(validation, gate, future_errors(validation, gate), options.seed)
        network, rows = fit_network(x, y, x_val, y_val, options, own_certainty(cache, gate))
        networks.append(network)
        history += [{"gate": gate, **row} for row in rows]
    return Predictors(networks), history


def own_certainty(cache: FeatureCache, gate: int) -> int | None:
    """The input of a gate's predictor that is the largest probability at the gate itself; None where it is no feature."""
    names: list[str] = cache.description["feature_names"]
    return (gate - 1) * len(names) + names.index(CERTAINTY) if CERTAINTY in names else None


def rows_at(cache: FeatureCache, gate: int, values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, D) of a gate's predictor and outputs (n, suffixes) from values (S, E).

    There is a row per sample and node, or where these are more than MOST_ROWS so many of them, drawn by the seed.
    """
    tree, nodes = cache.tree, len(cache.tree.nodes_at(gate))
    if len(cache) * nodes <= MOST_ROWS:
        return rows_of(gate_inputs(tree, gate, cache.features)), spread(tree, gate, values)
    drawn = np.sort(np.random.default_rng([seed, gate]).choice(len(cache) * nodes, MOST_ROWS, replace=False))
    sample, at = np.divmod(drawn, nodes)
    x = np.empty((len(drawn), gate * (cache.features.shape[2] + len(tree.precisions))), np.float32)
    for index in range(nodes):  # the inputs of all rows at once would take several times the memory of those drawn
        own = np.flatnonzero(at == index)
        for part in np.array_split(own, -(-len(own) // RANGE_ROWS) or 1):
            x[part] = gate_inputs(tree, gate, cache.features[sample[part]], np.array([index]))[:, 0]
    return x, spread(tree, gate, values, drawn)


def predictions(predictors: Predictors, cache: FeatureCache, gate: int) -> np.ndarray:
    """Predicted errors (S, E) of every considered continuation of a gate's nodes."""
    tree, by_node = cache.tree, []
    row, column = tree.continuations(gate)
    for index in range(len(tree.nodes_at(gate))):
        inputs = gate_inputs(tree, gate, cache.features, np.array([index]))[:, 0]
        blocks = _blocks(len(inputs), inputs.shape[1] + len(tree.suffixes(gate)))
        by_node.append(
            np.concatenate([predictors.predict(gate, inputs[rows])[:, column[row == index]] for rows in blocks])
        )
    return np.concatenate(by_node, axis=1)


def over_gates(by_gate: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each measure of `quality` over the gates where it is known; None where it is known at no gate."""
    names = by_gate[0] if by_gate else ()
    known = {name: [found[name] for found in by_gate if found[name] is not None] for name in names}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}  # type: ignore[arg-type]


def quality(predicted: np.ndarray, errors: np.ndarray) -> dict[str, float | None]:
    """RMSE and ECE of error probabilities against errors of the same shape, and AUROC and AURC of their ranking.

    AUROC is None where all samples are right or all are wrong.
    """
    from sklearn.metrics import roc_auc_score  # importing it takes a second, and loading predictors does not need it

    p, e = predicted.ravel().astype(np.float64), errors.ravel().astype(np.float64)
    order = np.argsort(p, kind="stable")
    risk = np.cumsum(e[order]) / np.arange(1, len(e) + 1)
    return {
        "aurc": float(risk.mean()),
        "auroc": float(roc_auc_score(e, p)) if 0 < e.mean() < 1 else None,
        "ece": calibration_error(p, e),
        "rmse": float(np.sqrt(np.mean((p - e) ** 2))),
    }


def ranking(predictors: Predictors, cache: FeatureCache, gate: int) -> dict[str, float | None]:
    """AUROC of a gate's predictions, each beside that of the largest probability at the gate, whose name ends in `_confidence`.

    `exit_auroc`: the predicted error of exiting, for samples whose exit is wrong. `gain_auroc`: predicted error of exiting
    minus predicted error of going on, for samples that going on puts right; confidence cannot tell these from hopeless
    ones. Samples are compared at the same node, and for the gain at the same continuation.
    """
    tree = cache.tree
    (row, column), nodes = tree.continuations(gate), tree.nodes_at(gate)
    exits, onward = np.flatnonzero(column == 0), column != 0
    predicted = predictions(predictors, cache, gate).astype(np.float64)
    errors = future_errors(cache, gate)
    position = cache.description["feature_names"].index(CERTAINTY)
    doubt = 1 - cache.features[:, nodes, position].astype(np.float64)
    wrong, right = errors[:, exits], errors[:, exits[row]] & ~errors
    gain = predicted[:, exits[row]] - predicted
    return {
        "exit_auroc": auroc(predicted[:, exits], wrong),
        "exit_auroc_confidence": auroc(doubt, wrong),
        "gain_auroc": auroc(gain[:, onward], right[:, onward]),
        "gain_auroc_confidence": auroc(doubt[:, row][:, onward], right[:, onward]),
    }


def auroc(score: np.ndarray, wanted: np.ndarray) -> float | None:
    """Probability that a wanted sample has a higher score than another, within columns: scores and marks (S, C).

    Columns count by their number of such pairs; ties count half. None without any pair.
    """
    from scipy.stats import rankdata

    total, pairs = 0.0, 0
    for own, mark in zip(score.T, wanted.T, strict=True):
        positive = int(mark.sum())
        if both := positive * (len(mark) - positive):
            total += float(rankdata(own)[mark].sum()) - positive * (positive + 1) / 2
            pairs += both
    return total / pairs if pairs else None
