"""Predictors without PyTorch give PyTorch's bits."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quee.predictors import Network
from quee.runtime.forward import Forward


def network(inputs: int, hidden: int, outputs: int, seed: int) -> tuple[Network, np.ndarray]:
    torch.manual_seed(seed)
    x = np.random.default_rng(seed).normal(size=(64, inputs)).astype(np.float32)
    layers = (nn.Linear(inputs, hidden).requires_grad_(False), nn.Linear(hidden, outputs).requires_grad_(False))
    return Network.quantized(x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64), *layers, x), x


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 60), outputs=st.integers(1, 30), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1, 50])
)
def test_hidden_units_and_logits_are_those_of_the_network_bit_by_bit(inputs, outputs, seed, scale) -> None:
    own, x = network(inputs, 32, outputs, seed)
    forward = Forward(own)
    assert forward.plain
    hidden, logits = forward(scale * x)
    assert np.array_equal(hidden, own.hidden(scale * x)) and np.array_equal(logits, own(scale * x))
    assert np.array_equal(forward(scale * x[3:4])[1], logits[3:4])


def test_layers_too_wide_for_exact_sums_are_left_to_pytorch() -> None:
    own, x = network(3000, 8, 2, 0)
    own.first._size = 100  # as where sums could pass 2^24
    forward = Forward(own)
    assert not forward.plain
    assert np.array_equal(forward(x)[1], own(x))
