"""The contract that every registered backbone must keep."""

import ast
import itertools
from copy import deepcopy
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from quee.cost import trace_cost
from quee.errors import QueeError, UsageError
from quee.exits.fitting import fit_exits
from quee.export.graphs import export_graphs
from quee.features import GateView
from quee.network import architectures
from quee.network.architectures import check_state_dict, create_backbone, timm_chain
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.runtime.engines import open_engine
from quee.settings.exits import Exits
from quee.settings.quantize import QuantizationConfig

ENGINES = ("openvino", "onnxruntime")

# full width if that is quick, else the same parts in a small size
SMALL: dict[str, dict[str, Any]] = {
    "vit_digits": {},
    "vit_fashion_mnist": {},
    "vit_small_patch14_dinov2.lvd142m": {"img_size": 56, "depth": 5, "num_classes": 10},
    "t2t_vit_7": {"img_size": 48, "num_classes": 10},
    **{f"t2t_vit_{name}": {"img_size": 48, "depth": 4, "dim": dim, "num_classes": 10}
       for name, dim in (("10", 64), ("12", 64), ("14", 96), ("t_14", 96), ("19", 112), ("24", 128))},
    "resnet20_cifar": {"img_size": 16, "shortcut": "B", "in_chans": 1},
    **{f"resnet{layers}_cifar": {"img_size": 16} for layers in (32, 44, 56)},
    "resnet110_cifar": {"img_size": 16, "depth": 12},
}  # fmt: skip
TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "num_heads": 4, "depth": 4, "num_classes": 10}
REGISTERED = [pytest.param(name, SMALL.get(name, {}), id=name) for name in architectures.names()]
BY_PREFIX = [
    pytest.param("deit_tiny_patch16_224", TINY, id="deit"),
    pytest.param("deit_tiny_distilled_patch16_224", TINY, id="deit-distilled"),
    pytest.param("deit3_small_patch16_224", TINY, id="deit3-layer-scale"),
    pytest.param("vit_tiny_patch16_224.augreg_in21k_ft_in1k", TINY, id="vit-with-tag"),
    pytest.param("vit_wee_patch16_reg1_gap_256", TINY, id="no-class-token-average"),
    pytest.param("vit_base_patch16_rpn_224", TINY, id="post-norm-blocks"),
    pytest.param("vit_medium_patch16_clip_224.tinyclip_yfcc15m", TINY, id="norm-before-blocks"),
    pytest.param("vit_tiny_patch16_224", {**TINY, "qk_norm": True, "reg_tokens": 2}, id="qk-norm-registers"),
    pytest.param("vit_tiny_patch16_224", {**TINY, "global_pool": "avgmax"}, id="average-and-maximum"),
    pytest.param("vit_tiny_patch16_224", {**TINY, "pos_embed": "none", "in_chans": 1}, id="no-positions-grey"),
]
DINOV2 = [
    pytest.param("vit_small_patch14_dinov2", {**TINY, "img_size": 56, "layers": 4, "depth": 6}, id="dinov2-4-layers"),
    pytest.param("vit_small_patch14_reg4_dinov2.lvd142m", {**TINY, "img_size": 56}, id="dinov2-registers"),
]
NARROW: dict[str, Any] = {"img_size": 32, "num_classes": 10}
CONVNEXT: dict[str, Any] = {**NARROW, "depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "patch_size": 2}
RESNET: dict[str, Any] = {**NARROW, "channels": (16, 24, 32, 48), "layers": (1, 1, 2, 1)}
SWIN: dict[str, Any] = {
    "img_size": 40,
    "num_classes": 10,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),  # maps of 10 and 5 places: the last windows are padded
}
SMALL_TOKENS: dict[str, Any] = {"img_size": 32, "embed_dim": 32, "num_heads": 4, "depth": 4, "num_classes": 10}
CHAINS = [
    pytest.param("swin_tiny_patch4_window7_224", SWIN, id="swin"),
    pytest.param("swinv2_tiny_window8_256", {**SWIN, "pretrained_window_sizes": (0, 0)}, id="swin-v2"),
    pytest.param("beit_base_patch16_224", SMALL_TOKENS | {"patch_size": 8}, id="beit"),
    pytest.param("eva02_tiny_patch14_224", SMALL_TOKENS | {"patch_size": 8}, id="eva-rotary-positions"),
    pytest.param("test_vit_relpos", {"img_size": 64, "num_classes": 10, "depth": 4}, id="relative-positions"),
    pytest.param("vit_base_patch16_siglip_224", SMALL_TOKENS | {"patch_size": 8}, id="attention-pooling"),
    pytest.param("vit_dpwee_patch16_reg1_gap_256", SMALL_TOKENS | {"patch_size": 8}, id="differential-attention"),
    pytest.param("beit3_base_patch16_224", SMALL_TOKENS | {"patch_size": 8}, id="norms-within-layers"),
    pytest.param("test_byobnet", {"img_size": 64, "num_classes": 10}, id="byobnet", marks=pytest.mark.slow),
    pytest.param("resnet18", RESNET, id="resnet-basic"),
    pytest.param("resnet50d.ra2_in1k", {**RESNET, "channels": (8, 12, 16, 24)}, id="resnet-bottleneck-d"),
    pytest.param("resnext50_32x4d", {**RESNET, "cardinality": 4, "base_width": 16, "in_chans": 1}, id="resnext-grey"),
    pytest.param("convnext_atto", {**CONVNEXT, "conv_mlp": False}, id="convnext"),
    pytest.param("convnext_atto", {**CONVNEXT, "conv_mlp": True}, id="convnext-conv-mlp"),
    pytest.param("convnextv2_atto", {**CONVNEXT, "conv_mlp": False}, id="convnext-v2-linear-mlp"),
    pytest.param("mobilenetv3_small_050", NARROW, id="mobilenet-v3"),
    pytest.param("test_efficientnet.r160_in1k", NARROW, id="efficientnet"),
    pytest.param(
        "tf_efficientnetv2_b0", {**NARROW, "channel_multiplier": 0.25, "depth_multiplier": 0.2}, id="padding-same"
    ),
]

