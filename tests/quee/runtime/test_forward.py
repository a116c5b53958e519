"""Predictors without PyTorch give PyTorch's bits."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quee.predictors import Network
from quee.runtime.forward import Forward

PREFIXES = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, -9.0]], np.float32)
"""The last columns of what networks see here."""


def network(inputs: int, hidden: int, outputs: int, seed: int) -> tuple[Network, np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    prefix = random.integers(len(PREFIXES), size=64)
    x = np.concatenate([random.normal(size=(64, inputs - 2)).astype(np.float32), PREFIXES[prefix]], axis=1)
    layers = (nn.Linear(inputs, hidden).requires_grad_(False), nn.Linear(hidden, outputs).requires_grad_(False))
    return Network.quantized(x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64), *layers, x), x, prefix


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(3, 60), outputs=st.integers(1, 30), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1, 50])
)
def test_hidden_units_and_logits_are_those_of_the_network_bit_by_bit(inputs, outputs, seed, scale) -> None:
    own, x, prefix = network(inputs, 32, outputs, seed)
    x[:, :-2] *= scale
    forward = Forward(own, PREFIXES)
    assert forward.plain
    hidden, logits = forward(x[:, :-2], prefix)
    assert np.array_equal(hidden, own.hidden(x)) and np.array_equal(logits, own(x))
    assert np.array_equal(forward(x[3:4, :-2], int(prefix[3]))[1], logits[3:4])


def test_layers_too_wide_for_exact_sums_are_left_to_pytorch() -> None:
    own, x, prefix = network(3000, 8, 2, 0)
    own.first._size = 100  # as where sums could pass 2^24
    forward = Forward(own, PREFIXES)
    assert not forward.plain
    assert np.array_equal(forward(x[:, :-2], prefix)[1], own(x))
    assert np.array_equal(forward(x[3:4, :-2], int(prefix[3]))[1], own(x[3:4]))
