"""Fitting the predictors h_j to the targets p̃e.

Predictors are trained in floating point with cross-entropy and early stopping, then executed and counted at w8a8 like
exit heads; in floating point a predictor would cost a sixth of the cheapest segment of a small network.
`quee.policies.networks` executes them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from quee._perceptron import Fit, fit_perceptron
from quee.cache.read import FeatureCache
from quee.policies.networks import CLIP, PRECISION, Layer, Network, Predictors, gate_inputs, rows_of
from quee.quantization.layers import QuantizedLinear
from quee.quantization.weights import quantize_linear
from quee.settings.predictors import Predictors as PredictorSettings
from quee.targets import calibration_error

RANGE_ROWS = 4096
"""Number of inputs on which the ranges of the quantized layers are searched."""


def quantized(mean: np.ndarray, scale: np.ndarray, first: nn.Linear, last: nn.Linear, x: np.ndarray) -> Network:
    """A network from floating-point layers; the ranges of its quantizers are searched on inputs x (n, D)."""
    z = standardised(x[:: max(1, len(x) // RANGE_ROWS)], mean, scale)
    own = quantize_linear(first, z, PRECISION, "predictor.first")
    with torch.inference_mode():
        behind = quantize_linear(last, own(z).relu(), PRECISION, "predictor.last")
    return Network(mean, scale, _layer(own), _layer(behind))


def _layer(layer: QuantizedLinear) -> Layer:
    return Layer.from_arrays({key: value.numpy() for key, value in layer.state_dict().items()})


def standardised(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
    """Inputs (…, D) at zero mean and unit variance, clipped."""
    return torch.from_numpy(np.clip((x - mean) / scale, -CLIP, CLIP).astype(np.float32))


def fit_network(
    x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, settings: Fit
) -> tuple[Network, list[dict[str, float]]]:
    """Fit outputs y (n, outputs) in [0, 1] (NaN: unknown) by cross-entropy, stopping early on the validation rows."""
    mean, scale = x.mean(axis=0, dtype=np.float64), np.maximum(x.std(axis=0, dtype=np.float64), 1e-6)
    fitted, history = fit_perceptron(standardised(x, mean, scale), y, standardised(x_val, mean, scale), y_val, settings)
    first, last = nn.Linear(x.shape[1], settings.hidden), nn.Linear(settings.hidden, y.shape[1])
    with torch.no_grad():
        for layer, weight, bias in ((first, fitted.first, fitted.first_bias), (last, fitted.last, fitted.last_bias)):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return quantized(mean, scale, first, last, x), history


def fit_predictors(
    cache: FeatureCache,
    targets: Sequence[np.ndarray],
    validation: FeatureCache,
    validation_errors: Sequence[np.ndarray],
    settings: PredictorSettings,
) -> tuple[Predictors, list[dict[str, float]]]:
    """Fit h_1 … h_{L-1} on the predictor split; `targets[gate - 1]` is p̃e (S, nodes, suffixes).

    Early stopping uses the realised errors on the validation split.
    """
    networks, history = [], []
    options = settings.model_dump(include=set(Fit.__dataclass_fields__))
    for gate in range(1, cache.tree.segments):
        network, rows = fit_network(
            rows_of(gate_inputs(cache.tree, gate, cache.features)),
            rows_of(targets[gate - 1]),
            rows_of(gate_inputs(cache.tree, gate, validation.features)),
            rows_of(validation_errors[gate - 1]),
            Fit(**options),
        )
        networks.append(network)
        history += [{"gate": gate, **row} for row in rows]
    return Predictors(networks), history


def over_gates(by_gate: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each measure of `quality` over the gates where it is known; None where it is known at no gate."""
    names = by_gate[0] if by_gate else ()
    known = {name: [found[name] for found in by_gate if found[name] is not None] for name in names}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}  # type: ignore[arg-type]


def quality(predicted: np.ndarray, errors: np.ndarray) -> dict[str, float | None]:
    """RMSE and ECE of error probabilities against errors, and AUROC and AURC of their ranking. NaN entries are left out.

    AUROC is None where all samples are right or all are wrong.
    """
    from sklearn.metrics import roc_auc_score  # importing it takes a second, and loading predictors does not need it

    known = np.isfinite(errors)
    p, e = predicted[known].astype(np.float64), errors[known]
    order = np.argsort(p, kind="stable")
    risk = np.cumsum(e[order]) / np.arange(1, len(e) + 1)
    return {
        "aurc": float(risk.mean()),
        "auroc": float(roc_auc_score(e, p)) if 0 < e.mean() < 1 else None,
        "ece": calibration_error(p, e),
        "rmse": float(np.sqrt(np.mean((p - e) ** 2))),
    }
