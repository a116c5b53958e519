"""Cost against figures worked out by hand and against torch's own count."""

import json
from itertools import product
from math import log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from quee.cost import BitFlops, bitflops, explain, trace_cost
from quee.network import HEAD
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.precision import Precision

# One block of vit_digits: 17 tokens (16 patches and the class token) of width 64, 4 heads of 16, hidden width 128.
QKV, PROJ, FC1, FC2 = 17 * 64 * 192, 17 * 64 * 64, 17 * 64 * 128, 17 * 128 * 64
QUERY_KEY, ATTENTION_VALUE = 4 * 17 * 17 * 16, 4 * 17 * 17 * 16
WITH_WEIGHTS, OF_ACTIVATIONS = QKV + PROJ + FC1 + FC2, QUERY_KEY + ATTENTION_VALUE
PATCHES, OWN_HEAD = 16 * 4 * 64, 64 * 10

precisions = st.sampled_from(["w2a3", "w3a3", "w4a8", "w8a8", "bf16", "fp32"]).map(Precision)


@pytest.fixture(scope="module")
def backbone() -> SegmentedBackbone:
    return create_backbone("vit_digits", gates=(1, 2, 5, 8))


@pytest.fixture(scope="module")
def cost(backbone: SegmentedBackbone) -> BitFlops:
    return trace_cost(backbone)


def path(name: str, segments: int = 4) -> tuple[Precision, ...]:
    return (Precision(name),) * segments


def test_the_products_of_one_block_by_hand(cost: BitFlops) -> None:
    found = {p.name: (p.kind, p.macs, p.reduction) for p in cost.products if p.segment == 2}
    assert found == {
        "blocks.1.attn.qkv": ("weight", 208_896, 64),
        "blocks.1.attn.query_key": ("attention", 18_496, 16),
        "blocks.1.attn.attention_value": ("attention", 18_496, 17),
        "blocks.1.attn.proj": ("weight", 69_632, 64),
        "blocks.1.mlp.fc1": ("weight", 139_264, 64),
        "blocks.1.mlp.fc2": ("weight", 139_264, 128),
    }
    assert (QKV, QUERY_KEY, PROJ, FC1, FC2) == (208_896, 18_496, 69_632, 139_264, 139_264)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("w4a8", 20_193_280), ("w3a3", 5_346_432), ("w8a8", 38_019_072), ("fp32", 608_305_152), ("bf16", 152_076_288)],
)
def test_bitflops_of_one_block_by_hand(cost: BitFlops, name: str, expected: int) -> None:
    precision = Precision(name)
    weights, activations = precision.weight_bits, precision.activation_bits
    by_hand = WITH_WEIGHTS * weights * activations + OF_ACTIVATIONS * activations**2
    assert cost.bitflops(2, precision) == by_hand == expected


def test_the_stem_counts_in_segment_1_and_the_head_at_its_own_precision(cost: BitFlops) -> None:
    w4a8 = Precision("w4a8")
    assert cost.bitflops(1, w4a8) == cost.bitflops(2, w4a8) + PATCHES * 4 * 8
    assert cost.bitflops(HEAD, w4a8) == OWN_HEAD * 8 * 8
    assert cost.bitflops(HEAD, Precision("fp32")) == OWN_HEAD * 32 * 32
    assert cost.macs == PATCHES + 8 * (WITH_WEIGHTS + OF_ACTIVATIONS) + OWN_HEAD


SMALL = {
    "vit_digits": {},
    "vit_fashion_mnist": {"depth": 4},
    "t2t_vit_7": {"img_size": 64, "depth": 4, "num_classes": 10},
    "vit_small_patch14_dinov2.lvd142m": {"img_size": 56, "depth": 4, "num_classes": 10},
}


@pytest.mark.parametrize("name", SMALL)
def test_macs_are_half_of_torchs_flops(name: str) -> None:
    model = create_backbone(name, **SMALL[name])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *model.input.shape))
    assert trace_cost(model).macs == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_tracing_leaves_the_backbone_as_it_was(backbone: SegmentedBackbone) -> None:
    assert not any(m._forward_hooks for m in backbone.modules())
    assert trace_cost(backbone) == trace_cost(backbone)


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("formula", ["product", "baskin"])
def test_the_static_w8a8_backbone_costs_1(backbone: SegmentedBackbone, formula: str, elementwise: bool) -> None:
    cost = trace_cost(backbone, formula=formula, include_elementwise=elementwise)
    w8a8 = Precision("w8a8")
    assert sum(cost.cost(j, w8a8) for j in (1, 2, 3, 4, HEAD)) == pytest.approx(1.0, abs=1e-12)