SIZED = [
    pytest.param("vit_tiny_patch16_224", 96, TINY, id="vit"),
    pytest.param("vit_wee_patch16_reg1_gap_256", 96, TINY, id="registers-without-class-token"),
    pytest.param("t2t_vit_7", 32, SMALL["t2t_vit_7"], id="t2t-vit"),
    pytest.param("eva02_tiny_patch14_224", 48, SMALL_TOKENS | {"patch_size": 8}, id="chain"),
    pytest.param("vit_base_patch16_siglip_224", 48, SMALL_TOKENS | {"patch_size": 8}, id="chain-without-class-token"),
]
QUICK = [p for p in CHAINS if p.id in ("resnext-grey", "convnext-v2-linear-mlp", "efficientnet")]
SLOW = [pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in CHAINS if p not in QUICK]


def build(name: str, kwargs: dict[str, Any]) -> SegmentedBackbone:
    """Draws every weight at random, so that no fault hides behind an initial 0 or 1."""
    torch.manual_seed(0)
    backbone = create_backbone(name, **kwargs)
    for parameter in backbone.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return backbone


def shortened(name: str, kwargs: dict[str, Any], depth: int) -> dict[str, Any]:
    """Fewer blocks, where the architecture takes a depth."""
    create = import_module(architectures.module_of(name)).create
    if create is timm_chain.create:
        return kwargs
    parameters = signature(create).parameters.values()
    takes = any(parameter.name == "depth" or parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    return {**kwargs, "depth": depth} if takes else kwargs


def images(backbone: SegmentedBackbone, n: int = 2) -> torch.Tensor:
    return torch.randn(n, *backbone.input.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "kwargs"), REGISTERED + BY_PREFIX + DINOV2 + CHAINS)
