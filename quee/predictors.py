"""Predictors h_j: at each gate a small network from state features to the error probability of every way to go on.

Inputs are the state features at the nodes visited, stacked, and the prefix precisions one-hot; outputs are suffixes,
"exit here" first, through a sigmoid. Trained on the targets p̃e with cross-entropy and early stopping; then executed
and counted at w8a8, as exit heads are: in floating point a predictor would cost a sixth of the cheapest segment of a
small network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from quee.cache import FeatureCache
from quee.cost import bitflops
from quee.experiment import Predictors as PredictorSettings
from quee.paths import PathTree
from quee.perceptron import Fit, fit_perceptron
from quee.precision import Precision
from quee.quantization import QuantizedLinear, quantize_linear
from quee.targets import calibration_error


def gate_inputs(tree: PathTree, gate: int, features: np.ndarray) -> np.ndarray:
    """Predictor inputs (S, nodes at the gate, D) from cached features (S, N, F): visited nodes' features, then prefix."""
    nodes = tree.nodes_at(gate)
    lineages = np.array([tree.lineage(int(node)) for node in nodes])  # (nodes, gate)
    stacked = features[:, lineages].reshape(len(features), len(nodes), -1)
    prefix = np.eye(len(tree.precisions), dtype=np.float32)[tree.choice[lineages]].reshape(len(nodes), -1)
    return np.concatenate([stacked, np.broadcast_to(prefix, (len(features), *prefix.shape))], axis=2)


PRECISION = Precision("w8a8")
CLIP = 8.0
"""Standardised inputs beyond are taken for this."""
RANGE_ROWS = 4096
"""Inputs on which the ranges of the quantized layers are searched."""


@dataclass
class Network:
    """Standardisation, one hidden layer of rectified units, a linear output; integer products, exact in any batch."""

    mean: np.ndarray
    """(D,)"""
    scale: np.ndarray
    first: QuantizedLinear
    """(…, D) to (…, H)."""
    last: QuantizedLinear
    """(…, H) to (…, outputs)."""

    @classmethod
    def quantized(
        cls, mean: np.ndarray, scale: np.ndarray, first: nn.Linear, last: nn.Linear, x: np.ndarray
    ) -> "Network":
        """From layers in floating point, their ranges searched on inputs x (n, D)."""
        z = standardised(x[:: max(1, len(x) // RANGE_ROWS)], mean, scale)
        own = quantize_linear(first, z, PRECISION, "predictor.first")
        with torch.inference_mode():
            return cls(mean, scale, own, quantize_linear(last, own(z).relu(), PRECISION, "predictor.last"))

    def _hidden(self, x: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return self.first(standardised(x, self.mean, self.scale)).relu_()

    def hidden(self, x: np.ndarray) -> np.ndarray:
        """(…, D) to (…, H), float64."""
        return self._hidden(x).double().numpy()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Logits (…, outputs), float32."""
        with torch.inference_mode():
            found: np.ndarray = self.last(self._hidden(x)).numpy()
        return found

    @property
    def bitflops(self) -> float:
        products = self.first.weight.numel() + self.last.weight.numel()
        return bitflops(products, (PRECISION.weight_bits, PRECISION.activation_bits))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        found = {f"{prefix}.mean": self.mean, f"{prefix}.scale": self.scale}
        for name, layer in (("first", self.first), ("last", self.last)):
            found |= {f"{prefix}.{name}.{key}": value.numpy() for key, value in layer.state_dict().items()}
        return found

    @classmethod
    def from_arrays(cls, prefix: str, arrays: dict[str, np.ndarray]) -> "Network":
        def layer(name: str) -> QuantizedLinear:
            start = f"{prefix}.{name}."
            state = {key.removeprefix(start): torch.from_numpy(v) for key, v in arrays.items() if key.startswith(start)}
            outputs, inputs = state["weight"].shape
            found = QuantizedLinear(nn.Linear(inputs, outputs), PRECISION)
            found.load_state_dict(state)
            found.finalize()
            return found

        return cls(arrays[f"{prefix}.mean"], arrays[f"{prefix}.scale"], layer("first"), layer("last"))


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
    return Network.quantized(mean, scale, first, last, x), history


class Predictors:
    """One network per gate before the last, by gate: `networks[gate - 1]`."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = list(networks)

    def predict(self, gate: int, inputs: np.ndarray) -> np.ndarray:
        """Inputs (…, D) to error probabilities (…, suffixes)."""
        return expit(self.networks[gate - 1](inputs))

    def bitflops(self, gate: int) -> float:
        return self.networks[gate - 1].bitflops

    def arrays(self) -> dict[str, np.ndarray]:
        return {k: v for gate, net in enumerate(self.networks, 1) for k, v in net.arrays(f"gate.{gate}").items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Predictors":
        gates = sorted({int(name.split(".")[1]) for name in arrays})
        return cls([Network.from_arrays(f"gate.{gate}", arrays) for gate in gates])


def rows_of(values: np.ndarray) -> np.ndarray:
    """(S, nodes, D) to (S·nodes, D)."""
    return values.reshape(-1, values.shape[-1])


def fit_predictors(
    cache: FeatureCache,
    targets: Sequence[np.ndarray],
    validation: FeatureCache,
    validation_errors: Sequence[np.ndarray],
    settings: PredictorSettings,
) -> tuple[Predictors, list[dict[str, float]]]:
    """Fit h_1 … h_{L-1} on the predictor split; `targets[gate - 1]` is p̃e (S, nodes, suffixes).

    Early stopping looks at the realised errors on the validation split.
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
    """Means over the gates where a measure is known, by the names of `quality`; None where it is nowhere."""
    names = by_gate[0] if by_gate else ()
    known = {name: [found[name] for found in by_gate if found[name] is not None] for name in names}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}  # type: ignore[arg-type]


def quality(predicted: np.ndarray, errors: np.ndarray) -> dict[str, float | None]:
    """RMSE and ECE of error probabilities against errors, and how they rank: AUROC and AURC. NaN entries left out.

    AUROC is None where all are right, or all wrong: there is nothing to rank.
    """
    from sklearn.metrics import roc_auc_score  # takes a second to import, which loading predictors should not

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