def test_static_paths_cost_what_their_bits_say(cost: BitFlops) -> None:
    assert cost.static(path("fp32")) / cost.unit == 16.0
    assert cost.static(path("bf16")) / cost.unit == 4.0
    head = OWN_HEAD * 64 / cost.unit
    assert cost.static(path("w4a4")) / cost.unit == pytest.approx((1 - head) / 4 + head)


@given(st.lists(precisions, min_size=4, max_size=4))
def test_cost_adds_up_over_segments(cost: BitFlops, chosen: list[Precision]) -> None:
    parts = [cost.cost(j, p) for j, p in enumerate(chosen, 1)] + [cost.cost(HEAD, chosen[-1])]
    assert sum(parts) == pytest.approx(cost.static(chosen) / cost.unit, rel=1e-12)
    assert sum(row[-1] for row in explain(cost, chosen)) == cost.static(chosen)
    shorter = sum(row[-1] for row in explain(cost, chosen[:2]))
    assert shorter == cost.bitflops(1, chosen[0]) + cost.bitflops(2, chosen[1])


@given(precisions, precisions, st.integers(1, 4))
def test_cost_rises_with_both_widths(cost: BitFlops, a: Precision, b: Precision, segment: int) -> None:
    if a.weight_bits <= b.weight_bits and a.activation_bits <= b.activation_bits:
        assert cost.cost(segment, a) <= cost.cost(segment, b)


def test_stem_and_head_count_at_their_own_precision_in_quantized_networks(backbone: SegmentedBackbone) -> None:
    plain, own = trace_cost(backbone), trace_cost(backbone, stem="w8a8", head="w4a4")
    w3a3, fp32 = Precision("w3a3"), Precision("fp32")
    assert own.bitflops(1, w3a3) == plain.bitflops(1, w3a3) + PATCHES * (64 - 9)
    assert own.bitflops(HEAD, w3a3) == OWN_HEAD * 16
    assert own.static(path("fp32")) == plain.static(path("fp32"))
    assert own.bitflops(1, fp32) == plain.bitflops(1, fp32)
    assert own.unit == plain.unit
    assert sum(row[-1] for row in explain(own, path("w3a3"))) == own.static(path("w3a3"))
    assert BitFlops.from_json(json.loads(json.dumps(own.to_json()))) == own


def test_segments_partition_the_network(backbone: SegmentedBackbone, cost: BitFlops) -> None:
    whole = trace_cost(create_backbone("vit_digits", gates=(8,)))
    for name in ("w3a3", "fp32"):
        assert cost.static(path(name)) == whole.static(path(name, 1))
    assert cost.segments == backbone.segments == 4


def test_the_baskin_formula_by_hand(backbone: SegmentedBackbone) -> None:
    assert bitflops(10, (4, 8), 64, "baskin") == 10 * (32 + 4 + 8 + 6)
    assert bitflops(10, (4, 8), 64) == 320
    cost = trace_cost(backbone, formula="baskin")
    inner = (QKV + PROJ + FC1) * (32 + 12 + 6) + FC2 * (32 + 12 + 7)
    attention = QUERY_KEY * (64 + 16 + 4) + ATTENTION_VALUE * (64 + 16 + log2(17))
    assert cost.bitflops(2, Precision("w4a8")) == pytest.approx(inner + attention, rel=1e-12)


def test_elementwise_work_by_hand(backbone: SegmentedBackbone, cost: BitFlops) -> None:
    wide = trace_cost(backbone, include_elementwise=True)
    tokens = 17 * 64
    # two norms, two residual additions, GELU on the hidden layer, softmax
    elements = 2 * tokens + 2 * tokens + 17 * 128 + 4 * 17 * 17
    for name in ("w3a3", "fp32"):
        extra = wide.bitflops(2, Precision(name)) - cost.bitflops(2, Precision(name))
        assert extra == elements * 32 * 32


def test_a_cost_model_is_read_back(backbone: SegmentedBackbone) -> None:
    for formula, elementwise in product(("product", "baskin"), (False, True)):
        cost = trace_cost(backbone, formula=formula, include_elementwise=elementwise)
        assert BitFlops.from_json(json.loads(json.dumps(cost.to_json()))) == cost
