"""Predictors h_j: at each gate a small network from state features to the error probability of every way to go on.

Inputs are the state features at the nodes visited, stacked, and the prefix precisions one-hot; outputs are suffixes,
"exit here" first, through a sigmoid. Trained on the targets p̃e with cross-entropy and early stopping.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from quee.cache import FeatureCache
from quee.cost import FLOAT_BITS, bitflops
from quee.experiment import Predictors as PredictorSettings
from quee.paths import PathTree
from quee.targets import calibration_error


def gate_inputs(tree: PathTree, gate: int, features: np.ndarray) -> np.ndarray:
    """Predictor inputs (S, nodes at the gate, D) from cached features (S, N, F): visited nodes' features, then prefix."""
    nodes = tree.nodes_at(gate)
    lineages = np.array([tree.lineage(int(node)) for node in nodes])  # (nodes, gate)
    stacked = features[:, lineages].reshape(len(features), len(nodes), -1)
    prefix = np.eye(len(tree.precisions), dtype=np.float32)[tree.choice[lineages]].reshape(len(nodes), -1)
    return np.concatenate([stacked, np.broadcast_to(prefix, (len(features), *prefix.shape))], axis=2)


@dataclass
class Network:
    """Standardisation, one hidden layer of rectified units, a linear output. Evaluated in double precision."""

    mean: np.ndarray
    scale: np.ndarray
    hidden_weight: np.ndarray
    """(D, H)"""
    hidden_bias: np.ndarray
    weight: np.ndarray
    """(H, outputs)"""
    bias: np.ndarray

    def hidden(self, x: np.ndarray) -> np.ndarray:
        """(…, D) to (…, H)."""
        z = (x.astype(np.float64) - self.mean) / self.scale
        return np.maximum(np.clip(z, -8, 8) @ self.hidden_weight + self.hidden_bias, 0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Logits (…, outputs), rounded to float32, so that they do not depend on the batch."""
        return (self.hidden(x) @ self.weight + self.bias).astype(np.float32)

    @property
    def bitflops(self) -> float:
        return bitflops(self.hidden_weight.size + self.weight.size, (FLOAT_BITS, FLOAT_BITS))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        return {f"{prefix}.{name}": np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, prefix: str, arrays: dict[str, np.ndarray]) -> "Network":
        return cls(**{name: arrays[f"{prefix}.{name}"] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Fit:
    """How a network is fitted."""

    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int


@contextmanager
def one_thread() -> Iterator[None]:
    """For matrices so small that more threads cost more than they bring; nor do the last bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def fit_network(
    x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, settings: Fit
) -> tuple[Network, list[dict[str, float]]]:
    """Fit outputs y (n, outputs) in [0, 1] (NaN: unknown) by cross-entropy, stopping early on the validation rows."""
    mean, scale = x.mean(axis=0, dtype=np.float64), np.maximum(x.std(axis=0, dtype=np.float64), 1e-6)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.clip((values - mean) / scale, -8, 8).astype(np.float32))

    generator = torch.Generator().manual_seed(settings.seed)
    first, last = nn.Linear(x.shape[1], settings.hidden), nn.Linear(settings.hidden, y.shape[1])
    with torch.no_grad():
        for layer in (first, last):
            bound = layer.in_features**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
        rate = np.clip(np.nanmean(y, axis=0), 0.005, 0.995)
        last.bias.copy_(torch.from_numpy(np.log(rate / (1 - rate))))
    model = nn.Sequential(first, nn.ReLU(), last)
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    inputs, inputs_val = tensor(x), tensor(x_val)
    known, known_val = torch.from_numpy(np.isfinite(y)), torch.from_numpy(np.isfinite(y_val))
    target, target_val = torch.from_numpy(np.nan_to_num(y)).float(), torch.from_numpy(np.nan_to_num(y_val)).float()

    def loss_of(logits: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        each = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return (each * mask).sum() / mask.sum().clamp_min(1)

    best, kept, waited, history = float("inf"), None, 0, []
    for epoch in range(settings.epochs):
        total = 0.0
        order = torch.randperm(len(inputs), generator=generator)
        for rows in order.split(settings.batch_size):
            loss = loss_of(model(inputs[rows]), target[rows], known[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        with torch.inference_mode():
            validation = loss_of(model(inputs_val), target_val, known_val).item()
        history.append({"epoch": epoch, "loss": total / len(inputs), "validation_loss": validation})
        if validation < best - 1e-5:
            best, waited = validation, 0
            kept = [p.detach().clone() for p in model.parameters()]
        elif (waited := waited + 1) >= settings.patience:
            break
    assert kept is not None
    w1, b1, w2, b2 = (p.double().numpy() for p in kept)
    return Network(mean, scale, np.ascontiguousarray(w1.T), b1, np.ascontiguousarray(w2.T), b2), history


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


def quality(predicted: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """RMSE and ECE of error probabilities against errors, and how they rank: AUROC and AURC. NaN entries left out."""
    known = np.isfinite(errors)
    p, e = predicted[known].astype(np.float64), errors[known]
    order = np.argsort(p, kind="stable")
    risk = np.cumsum(e[order]) / np.arange(1, len(e) + 1)
    return {
        "aurc": float(risk.mean()),
        "auroc": float(roc_auc_score(e, p)) if 0 < e.mean() < 1 else 0.5,
        "ece": calibration_error(p, e),
        "rmse": float(np.sqrt(np.mean((p - e) ** 2))),
    }
