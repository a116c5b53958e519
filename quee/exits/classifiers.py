"""Fitting one classifier to pooled states: one linear layer to its optimum, or one hidden layer by mini-batches."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from quee._logistic import TOLERANCE, fit_logistic
from quee._perceptron import ClassFit, fit_classes
from quee.exits.heads import HEAD_PRECISION, Classifier, Standardised
from quee.quantization.layers import QuantizedLinear
from quee.quantization.weights import ROWS, quantize_linear
from quee.settings.exits import Exits
from quee.work.threads import one_thread

BLOCK = 2048
"""Rows converted to single or double precision at a time."""
LEAST_SCALE = 0.01
"""Deviations of inputs are taken as at least this share of the largest, so that an input that hardly varies stays small."""
BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 1e-3, 0.1
"""Of the mini-batches that fit a hidden layer."""
VISITS, LEAST_VISITS, MOST_EPOCHS = 20, 60_000, 200
"""A fit of a hidden layer sees each image `VISITS` times, twice as often if several passes show it differently. For few images
it is `LEAST_VISITS` states in all, but at most `MOST_EPOCHS` times each. On ResNet-56 with 12,000 images in one pass, twice as
often was worse."""
Said = Callable[[int, float], None]
"""Called with an iteration's number and the loss."""


@dataclass(frozen=True)
class Candidate:
    """A way to pool and read the state at a gate."""

    pooling: str
    hidden: int = 0
    """Units of the hidden layer; 0: one linear layer."""
    dropout: float = 0.0
    """Share of hidden units left out in a step of the fit."""

    def __str__(self) -> str:
        return (
            f"{self.pooling}, linear"
            if not self.hidden
            else f"{self.pooling}, hidden {self.hidden}, dropout {self.dropout:g}"
        )


def fit_floating(
    x: Tensor,
    y: Tensor,
    classes: int,
    candidate: Candidate,
    settings: Exits,
    passes: int,
    said: Said,
    name: str | None = None,
) -> tuple[nn.Sequential, list[float]]:
    """The layers of a candidate, fitted to states x (rows, D) of classes y (rows,), and their losses by iteration, in nats.

    `passes` is the number of states per image. A named fit says on stderr when it stops before the optimum.
    """
    if not candidate.hidden:
        linear, losses = _fit_linear(x, y, classes, settings.weight_decay, said, name)
        return nn.Sequential(linear), losses
    standardised = _standardised(x)
    visits = max(VISITS * min(passes, 2) * len(x) // passes, min(LEAST_VISITS, MOST_EPOCHS * len(x)))
    epochs = -(-visits // len(x))
    options = ClassFit(candidate.hidden, epochs, BATCH, LEARNING_RATE, WEIGHT_DECAY, candidate.dropout, settings.seed)
    fitted, losses = fit_classes(x, y, classes, options, lambda rows: standardised(rows.float()), said)
    first, last = nn.Linear(x.shape[1], candidate.hidden), nn.Linear(candidate.hidden, classes)
    for layer, weight, bias in ((first, fitted.first, fitted.first_bias), (last, fitted.last, fitted.last_bias)):
        layer.requires_grad_(False)
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(standardised, first, nn.ReLU(), last), losses


def quantized(floating: nn.Sequential, x: Tensor, name: str) -> Classifier:
    """The classifier at w8a8; each layer's input range is searched on what precedes it makes of states x (rows, D)."""
    x = x[:: max(1, len(x) // ROWS)].float()
    layers: list[nn.Module] = []
    with torch.inference_mode():
        for layer in floating:
            own = quantize_linear(layer, x, HEAD_PRECISION, name) if isinstance(layer, nn.Linear) else layer
            layers.append(own)
            x = own(x)
    return Classifier(floating, nn.Sequential(*layers))


@one_thread()
@torch.inference_mode()
def losses_of(floating: nn.Sequential, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy in nats (rows,), and whether the most probable class is right (rows,)."""
    logits = torch.cat([floating(block.float()).double() for block in x.split(BLOCK)])
    return nn.functional.cross_entropy(logits, y.long(), reduction="none").numpy(), (logits.argmax(1) == y).numpy()


def principal(x: Tensor, components: int, seed: int, gate: int) -> QuantizedLinear:
    """Whitened principal directions of x (rows, D) as a layer (n, D) → (n, components); at most as many as there are rows."""
    from sklearn.decomposition import PCA  # importing it takes a second, and most stages do not need it

    components = min(components, *x.shape)
    pca = PCA(components, svd_solver="covariance_eigh", random_state=seed).fit(x.double().numpy())
    directions = pca.components_ / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))[:, None]
    linear = nn.Linear(x.shape[1], components).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(directions))
    linear.bias.copy_(torch.from_numpy(-directions @ pca.mean_))
    return quantize_linear(linear, x.float(), HEAD_PRECISION, f"embedding {gate}")


def _standardised(x: Tensor) -> Standardised:
    """The layer that brings rows x (rows, D) to zero mean and unit variance."""
    sums, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in _blocks(x):
        sums += block.sum(axis=0)
    mean = sums / len(x)
    for block in _blocks(x):
        squares += np.square(block - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(x))
    layer = Standardised(x.shape[1])
    layer.mean.copy_(torch.from_numpy(mean))
    layer.scale.copy_(torch.from_numpy(1 / np.maximum(deviation, max(LEAST_SCALE * deviation.max(), 1e-6))))
    return layer


def _blocks(x: Tensor) -> Iterator[np.ndarray]:
    return (block.double().numpy() for block in x.split(BLOCK))


def _fit_linear(
    x: Tensor, y: Tensor, classes: int, weight_decay: float, said: Said, name: str | None
) -> tuple[nn.Linear, list[float]]:
    """The linear layer of least regularised loss on states x (rows, D) of classes y (rows,), and the loss by iteration."""
    found = fit_logistic(x.float().numpy(), y.numpy(), classes, weight_decay / len(x), said)
    if name and found.gradient > TOLERANCE:
        print(
            f"{name}: stopped before the optimum, after {len(found.losses) - 1} iterations at a gradient of "
            f"{found.gradient:.1e}; {TOLERANCE:.0e} is wanted; a larger exits.weight_decay helps",
            file=sys.stderr,
        )
    linear = nn.Linear(x.shape[1], classes).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(found.weight))
    linear.bias.copy_(torch.from_numpy(found.bias))
    return linear, found.losses
