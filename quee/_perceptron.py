"""A network with one hidden layer, fitted to probabilities or to classes with explicit gradients.

Predictors and exit heads are so small that automatic differentiation and a general optimizer would take most of the time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from quee.work.threads import one_thread

BETAS, EPSILON = (0.9, 0.999), 1e-8
RIDGE = 0.1
"""Penalty on the coefficients of `Lines`, so that separable targets have a solution."""
NEWTON = 30
"""Most steps in the fit of `Lines`."""


@dataclass(frozen=True)
class Fit:
    """Settings of a fit."""

    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int


class Perceptron:
    """Weights of inputs → rectified hidden units → outputs; weights and gradients are views of one flat vector each.

    With `skips`, so many of the last inputs do not enter the hidden units but are added to every output, with weights
    `skip` (outputs, skips).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, skips: int = 0) -> None:
        """`inputs` do not count the skips."""
        self.inputs = inputs
        self.shapes = [(hidden, inputs), (hidden,), (outputs, hidden), (outputs,), (outputs, skips)]
        self.flat = torch.zeros(sum(map(np.prod, self.shapes)))
        self.gradient = torch.zeros_like(self.flat)
        self.first, self.first_bias, self.last, self.last_bias, self.skip = self._views(self.flat)
        self._first, self._first_bias, self._last, self._last_bias, self._skip = self._views(self.gradient)

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([int(np.prod(shape)) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (n, D + skips) to hidden values (n, H) and logits (n, outputs)."""
        hidden = self._hidden(x)
        found = torch.addmm(self.last_bias, hidden, self.last.T)
        if self.skip.shape[1]:
            found.addmm_(x[:, self.inputs :], self.skip.T)
        return hidden, found

    def _hidden(self, x: Tensor) -> Tensor:
        return torch.addmm(self.first_bias, x[:, : self.inputs], self.first.T).relu_()

    def loss(self, x: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Mean cross-entropy over the known outputs; `target` and `known` (n, outputs), `known` 0 or 1."""
        return _cross_entropy(self.logits(x)[1], target, known)

    def differentiate(self, x: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """The loss; writes its gradient into `gradient`."""
        hidden, logits = self.logits(x)
        loss = _cross_entropy(logits, target, known)
        # The derivative of cross-entropy by a logit is σ(logit) - target.
        error = logits.sigmoid_().sub_(target).mul_(known).div_(known.sum().clamp_min(1))
        self._backward(x, hidden, error, hidden > 0)
        return loss

    def differentiate_classes(self, x: Tensor, y: Tensor, kept: Tensor | None) -> Tensor:
        """The mean cross-entropy (nats) of classes y (n,) by softmax; writes its gradient into `gradient`.

        `kept` (n, H) multiplies the hidden values: dropout's mask, scaled to a mean of one.
        """
        hidden = self._hidden(x)
        slope = (hidden > 0).float()
        if kept is not None:
            hidden.mul_(kept)
            slope.mul_(kept)
        log_probs = torch.addmm(self.last_bias, hidden, self.last.T).log_softmax(dim=1)
        each = torch.arange(len(y))
        loss = -log_probs[each, y].mean()
        # The derivative of cross-entropy by a logit is p - 1 for the class and p for the others.
        error = log_probs.exp_()
        error[each, y] -= 1
        self._backward(x, hidden, error.div_(len(y)), slope)
        return loss

    def _backward(self, x: Tensor, hidden: Tensor, error: Tensor, slope: Tensor) -> None:
        """Write the gradient, given the derivatives by the logits, and those of hidden values by what enters them."""
        torch.mm(error.T, hidden, out=self._last)
        torch.sum(error, 0, out=self._last_bias)
        if self.skip.shape[1]:
            torch.mm(error.T, x[:, self.inputs :], out=self._skip)
        behind = torch.mm(error, self.last).mul_(slope)
        torch.mm(behind.T, x[:, : self.inputs], out=self._first)
        torch.sum(behind, 0, out=self._first_bias)


def _cross_entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    return ((softplus(logits) - target * logits) * known).sum() / known.sum().clamp_min(1)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov, Hutter, 2019, algorithm 2) on one flat vector."""

    def __init__(self, weights: Tensor, rate: float, decay: float) -> None:
        self.weights, self.rate, self.decay = weights, rate, decay
        self.mean, self.square, self.steps = torch.zeros_like(weights), torch.zeros_like(weights), 0

    def step(self, gradient: Tensor) -> None:
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = (self.square / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPSILON)
        self.weights.mul_(1 - self.rate * self.decay)
        self.weights.addcdiv_(self.mean, spread, value=-self.rate / (1 - BETAS[0] ** self.steps))


@one_thread()
@torch.inference_mode()
def fit_perceptron(
    x: Tensor, y: np.ndarray, x_val: Tensor, y_val: np.ndarray, settings: Fit, lines: "Lines | None" = None
) -> tuple[Perceptron, list[dict[str, float]]]:
    """Fit outputs y (n, outputs) in [0, 1] (NaN: unknown) to inputs (n, D) by cross-entropy.

    Stops early on the validation rows and keeps the weights that were best there. Also returns the history by epoch. With
    `lines` the last input skips the hidden units; the network starts as these lines, and as them it is measured, too.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    skips = 0 if lines is None else 1
    model = _started(x.shape[1] - skips, settings.hidden, y.shape[1], generator, skips)
    if lines is None:
        rate = np.clip(np.nanmean(y, axis=0), 0.005, 0.995)
        model.last_bias.copy_(torch.from_numpy(np.log(rate / (1 - rate))))
    else:
        model.last.zero_()
        model.last_bias.copy_(torch.from_numpy(lines.intercept))
        model.skip.copy_(torch.from_numpy(lines.slope)[:, None])
    optimizer = AdamW(model.flat, settings.learning_rate, settings.weight_decay)
    (target, known), validation = _known(y), (x_val, *_known(y_val))

    best, kept, waited, history = float("inf"), model.flat.clone(), 0, []
    if lines is not None:
        best = model.loss(*validation).item()
    for epoch in range(settings.epochs):
        total = torch.zeros(())
        order = torch.randperm(len(x), generator=generator)
        for rows in order.split(settings.batch_size):
            total += len(rows) * model.differentiate(x[rows], target[rows], known[rows])
            optimizer.step(model.gradient)
        loss = model.loss(*validation).item()
        history.append({"epoch": epoch, "loss": total.item() / len(x), "validation_loss": loss})
        if loss < best - 1e-5:
            best, waited = loss, 0
            kept.copy_(model.flat)
        elif (waited := waited + 1) >= settings.patience:
            break
    model.flat.copy_(kept)
    return model, history


@dataclass(frozen=True)
class Lines:
    """Logits that are lines of one input, by output: intercepts and slopes (outputs,)."""

    intercept: np.ndarray
    slope: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray) -> "Lines":
        """Logistic regressions of outputs y (n, outputs) in [0, 1] (NaN: unknown) on x (n,), by Newton's method."""
        known = np.isfinite(y)
        target, z = np.where(known, y, 0.0), np.column_stack([np.ones(len(x)), x.astype(np.float64)])
        rate = np.clip(target.sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0.005, 0.995)
        w = np.stack([np.log(rate / (1 - rate)), np.zeros(y.shape[1])])  # (2, outputs)
        for _ in range(NEWTON):
            p = 1 / (1 + np.exp(-(z @ w)))
            slope = z.T @ ((p - target) * known) + RIDGE * w
            each = p * (1 - p) * known
            a, b, c = ((z[:, i] * z[:, j]) @ each for i, j in ((0, 0), (0, 1), (1, 1)))
            a, c = a + RIDGE, c + RIDGE
            step = np.stack([c * slope[0] - b * slope[1], a * slope[1] - b * slope[0]]) / (a * c - b * b)
            w -= np.clip(step, -2.0, 2.0)
            if np.abs(step).max() < 1e-8:
                break
        return cls(w[0], w[1])


def _known(y: np.ndarray) -> tuple[Tensor, Tensor]:
    known, target = np.isfinite(y), y.astype(np.float32)
    target[~known] = 0
    return torch.from_numpy(target), torch.from_numpy(known.astype(np.float32))


def _started(inputs: int, hidden: int, outputs: int, generator: torch.Generator, skips: int = 0) -> Perceptron:
    """A network with random weights and zero biases."""
    model = Perceptron(inputs, hidden, outputs, skips)
    for weight in (model.first, model.last):
        bound = weight.shape[1] ** -0.5
        weight.uniform_(-bound, bound, generator=generator)
    return model


@dataclass(frozen=True)
class ClassFit:
    """Settings of a fit to classes; the learning rate falls linearly to zero over the epochs."""

    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    dropout: float
    seed: int


@one_thread()
@torch.inference_mode()
def fit_classes(
    x: Tensor,
    y: Tensor,
    classes: int,
    settings: ClassFit,
    prepared: Callable[[Tensor], Tensor] = lambda rows: rows,
    said: Callable[[int, float], None] = lambda epoch, loss: None,
) -> tuple[Perceptron, list[float]]:
    """Fit classes y (n,) to inputs (n, D) by cross-entropy of the softmax.

    `prepared` makes the float32 inputs of a batch from its rows of x. `said` is called with each epoch's number, from 1,
    and its mean loss in nats; the losses are returned, too.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    model = _started(x.shape[1], settings.hidden, classes, generator)
    optimizer = AdamW(model.flat, settings.learning_rate, settings.weight_decay)
    steps, step, losses = settings.epochs * -(-len(x) // settings.batch_size), 0, []
    for epoch in range(settings.epochs):
        total = torch.zeros(())
        for rows in torch.randperm(len(x), generator=generator).split(settings.batch_size):
            kept = None
            if settings.dropout:
                drawn = torch.rand(len(rows), settings.hidden, generator=generator)
                kept = (drawn >= settings.dropout).float() / (1 - settings.dropout)
            optimizer.rate = settings.learning_rate * (1 - step / steps)
            total += len(rows) * model.differentiate_classes(prepared(x[rows]), y[rows], kept)
            optimizer.step(model.gradient)
            step += 1
        losses.append(total.item() / len(x))
        said(epoch + 1, losses[-1])
    return model, losses
