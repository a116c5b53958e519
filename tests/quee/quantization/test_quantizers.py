"""Laws of the uniform quantizers and of the search of their scales."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from quee.errors import QueeError
from quee.quantization.grids import search_range
from quee.quantization.layers import AffineQuantizer
from quee.quantization.weights import quantize_weight

METHODS = ("minmax", "percentile", "mse")
bits = st.integers(2, 8)
ends = st.floats(-1e4, 1e4, width=32)
seeds = st.integers(0, 2**16)


def drawn(seed: int, size: int = 2000) -> np.ndarray:
    """Values (size,) with unequal tails and a scale that depends on the seed."""
    random = np.random.default_rng(seed)
    values = random.normal(random.uniform(-1, 1), 1, size) * np.exp(random.uniform(-5, 5))
    return np.where(values > 0, values * random.uniform(0.2, 3), values).astype(np.float32)


def dequantized(quantizer: AffineQuantizer, x: torch.Tensor) -> torch.Tensor:
    return quantizer(x) * quantizer.scale


def range_error(values: np.ndarray, number: int, method: str) -> float:
    quantizer = AffineQuantizer(number).set_range(*search_range(values, number, method, "layer"))
    x = torch.from_numpy(values)
    return float((dequantized(quantizer, x) - x).double().square().mean())


@given(ends, ends, bits)
def test_error_is_at_most_half_a_step_inside_the_range(a: float, b: float, number: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(high - low > 1e-3)
    quantizer = AffineQuantizer(number).set_range(low, high)
    x = torch.linspace(low, high, 501)
    assert float((dequantized(quantizer, x) - x).abs().max()) <= 0.5 * float(quantizer.scale) * (1 + 1e-4)


@given(ends, ends, bits, seeds)
def test_quantizing_again_changes_nothing(a: float, b: float, number: int, seed: int) -> None:
    quantizer = AffineQuantizer(number).set_range(min(a, b), max(a, b))
    once = quantizer(torch.from_numpy(drawn(seed, 300)))
    assert torch.equal(quantizer(once * quantizer.scale), once)


@given(ends, ends, bits, seeds)
def test_integers_stay_within_the_bits_and_zero_is_exact(a: float, b: float, number: int, seed: int) -> None:
    quantizer = AffineQuantizer(number).set_range(min(a, b), max(a, b))
    integers = quantizer(torch.from_numpy(drawn(seed, 300)) * 1e4)
    assert torch.equal(integers, integers.round())
    stored = integers + quantizer.zero_point
    assert float(stored.min()) >= 0
    assert float(stored.max()) <= 2**number - 1
    assert float(integers.abs().max()) <= quantizer.largest <= 2**number - 1
    assert float(quantizer(torch.zeros(1))) == 0.0


def test_a_worked_example() -> None:
    quantizer = AffineQuantizer(3).set_range(-1.0, 6.0)  # step 1, zero point 1: -1 … 6
    x = torch.tensor([-9.0, -1.0, 0.4, 0.5, 1.5, 2.5, 6.0, 9.0])
    assert quantizer(x).tolist() == [-1, -1, 0, 0, 2, 2, 6, 6]  # half to even
    assert (float(quantizer.scale), int(quantizer.zero_point)) == (1.0, 1)


def test_the_range_is_widened_to_hold_zero() -> None:
    quantizer = AffineQuantizer(8).set_range(3.0, 5.1)
    assert (quantizer.low, quantizer.high) == (0.0, 255.0)
    assert float(quantizer.scale) == pytest.approx(5.1 / 255)


def test_loaded_buffers_give_the_same_integers() -> None:
    first = AffineQuantizer(4).set_range(-0.3, 2.0)
    second = AffineQuantizer(4)
    second.load_state_dict(first.state_dict())
    x = torch.linspace(-1, 3, 200)
    assert torch.equal(second.finalize()(x), first(x))


@given(seeds)
def test_minmax_error_does_not_grow_with_bits(seed: int) -> None:
    errors = [range_error(drawn(seed), number, "minmax") for number in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("number", [3, 4, 8])
@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_a_search_is_no_worse_than_the_full_range(method: str, number: int) -> None:
    for seed in range(5):
        values = drawn(seed)
        assert range_error(values, number, method) <= range_error(values, number, "minmax") * (1 + 1e-6)


def test_a_search_cuts_off_an_outlier() -> None:
    values = np.append(np.random.default_rng(0).normal(size=2000), 12.0)
    low, high = search_range(values, 4, "mse", "layer")
    assert low < 0 < high < 8
    assert search_range(values, 4, "minmax", "layer")[1] == 12.0


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_all_zero_have_an_empty_range_that_still_quantizes(method: str) -> None:
    assert search_range(np.zeros(10), 8, method, "layer") == (0.0, 0.0)
    quantizer = AffineQuantizer(8).set_range(0.0, 0.0)
    assert dequantized(quantizer, torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign_keep_zero_at_an_end(sign: int, method: str) -> None:
    low, high = search_range(sign * np.abs(drawn(3)), 4, method, "layer")
    assert (low, high)[sign < 0] == 0.0
    assert high > low


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_search_refuses_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(QueeError, match=r"blocks\.3\.attn\.qkv.*NaN or infinity"):
        search_range(np.array([0.0, bad, 1.0]), 8, "mse", "blocks.3.attn.qkv")


def test_a_search_refuses_no_values() -> None:
    with pytest.raises(QueeError, match=r"blocks\.3\.attn\.qkv: no calibration values"):
        search_range(np.zeros((0, 4)), 8, "mse", "blocks.3.attn.qkv")


@given(seeds, bits)
def test_weights_are_symmetric_integers_within_half_a_step_of_the_float(seed: int, number: int) -> None:
    weight = torch.from_numpy(drawn(seed, 60).reshape(6, 10))
    integers, scale = quantize_weight(weight, number, "minmax")
    limit = 2 ** (number - 1) - 1
    assert torch.equal(integers, integers.round())
    assert float(integers.abs().max()) == limit
    error = (integers.double() * scale[:, None].double() - weight.double()).abs()
    assert bool((error <= 0.5 * scale[:, None] * (1 + 1e-5)).all())
    again, _ = quantize_weight(integers * scale[:, None], number, "minmax")
    assert torch.equal(again, integers)


@given(seeds)
def test_minmax_weight_error_does_not_grow_with_bits(seed: int) -> None:
    weight = torch.from_numpy(drawn(seed).reshape(4, 500))
    errors = []
    for number in range(2, 9):
        integers, scale = quantize_weight(weight, number, "minmax")
        errors.append(float((integers * scale[:, None] - weight).double().square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_a_weight_search_lowers_each_channels_weighted_error() -> None:
    weight = torch.from_numpy(drawn(5, 640).reshape(8, 80))
    importance = torch.linspace(0.01, 4.0, 80)

    def errors(method: str) -> torch.Tensor:
        integers, scale = quantize_weight(weight, 3, method, importance)
        return ((integers * scale[:, None] - weight).double().square() * importance).sum(dim=1)

    assert bool((errors("mse") <= errors("minmax") * (1 + 1e-5)).all())
    assert float(errors("mse").sum()) < 0.9 * float(errors("minmax").sum())


def test_channels_are_quantized_apart_and_a_zero_channel_stays_zero() -> None:
    weight = torch.tensor([[1000.0, -300.0], [0.001, 0.0003], [0.0, 0.0]])
    integers, scale = quantize_weight(weight, 8, "minmax")
    assert integers.tolist() == [[127, -38], [127, 38], [0, 0]]
    assert float(scale[0]) == pytest.approx(1000 / 127)
    assert float(scale[1]) == pytest.approx(0.001 / 127)
