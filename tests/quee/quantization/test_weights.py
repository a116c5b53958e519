"""Scales of weights, ridge regression, compensated rounding, folding and packing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from uneven import drawn

from quee.errors import IntegrityError
from quee.quantization.calibration import channel_affine, channel_ranges, fold, unfold_weight
from quee.quantization.layers import pack, unpack
from quee.quantization.weights import confirmed_ridge, quantize_weight, ridge, round_compensated

seeds = st.integers(0, 2**16)


def layer(seed: int = 0, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Weight (12, 30) and inputs (rows, 30) that are correlated like activations."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(30, 30)) * np.exp(random.normal(size=30))
    return random.normal(size=(12, 30)), random.normal(size=(rows, 30)) @ mixing


def test_ridge_recovers_the_layer_that_made_the_outputs() -> None:
    weight, x = layer()
    other, _ = layer(1)
    assert np.allclose(next(ridge(weight, x, x @ other.T + 3.0, 1e-12)), other, atol=1e-4)
    assert np.allclose(next(ridge(weight, x, x @ weight.T, 0.1)), weight)
    assert np.allclose(next(ridge(weight, x, x @ other.T, 1e9)), weight, atol=1e-4)


def test_ridge_on_disturbed_inputs_lowers_the_outputs_error() -> None:
    weight, x = layer()
    disturbed = np.rint(x / 4) * 4
    fitted = next(ridge(weight, disturbed, x @ weight.T, 1e-3))

    def error(found: np.ndarray) -> float:
        missing = x @ weight.T - disturbed @ found.T
        return float(np.square(missing - missing.mean(axis=0)).mean())

    assert error(fitted) < error(weight)


def test_a_regression_that_other_rows_do_not_confirm_is_not_made() -> None:
    weight, x = layer(rows=40)
    noise = np.random.default_rng(2).normal(size=(40, 12)) * 50
    assert np.array_equal(confirmed_ridge(weight, x, x @ weight.T + noise, 1e-6), weight)
    other, _ = layer(1)
    assert np.abs(confirmed_ridge(weight, x, x @ other.T, 1e-9) - other).max() < 0.1
    assert np.array_equal(confirmed_ridge(weight, x[:3], x[:3] @ other.T, 1e-9), weight)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_compensated_rounding_errs_less_in_the_output_than_the_nearest(bits: int) -> None:
    weight, x = layer()
    moments = x.T @ x / len(x)
    nearest, scale = quantize_weight(torch.from_numpy(weight), bits, "mse", torch.from_numpy(np.diag(moments).copy()))
    limit = 2 ** (bits - 1) - 1
    compensated, latent = round_compensated(weight, scale.double().numpy(), limit, moments)
    assert np.array_equal(compensated, np.rint(compensated))
    assert np.abs(compensated).max() <= limit
    assert np.array_equal(np.rint(np.clip(latent, -limit, limit)), compensated)

    def error(integers: np.ndarray) -> float:
        return float(np.square(x @ (integers * scale.numpy()[:, None] - weight).T).mean())

    assert error(compensated) < 0.8 * error(nearest.numpy())


def test_without_correlations_compensated_rounding_is_the_nearest() -> None:
    weight, _ = layer()
    nearest, scale = quantize_weight(torch.from_numpy(weight), 4)
    found, _ = round_compensated(weight, scale.double().numpy(), 7, np.eye(30))
    assert np.array_equal(found, nearest.numpy())


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = layer()
    scale, moments = np.abs(weight).max(axis=1) / 3, x.T @ x
    whole, _ = round_compensated(weight, scale, 3, moments)
    monkeypatch.setattr("quee.quantization.weights.COLUMNS", 7)
    assert np.array_equal(round_compensated(weight, scale, 3, moments)[0], whole)


def test_folding_leaves_the_float_function_as_it_was() -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(16), nn.Linear(16, 8, bias=False)
    nn.init.normal_(norm.weight, 1.0, 0.5)
    nn.init.normal_(norm.bias)
    x = torch.randn(100, 16)
    with torch.inference_mode():
        expected = linear(norm(x))
        shift, ratio = channel_affine(norm(x).numpy(), 4)
        weight, bias = unfold_weight(linear.weight.double().numpy(), np.zeros(8), shift, ratio)
        fold(norm, shift, ratio)
        found = norm(x).double() @ torch.from_numpy(weight).t() + torch.from_numpy(bias)
    assert float((found - expected).abs().max()) < 1e-5


def test_after_folding_all_channels_have_one_range() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 6)) * [0.1, 1, 2, 5, 10, 1] + [0, 3, -3, 0, 50, 0]
    shift, ratio = channel_affine(rows, 4)
    spread = (rows - shift) / ratio
    assert spread.std(axis=0).max() < 1.4 * spread.std(axis=0).min()
    low, high = channel_ranges(rows, 4)
    assert bool((low >= rows.min(axis=0) - 1e-9).all())
    assert bool((high <= rows.max(axis=0) + 1e-9).all())


@given(st.integers(2, 8).flatmap(lambda bits: st.tuples(st.just(bits), _integers(bits))))
def test_packed_weights_are_read_back_exactly_and_take_their_bits(drawn: tuple[int, np.ndarray]) -> None:
    bits, integers = drawn
    packed = pack(integers, bits)
    assert packed.nbytes == -(-integers.size * bits // 8)
    assert np.array_equal(unpack(packed, bits, integers.shape), integers)


def _integers(bits: int) -> st.SearchStrategy[np.ndarray]:
    limit = 2 ** (bits - 1)
    shapes = st.tuples(st.integers(1, 7), st.integers(1, 13))
    return arrays(np.int8, shapes, elements=st.integers(-limit, limit - 1))


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(IntegrityError, match=r"blocks\.0: \(3,\) bytes do not hold \(3, 5\) weights of 4 bits"):
        unpack(np.zeros(3, np.uint8), 4, (3, 5), "blocks.0")


@given(seeds, st.integers(2, 8))
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
