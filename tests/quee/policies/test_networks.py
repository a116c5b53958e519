"""Execution of predictors: exact integer products with the same bits as PyTorch's quantized layers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quee.policies.networks import CLIP, PRECISION, Layer, Network
from quee.predictors import quantized, standardised
from quee.quantization.layers import QuantizedLinear
from quee.quantization.weights import quantize_linear

PREFIXES = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, -9.0]], np.float32)
"""The last columns of the networks' inputs."""


def layers(inputs: int, hidden: int, outputs: int, seed: int) -> tuple[nn.Linear, nn.Linear, np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    prefix = random.integers(len(PREFIXES), size=64)
    x = np.concatenate([random.normal(size=(64, inputs - 2)).astype(np.float32), PREFIXES[prefix]], axis=1)
    first, last = nn.Linear(inputs, hidden).requires_grad_(False), nn.Linear(hidden, outputs).requires_grad_(False)
    return first, last, x, prefix


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(3, 60), outputs=st.integers(1, 30), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1, 50])
)
def test_hidden_units_and_logits_are_those_of_quantized_layers_bit_by_bit(inputs, outputs, seed, scale) -> None:
    first, last, x, prefix = layers(inputs, 32, outputs, seed)
    mean, spread = moments(x)
    own = quantized(mean, spread, first, last, x)
    z = standardised(x, mean, spread)
    torch_first = quantize_linear(first, z, PRECISION, "first")
    torch_last = quantize_linear(last, torch_first(z).relu(), PRECISION, "last")
    x[:, :-2] *= scale
    hidden = torch_first(standardised(x, mean, spread)).relu()
    assert np.array_equal(own.hidden(x), hidden.numpy())
    assert np.array_equal(own(x), torch_last(hidden).numpy())
    known, logits = own.reader(PREFIXES)(x[:, :-2], prefix)
    assert np.array_equal(known, own.hidden(x)) and np.array_equal(logits, own(x))
    assert np.array_equal(own.reader(PREFIXES)(x[3:4, :-2], prefix[3:4])[1], logits[3:4])


@pytest.mark.parametrize("width", [100, 3000])
def test_layers_of_any_width_are_exact(width: int) -> None:
    random = np.random.default_rng(0)
    layer = QuantizedLinear(nn.Linear(width, 5), PRECISION)
    layer.input.set_range(-1.0, 3.0)
    layer.set_weight(torch.full((5, width), 127), torch.full((5,), 0.01), None)
    layer.finalize()
    own = Layer.from_arrays({key: value.numpy() for key, value in layer.state_dict().items()})
    x = random.normal(2.5, 0.3, (17, width)).astype(np.float32)
    found = own.rescaled(own.product(own.integers(x, own.grid(CLIP))))
    assert np.array_equal(found, layer(torch.from_numpy(x)).numpy())


def test_networks_survive_storage() -> None:
    first, last, x, _ = layers(9, 8, 3, 1)
    own = quantized(*moments(x), first, last, x)
    assert np.array_equal(Network.from_arrays("gate.1", own.arrays("gate.1"))(x), own(x))


def test_policies_and_what_they_read_need_no_torch() -> None:
    code = "import sys; import quee.policies, quee.policies.networks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
