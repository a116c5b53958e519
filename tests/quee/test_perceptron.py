"""Explicit gradients and steps equal torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from quee._perceptron import AdamW, ClassFit, Fit, Lines, Perceptron, fit_classes, fit_perceptron


def problem(seed: int, n: int, inputs: int, hidden: int, outputs: int) -> tuple[Perceptron, torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    model = Perceptron(inputs, hidden, outputs)
    model.flat.normal_(generator=generator)
    x = torch.randn(n, inputs, generator=generator)
    target = torch.rand(n, outputs, generator=generator)
    known = (torch.rand(n, outputs, generator=generator) < 0.7).float()
    return model, x, target, known


def as_torch(model: Perceptron) -> nn.Sequential:
    hidden, inputs = model.first.shape
    found = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, len(model.last)))
    with torch.no_grad():
        parts = (model.first, model.first_bias, model.last, model.last_bias)
        for parameter, value in zip(found.parameters(), parts, strict=True):
            parameter.copy_(value)
    return found


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 9), st.integers(1, 8), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_loss_and_gradient_are_those_of_automatic_differentiation(seed, n, inputs, hidden, outputs):
    model, x, target, known = problem(seed, n, inputs, hidden, outputs)
    peer = as_torch(model)
    each = binary_cross_entropy_with_logits(peer(x), target, reduction="none")
    expected = (each * known).sum() / known.sum().clamp_min(1)
    expected.backward()
    loss = model.differentiate(x, target, known)
    gradient = torch.cat([parameter.grad.flatten() for parameter in peer.parameters()])
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.gradient, gradient, rtol=1e-4, atol=1e-6)


@given(
    st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 9), st.integers(1, 8), st.integers(2, 7), st.booleans()
)
@settings(deadline=None, max_examples=40)
def test_gradient_of_classes_is_that_of_automatic_differentiation(seed, n, inputs, hidden, outputs, dropout):
    model, x, _, _ = problem(seed, n, inputs, hidden, outputs)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(outputs, (n,), generator=generator)
    kept = (torch.rand(n, hidden, generator=generator) < 0.5).float() * 2 if dropout else None
    peer = as_torch(model)
    values = peer[:2](x)
    expected = cross_entropy(peer[2](values if kept is None else values * kept), y)
    expected.backward()
    loss = model.differentiate_classes(x, y, kept)
    gradient = torch.cat([parameter.grad.flatten() for parameter in peer.parameters()])
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_classes_that_no_line_separates_are_learned_the_same_on_any_number_of_threads(dropout):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 2, generator=generator)
    y = ((x[:, 0] * x[:, 1]) > 0).long()
    options = ClassFit(16, 60, 64, 0.02, 0.0, dropout, 0)
    model, losses = fit_classes(x.half(), y, 2, options, lambda rows: rows.float())
    assert losses[0] > 0.6 and (model.logits(x)[1].argmax(1) == y).float().mean() > 0.9
    torch.set_num_threads(2)
    again, _ = fit_classes(x.half(), y, 2, options, lambda rows: rows.float())
    torch.set_num_threads(1)
    assert torch.equal(model.flat, again.flat)


def test_steps_are_those_of_adam_with_decoupled_weight_decay():
    model, x, target, known = problem(0, 50, 6, 5, 4)
    peer, own = as_torch(model), AdamW(model.flat, 0.03, 0.1)
    optimizer = torch.optim.AdamW(peer.parameters(), 0.03, weight_decay=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        each = binary_cross_entropy_with_logits(peer(x), target, reduction="none")
        ((each * known).sum() / known.sum()).backward()
        optimizer.step()
        model.differentiate(x, target, known)
        own.step(model.gradient)
    flat = torch.cat([parameter.detach().flatten() for parameter in peer.parameters()])
    torch.testing.assert_close(model.flat, flat, rtol=1e-3, atol=1e-4)


def test_it_stops_early_and_keeps_the_best_weights():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(60, 8)).astype(np.float32))
    y, y_val = rng.integers(0, 2, (2, 60, 3)).astype(np.float64)  # noise: validation soon gets worse
    y[:5] = np.nan
    options = Fit(hidden=16, epochs=400, batch_size=32, learning_rate=0.02, weight_decay=0.0, patience=5, seed=1)
    model, history = fit_perceptron(x, y, x, y_val, options)
    losses = [row["validation_loss"] for row in history]
    assert len(losses) < 400
    assert np.argmin(losses) <= len(losses) - 5
    kept = model.loss(x, torch.from_numpy(y_val).float(), torch.ones(60, 3)).item()
    assert abs(kept - min(losses)) < 1e-5


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 9), st.integers(1, 7))
@settings(deadline=None, max_examples=30)
def test_gradient_with_an_input_that_skips_is_that_of_automatic_differentiation(seed, n, inputs, outputs):
    generator = torch.Generator().manual_seed(seed)
    model = Perceptron(inputs, 5, outputs, 1)
    model.flat.normal_(generator=generator)
    x, target = torch.randn(n, inputs + 1, generator=generator), torch.rand(n, outputs, generator=generator)
    peer, skip = as_torch(model), model.skip.clone().requires_grad_()
    expected = binary_cross_entropy_with_logits(peer(x[:, :-1]) + x[:, -1:] @ skip.T, target)
    expected.backward()
    loss = model.differentiate(x, target, torch.ones(n, outputs))
    gradient = torch.cat([*(parameter.grad.flatten() for parameter in peer.parameters()), skip.grad.flatten()])
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.gradient, gradient, rtol=1e-4, atol=1e-6)


def test_lines_are_logistic_regressions_by_output_on_what_is_known():
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    slope, intercept = np.array([-1.5, 0.7, 0.0]), np.array([0.3, -1.0, 2.0])
    y = (rng.random((4000, 3)) < 1 / (1 + np.exp(-(x[:, None] * slope + intercept)))).astype(float)
    y[rng.random(y.shape) < 0.3] = np.nan
    found = Lines.fit(x, y)
    assert np.abs(found.slope - slope).max() < 0.15
    assert np.abs(found.intercept - intercept).max() < 0.15


def test_a_start_that_no_epoch_improves_on_validation_is_kept():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(60, 9)).astype(np.float32))
    y, y_val = rng.integers(0, 2, (2, 60, 3)).astype(np.float64)
    lines = Lines(np.zeros(3), np.zeros(3))
    options = Fit(hidden=16, epochs=50, batch_size=8, learning_rate=0.1, weight_decay=0.0, patience=50, seed=1)
    model, history = fit_perceptron(x, y, x, y_val, options, lines)
    assert min(row["validation_loss"] for row in history) > np.log(2)
    assert not model.last.any() and not model.skip.any()
