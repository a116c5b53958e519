"""Bits by layer: within the segment's budget, the best choice, and nearer to the float network."""

from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quee.cost import BitFlops, trace_cost
from quee.errors import QueeError
from quee.network import HEAD
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import own_layers, quantizable
from quee.quantization.mixed import GAP, least_error, sensitivity, with_mixed_bits
from quee.settings.quantize import QuantizationConfig

W3A3, W4A4 = Precision("w3a3"), Precision("w4a4")
IMAGES = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
NEW = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def backbone() -> SegmentedBackbone:
    """Weights five times as large as initial ones, so that attention is far from uniform, as in a trained network."""
    torch.manual_seed(0)
    network = create_backbone("vit_digits", embed_dim=32, depth=4, gates=(2, 4)).requires_grad_(False)
    for name, value in network.named_parameters():
        if name.startswith("blocks.") and value.dim() > 1:
            value.mul_(5)
    return network


@pytest.fixture(scope="module")
def mixed(backbone: SegmentedBackbone) -> dict[str, QuantizationConfig]:
    configs = [QuantizationConfig(name) for name in ("w3a3", "w4a4", "w8a8")]
    return {str(config.precision): config for config in with_mixed_bits(backbone, configs, [IMAGES])}


@st.composite
def knapsacks(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], float]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    number = st.floats(0.01, 10.0)
    errors = [draw(st.lists(number, min_size=n, max_size=n)) for n in sizes]
    costs = [draw(st.lists(number, min_size=n, max_size=n)) for n in sizes]
    least, most = sum(map(min, costs)), sum(map(max, costs))
    return errors, costs, least + draw(st.floats(0.001, 1.0)) * max(most - least, 1e-3)


@given(knapsacks())
@settings(max_examples=60, deadline=None)
def test_no_choice_within_the_budget_errs_less(problem: tuple[list[list[float]], list[list[float]], float]) -> None:
    errors, costs, budget = problem
    chosen = least_error(errors, costs, budget)

    def total(table: list[list[float]], choice: tuple[int, ...] | list[int]) -> float:
        return sum(row[index] for row, index in zip(table, choice, strict=True))

    possible = [c for c in product(*(range(len(row)) for row in errors)) if total(costs, c) <= budget]
    assert total(costs, chosen) <= budget * (1 + 1e-6)
    assert total(errors, chosen) <= min(total(errors, c) for c in possible) * (1 + GAP) + 1e-6


def test_a_budget_below_the_cheapest_choices_is_refused() -> None:
    with pytest.raises(QueeError, match="a budget of 2 BitFLOPs; the cheapest choices need 3"):
        least_error([[1.0, 2.0], [1.0]], [[5.0, 1.0], [2.0]], 2.0)


def test_no_segment_costs_more_than_at_uniform_bits(
    backbone: SegmentedBackbone, mixed: dict[str, QuantizationConfig]
) -> None:
    plain: BitFlops = trace_cost(backbone)
    cost: BitFlops = trace_cost(backbone, layers=own_layers(backbone, mixed.values()))
    for precision in (W3A3, W4A4):
        for segment in (1, 2):
            assert 0.9 < cost.bitflops(segment, precision) / plain.bitflops(segment, precision) <= 1
        assert cost.bitflops(HEAD, precision) == plain.bitflops(HEAD, precision)
    assert cost.unit == plain.unit
    assert BitFlops.from_json(cost.to_json()) == cost
    assert mixed["w8a8"] == QuantizationConfig("w8a8")


def error(model: SegmentedBackbone, backbone: SegmentedBackbone, images: Tensor) -> float:
    """Signal-to-noise ratio of the float head's logits on the last state; the head's own error at w8a8 is left out."""
    with torch.inference_mode():
        answer = backbone.classify(model.forward_to(2, images))
        return float((answer - backbone(images)).square().mean())


@pytest.mark.parametrize("name", ["w3a3", "w4a4"])
def test_the_answer_is_nearer_to_the_float_networks(
    backbone: SegmentedBackbone, mixed: dict[str, QuantizationConfig], name: str
) -> None:
    uniform = quantize_(deepcopy(backbone), QuantizationConfig(name), [IMAGES])
    own = quantize_(deepcopy(backbone), mixed[name], [IMAGES])
    assert error(own, backbone, NEW) < 0.85 * error(uniform, backbone, NEW)  # type: ignore[arg-type]
    executed = {n: str(m.precision) for n, m in own.named_modules() if hasattr(m, "precision")}
    assert {layer: str(p) for layer, p in mixed[name].layers.items()}.items() <= executed.items()


def test_the_same_samples_give_the_same_bits(backbone: SegmentedBackbone, mixed: dict[str, QuantizationConfig]) -> None:
    again = with_mixed_bits(backbone, [QuantizationConfig("w3a3")], [IMAGES])
    assert again[0].layers == mixed["w3a3"].layers


def test_what_has_bits_of_its_own_keeps_them(backbone: SegmentedBackbone) -> None:
    given_ = QuantizationConfig("w3a3", stem="w8a8", layers={"blocks.*.mlp.fc2": "w4a4"})
    (found,) = with_mixed_bits(backbone, [given_], [IMAGES])
    layers = dict(found.layers)
    assert all(layers[f"blocks.{i}.mlp.fc2"] == W4A4 for i in range(4))
    assert "patch_embed.proj" not in layers
    cost = trace_cost(backbone, stem="w8a8", layers=own_layers(backbone, [found]))
    uniform = trace_cost(backbone, stem="w8a8", layers=own_layers(backbone, [given_]))
    assert np.all([cost.bitflops(s, W3A3) <= uniform.bitflops(s, W3A3) for s in (1, 2)])


def test_every_layer_has_its_error_and_fewer_bits_a_larger_one() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2))
    images = torch.randn(32, 1, 8, 8)
    with torch.inference_mode():
        labels = backbone(images).argmax(dim=1)
    before = deepcopy(backbone.state_dict())
    mean = {}
    for name in ("w3a3", "w6a6"):
        quantized = quantize_(deepcopy(backbone), QuantizationConfig(Precision(name)), [images])
        rows = sensitivity(backbone, quantized, images, labels)  # type: ignore[arg-type]
        assert sorted(row["layer"] for row in rows) == sorted(quantizable(backbone))
        assert [row["segment"] for row in rows] == [1] * 7 + [2] * 6 + [0]
        assert {row["precision"] for row in rows if row["segment"]} == {name}
        assert all(row["accuracy_change"] <= 0 and row["agreement"] == 1 + row["accuracy_change"] for row in rows)
        mean[name] = sum(row["sqnr_db"] for row in rows[:-1]) / (len(rows) - 1)
    assert mean["w6a6"] > mean["w3a3"] + 10
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
