"""Searches of ranges, and grids that are not uniform: laws of the quantizer, and the choices of the searches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uneven import drawn

from quee.errors import QueeError
from quee.quantization.grids import GRIDS, LEVEL_BITS, Sample, search_quantizer, search_range, thinned
from quee.quantization.layers import AffineQuantizer, CodebookQuantizer

METHODS = ("minmax", "percentile", "mse")
seeds = st.integers(0, 2**16)
bits = st.integers(3, 7)


def probabilities(seed: int, tokens: int = 40) -> np.ndarray:
    """Softmax outputs, most of them small, (rows, tokens)."""
    logits = np.random.default_rng(seed).normal(0, 2.5, (60, tokens))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def gelu(seed: int) -> np.ndarray:
    x = torch.randn(60, 40, generator=torch.Generator().manual_seed(seed)) * 1.5
    return torch.nn.functional.gelu(x).numpy()


DATA = {"log": probabilities, "two_range": gelu, "shifted_log": gelu}


def codebook(family: str, seed: int, number: int) -> CodebookQuantizer:
    values = DATA[family](seed)
    levels = next(iter(GRIDS[family](Sample(values), number)))
    scale = float(np.abs(levels).max()) / (2 ** LEVEL_BITS[family] - 1)
    return CodebookQuantizer(number).set_levels(levels / scale, scale)


def error(quantizer: AffineQuantizer | CodebookQuantizer, values: np.ndarray) -> float:
    x = torch.from_numpy(values)
    return float((quantizer(x) * quantizer.scale - x).double().square().mean())


@given(st.sampled_from(sorted(DATA)), seeds, bits)
def test_levels_are_integers_within_the_bits_and_quantizing_again_changes_nothing(
    family: str, seed: int, number: int
) -> None:
    quantizer = codebook(family, seed, number)
    once = quantizer(torch.from_numpy(DATA[family](seed + 1)))
    assert len(once.unique()) <= 2**number
    assert torch.equal(once, once.round())
    assert float(once.abs().max()) <= quantizer.largest < 2 ** LEVEL_BITS[family]
    assert torch.equal(quantizer(once * quantizer.scale), once)


@given(st.sampled_from(sorted(DATA)), seeds, bits)
def test_a_value_takes_the_nearest_level_to_within_one_unit_of_fixed_point(family: str, seed: int, number: int) -> None:
    quantizer = codebook(family, seed, number)
    x = torch.from_numpy(DATA[family](seed))
    levels = quantizer.levels.double() * quantizer.scale.double()
    least = (x.double().unsqueeze(-1) - levels).abs().amin(dim=-1)
    found = (x.double() - quantizer(x).double() * quantizer.scale.double()).abs()
    assert float((found - least).max()) <= (1 + 1e-3) * float(quantizer.scale)


@pytest.mark.parametrize("family", sorted(DATA))
def test_error_does_not_grow_with_bits(family: str) -> None:
    values = DATA[family](3)
    errors = [error(search_quantizer(values, n, "mse", "layer", families=(family,)), values) for n in range(3, 8)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("family", "number"), [("log", 3), ("log", 4), ("two_range", 3), ("two_range", 4), ("shifted_log", 4)]
)
def test_a_grid_is_taken_only_where_it_errs_less_than_the_uniform_one(family: str, number: int) -> None:
    values = DATA[family](5)
    uniform = search_quantizer(values, number, "mse", "layer")
    searched = search_quantizer(values, number, "mse", "layer", families=(family,))
    assert isinstance(uniform, AffineQuantizer)
    assert isinstance(searched, CodebookQuantizer)
    assert error(searched, values) < 0.9 * error(uniform, values)
    even = np.linspace(0, 1, 4096, dtype=np.float32).reshape(-1, 64)
    assert isinstance(search_quantizer(even, 4, "mse", "layer", families=("log",)), AffineQuantizer)


def test_a_log_grid_by_hand() -> None:
    quantizer = CodebookQuantizer(3).set_levels(np.array([0, 1, 2, 4, 8, 16, 32, 64]), 1 / 64)  # powers of two and zero
    x = torch.tensor([0.0, 0.004, 0.02, 0.05, 0.3, 0.37, 0.4, 2.0])
    assert quantizer(x).tolist() == [0, 0, 1, 2, 16, 16, 32, 64]


def test_fewer_levels_than_codes_leave_codes_unused_and_survive_storage() -> None:
    first = CodebookQuantizer(4).set_levels(np.array([-2, 0, 0, 5]), 0.5)
    second = CodebookQuantizer(4)
    second.load_state_dict(first.state_dict())
    x = torch.linspace(-2, 4, 50)
    assert torch.equal(second.finalize()(x), first(x))
    assert set(first(x).tolist()) == {-2.0, 0.0, 5.0}


def test_a_search_heeds_the_weights_of_the_errors() -> None:
    values = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 6.0]
    narrow = search_quantizer(values, 3, "mse", "layer", np.array([1.0, 1e-6]))
    wide = search_quantizer(values, 3, "mse", "layer", np.array([1e-6, 1.0]))
    assert 2 * float(narrow.scale) < float(wide.scale)


def test_a_sample_keeps_sum_extremes_and_mean_of_what_it_groups() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    sample = Sample(values)
    assert len(sample.values) < 2000
    assert sample.weights.sum() == len(values)
    assert (sample.values[0], sample.values[-1]) == (values.min(), values.max())
    assert sample.values @ sample.weights == pytest.approx(values.sum(), abs=1e-9)
    assert bool((np.diff(sample.values) >= 0).all())


def test_rows_are_thinned_evenly() -> None:
    rows = np.arange(30_000.0).reshape(-1, 30)
    kept = thinned(rows, 3000)
    assert kept.shape == (100, 30)
    assert (kept[0, 0], kept[-1, -1]) == (0.0, 29_999.0)


def range_error(values: np.ndarray, number: int, method: str) -> float:
    return error(AffineQuantizer(number).set_range(*search_range(values, number, method, "layer")), values)


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
    assert quantizer(torch.zeros(3)).tolist() == [0, 0, 0]


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