@torch.inference_mode()
def test_every_backbone(name: str, kwargs: dict[str, Any]) -> None:
    backbone = build(name, kwargs)
    x = images(backbone)
    weights = [name for name, _ in backbone.named_parameters()]
    depth = len(backbone.block_names)
    whole = backbone(x)
    assert whole.shape == (2, backbone.num_classes)
    assert whole.isfinite().all()
    assert not torch.equal(whole[0], whole[1])
    assert len(backbone.input.mean) == len(backbone.input.std) == backbone.input.channels

    for gates in [(depth,), tuple(range(1, depth + 1)), *((first, depth) for first in range(1, depth))]:
        backbone.set_gates(gates)
        state = x
        for segment in range(1, backbone.segments + 1):
            state = backbone.run_segment(segment, state)
            assert torch.equal(backbone.forward_from(segment, state), whole)
            assert backbone.global_pooling in backbone.poolings
            for pooling in backbone.poolings:
                assert backbone.pool(state, segment, pooling).shape == (2, backbone.pooled_width(segment, pooling))
        assert {backbone.segment_of(name) for name in weights} == {*range(backbone.segments + 1)}

    other = create_backbone(name, **kwargs)
    state_dict = backbone.state_dict()
    check_state_dict(other, state_dict, "a copy")
    other.load_state_dict(state_dict)
    assert torch.equal(other(x), whole)


@pytest.mark.parametrize(("name", "kwargs"), REGISTERED + BY_PREFIX[:3] + DINOV2 + CHAINS)
def test_weights_tell_classes_and_channels_to_every_backbone(name: str, kwargs: dict[str, Any]) -> None:
    with torch.device("meta"):
        own = create_backbone(name, **kwargs)
        told = {"num_classes": own.num_classes + 3, "in_chans": 4 - own.input.channels}
        other = create_backbone(name, **{**kwargs, **told})
    assert own.asked_for(own.state_dict()) == {}
    assert own.asked_for(other.state_dict()) == told
    assert other.classes_in(other.state_dict()) == told["num_classes"]


@pytest.mark.parametrize(("name", "size", "kwargs"), SIZED)
@torch.inference_mode()
def test_positions_tell_the_size_of_images(name: str, size: int, kwargs: dict[str, Any]) -> None:
    own = create_backbone(name, **{**kwargs, "num_classes": 3})
    other = create_backbone(name, **{**kwargs, "num_classes": 3, "img_size": size})
    assert own.asked_for(other.state_dict()) == {"img_size": size}
    assert create_backbone(name, **{**kwargs, "num_classes": 3, "img_size": size}).asked_for(other.state_dict()) == {}


@pytest.mark.parametrize(("name", "kwargs"), REGISTERED + BY_PREFIX[:3] + DINOV2 + CHAINS)
def test_cost_accounting_sees_every_product(name: str, kwargs: dict[str, Any]) -> None:
    backbone = build(name, kwargs).requires_grad_(False)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        backbone(images(backbone, 1))
    fixed = [backbone.get_submodule(name) for name in getattr(getattr(backbone, "chain", None), "fixed", ())]
    same_for_all_images = []
    for layer in fixed:
        layer.register_forward_hook(lambda m, _, y: same_for_all_images.append(2 * y.numel() * m.in_features))
    backbone(images(backbone, 1))
    counted = counter.get_total_flops() - sum(same_for_all_images)
    assert trace_cost(backbone).macs * 2 == counted


@pytest.mark.parametrize(("name", "kwargs"), REGISTERED)
@torch.inference_mode()
def test_all_precisions_of_the_experiments_run_segment_by_segment(name: str, kwargs: dict[str, Any]) -> None:
    backbone = build(name, shortened(name, kwargs, 4))
    x = images(backbone, 4)
    expected = backbone(x)
    names = [Precision(name) for name in ("w2a4", "w3a3", "w4a4", "w6a6", "w8a8", "bf16", "fp16", "fp32")]
    models = {Precision("fp32"): backbone}
    for precision in names:
        if not precision.is_float:
            config = QuantizationConfig(precision, "minmax")
            models[precision] = quantize_(deepcopy(backbone), config, [x])  # type: ignore[assignment]
    multi = MultiPrecisionBackbone(models)
    for first, last in itertools.pairwise([*names, names[0]]):  # each before and behind another
        path = (first,) * (backbone.segments - 1) + (last,)
        logits = multi.classify(last, multi.run_path(path, x))
        assert logits.dtype == torch.float32
        assert logits.shape == expected.shape
        assert logits.isfinite().all()
        alone = multi.classify(last, multi.run_path(path, x[2:3]))
        assert torch.equal(alone[0], logits[2])  # with any other samples in the batch


@pytest.mark.parametrize(("name", "kwargs"), REGISTERED + BY_PREFIX + DINOV2 + CHAINS)
@torch.inference_mode()
def test_every_precision_runs_on_every_backbone(name: str, kwargs: dict[str, Any]) -> None:
    kwargs = shortened(name, kwargs, 4 if kwargs.get("layers") == 4 else 2)
    backbone = build(name, kwargs)
    x = images(backbone, 4)
    expected = backbone(x)
    closeness = {}
    # `fast` fits the float network's output on four images, which hides the effect of bits; plain ranges show it.
    for precision, preset in (("w3a3", "fast"), ("w3a3", "minmax"), ("w8a8", "minmax")):
        quantized = quantize_(deepcopy(backbone), QuantizationConfig(precision, preset), [x])
        assert isinstance(quantized, SegmentedBackbone)
        together = quantized(x)
        assert torch.equal(quantized.forward_from(1, quantized.forward_to(1, x)), together)
        closeness[precision, preset] = (together - expected).norm().item() / expected.norm().item()
    assert closeness["w8a8", "minmax"] < 0.1
    assert closeness["w8a8", "minmax"] < closeness["w3a3", "minmax"]
    assert closeness["w3a3", "fast"] < closeness["w3a3", "minmax"]
    half = deepcopy(backbone).bfloat16()(x.bfloat16())
    assert (half.float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize(("name", "kwargs"), [*QUICK, *SLOW])
def test_every_chain_is_executed_by_the_engines_as_simulated(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    for package in ENGINES:
        pytest.importorskip(package)
    backbone = build(name, kwargs)
    depth = len(backbone.block_names)
    backbone.requires_grad_(False).set_gates((depth // 2, depth))
    x, y = images(backbone, 24), torch.arange(24) % backbone.num_classes
    precisions = [Precision(name) for name in ("fp32", "w4a4", "w8a8")]
    models = {p: quantize_(deepcopy(backbone), QuantizationConfig(p, "minmax"), [x]) for p in precisions[1:]}
    multi = MultiPrecisionBackbone({precisions[0]: backbone, **models})  # type: ignore[dict-item]
    settings = Exits(embedding=2, weight_decay=100)
    heads, _ = fit_exits(multi, precisions, lambda _: [(x, y)], settings, 1, len(x))
    view = GateView(multi, heads, embedding=True)
    export_graphs(view, precisions, tmp_path)
    reference = open_engine("torch", view)
    for engine, precision in itertools.product(
        [open_engine(e, view, tmp_path, threads=1) for e in ENGINES], precisions
    ):
        state = x.numpy()
        for segment in (1, 2):
            wanted, found = reference.run(segment, precision, state), engine.run(segment, precision, state)
            # A value at the edge of two integers may fall to either side, which changes later values; few values do.
            assert np.median(np.abs(found.log_probs - wanted.log_probs)) < 1e-5
            assert (found.log_probs.argmax(1) == wanted.log_probs.argmax(1)).mean() > 0.95
            alone = engine.run(segment, precision, state[5:6])
            assert np.array_equal(alone.log_probs[0], found.log_probs[5])
            if segment == 1:
                error = np.abs(found.state - wanted.state)
                assert (error < 1e-5 * np.abs(wanted.state).max()).mean() > 0.8
                state = wanted.state


@pytest.mark.parametrize(("name", "kwargs"), REGISTERED + BY_PREFIX + DINOV2 + CHAINS)
def test_cost_is_additive_over_segments(name: str, kwargs: dict[str, Any]) -> None:
    backbone = build(name, kwargs)
    depth = len(backbone.block_names)
    totals = set()
    for gates in [(depth,), (1, depth), tuple(range(1, depth + 1))]:
        backbone.set_gates(gates)
        cost = trace_cost(backbone)
        totals.add(sum(cost.bitflops(segment, Precision("w8a8")) for segment in range(len(gates) + 1)))
    assert len(totals) == 1


@pytest.mark.parametrize(("name", "kwargs"), BY_PREFIX + CHAINS)
@torch.inference_mode()
def test_timm_backbones_give_timms_outputs_and_keys(name: str, kwargs: dict[str, Any]) -> None:
    backbone = build(name, kwargs)
    taken = (
        kwargs if timm_chain.takes_size(name) else {key: value for key, value in kwargs.items() if key != "img_size"}
    )
    original = timm.create_model(name, **taken).eval()
    assert set(backbone.state_dict()) == set(original.state_dict())
    original.load_state_dict(backbone.state_dict())
    x = images(backbone)
    torch.testing.assert_close(backbone(x), original(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", architectures.ARCHITECTURES)
def test_an_architecture_is_one_file_and_imports_no_other(module: str) -> None:
    file = Path(__file__).parents[4] / f"{module.replace('.', '/')}.py"
    assert file.is_file()
    others = {other for other in architectures.ARCHITECTURES if other != module}
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} & others
    assert not {node.module for node in nodes} & others


def test_preprocessing_is_the_models_own() -> None:
    deit = create_backbone("deit_tiny_patch16_224", depth=1)
    assert (deit.input.crop_pct, deit.input.interpolation, deit.input.mean[0]) == (0.9, "bicubic", 0.485)
    augreg = create_backbone("vit_tiny_patch16_384.augreg_in21k_ft_in1k", depth=1, img_size=224)
    assert (augreg.input.size, augreg.input.crop_pct, augreg.input.mean) == ((224, 224), 1.0, (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["resnet18.fb_ssl_yfcc100m_ft_in1k", "resnet18.a1_in1k", "convnext_tiny.fb_in22k_ft_in1k_384",
                                  "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224"])  # fmt: skip
def test_images_are_prepared_as_timm_prepares_them(name: str) -> None:
    with torch.device("meta"):
        input = create_backbone(name, num_classes=3).input
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert (input.shape, input.crop_pct) == (config["input_size"], config["crop_pct"])
    assert (input.mean, input.interpolation) == (config["mean"], config["interpolation"])
    assert input.resize == {"squash": "both", "center": "shorter"}[config["crop_mode"]]


def test_an_experiment_may_override_preprocessing() -> None:
    changes = {"mean": [0, 0, 0], "std": [1, 1, 1], "crop_pct": 1.0, "interpolation": "bilinear"}
    backbone = create_backbone("t2t_vit_7", depth=1, img_size=32, num_classes=10, preprocessing=changes)
    assert backbone.input.mean == (0.0, 0.0, 0.0)
    assert (backbone.input.crop_pct, backbone.input.interpolation) == (1.0, "bilinear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": [0, 0, 0]}, "did you mean 'mean'"),
        ({"mean": [0.5]}, "must be 3 numbers"),
        ({"std": [1, 0, 1]}, "above 0"),
        ({"mean": [123.7, 116.3, 103.5]}, "from 0 to 1, as pixels are here: divide by 255"),
        ({"std": [58.4, 57.1, 57.4]}, "at most 1, as pixels are here: divide by 255"),
        ({"mean": [0.5, 0.5, -0.5]}, "from 0 to 1; got"),
        ({"mean": [0.5, float("nan"), 0.5]}, "from 0 to 1; got"),
        ({"std": [0.5, float("nan"), 0.5]}, "above 0 and at most 1; got"),
        ({"crop_pct": 1.5}, "at most 1"),
        ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
    ],
)
def test_wrong_preprocessing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_backbone("t2t_vit_7", depth=1, img_size=32, preprocessing=changes)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("t2t_vit_8", {}, "did you mean 't2t_vit_7'|t2t_vit_14"),
        ("swin_tiny_patch4_window7_224", {"img_size": 20, "patch_size": 32}, "cannot be built with"),
        ("vit_base_patch16_clip_224", TINY | {"num_classes": 0}, "give num_classes"),
        ("vit_tiny_patch16_224", TINY | {"global_pool": "map"}, "global_pool 'map'"),
        ("vit_tiny_patch16_224", TINY | {"dynamic_img_size": True}, "dynamic_img_size"),
        ("vit_tiny_patch16_224", TINY | {"attn_drop_rate": 0.1}, "dropout"),
        ("vit_tiny_patch16_224", TINY | {"scale_attn_norm": True}, "norm before its projection"),
        ("vit_tiny_patch16_224", TINY | {"num_heads": 5}, "divisible"),
        ("vit_tiny_patch16_224", TINY | {"width": 5}, "width"),
        ("vit_small_patch14_dinov2", TINY | {"layers": 2}, "layers must be 1 or 4"),
        ("t2t_vit_7", {"img_size": 28}, "multiple of 16"),
        ("t2t_vit_7", {"attention_scale": "root"}, "head_dim or dim"),
        ("t2t_vit_7", {"num_classes": 0}, "num_classes"),
        ("t2t_vit_7", {"colour": 1}, "colour"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        create_backbone(name, **kwargs)
    assert "\n" not in str(raised.value)


def test_gates_that_do_not_fit_are_refused() -> None:
    for gates in [(), (0, 8), (4, 2, 8), (2, 4), (2, 9)]:
        with pytest.raises(UsageError, match="8, the number of blocks"):
            create_backbone("vit_digits", gates=gates)
    with pytest.raises(UsageError, match=r"gates \[9\]: the last gate must be 8, the number of blocks; got 9$"):
        create_backbone("vit_digits", gates=(9,))


@pytest.mark.parametrize(
    ("keyword", "value", "fault"),
    [
        ("mlp_ratio", "abc", "mlp_ratio='abc': not a number"),
        ("depth", "x" * 1000, r"depth='x+\.\.\.x+': not a number"),
        ("depth", 2.5, "depth=2.5: not a whole number"),
        ("depth", True, "depth=True: not a number"),
        ("img_size", [8, "x"], r"img_size=\[8, 'x'\]: not a list of numbers"),
        ("img_size", [8, 8, 8], r"img_size \[8, 8, 8\]: give one side"),
        ("qkv_bias", "abc", "qkv_bias='abc': not true or false"),
    ],
)
@pytest.mark.parametrize("name", ["vit_digits", "t2t_vit_7", "resnet18"])
def test_a_keyword_of_another_kind_is_refused_with_its_value(name: str, keyword: str, value: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault) as raised:
        create_backbone(name, **{"num_classes": 3, keyword: value})
    assert len(str(raised.value)) < 250


def test_what_an_architecture_says_is_shortened() -> None:
    with pytest.raises(UsageError) as raised:
        create_backbone("vit_digits", act_layer="abc" * 1000)
    assert str(raised.value).startswith("backbone 'vit_digits' cannot be built with {'act_layer': 'abc")
    assert len(str(raised.value)) < 400


def test_a_state_dict_that_does_not_fit_is_named_key_by_key() -> None:
    backbone = create_backbone("vit_digits")
    state = backbone.state_dict()
    state["extra"] = state.pop("norm.weight")
    state["head.weight"] = state["head.weight"][:5]
    with pytest.raises(QueeError) as raised:
        check_state_dict(backbone, state, "file.pth")
    for part in (
        "file.pth",
        "missing keys: norm.weight",
        "left-over keys: extra",
        "head.weight (5, 64) instead of (10, 64)",
    ):
        assert part in str(raised.value)
