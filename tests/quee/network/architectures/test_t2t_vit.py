"""T2T-ViT against a plain version of the published network, written from the paper with einsum alone."""

from math import cos, log, sin, sqrt

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, unfold
from torch.utils.flop_counter import FlopCounterMode

from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.network.attention import MatMul

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = torch.einsum("nti,oi->nto", x, w[f"{name}.weight"])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def performer(w: Weights, name: str, x: Tensor) -> Tensor:
    kqv = linear(w, f"{name}.kqv", norm(w, f"{name}.norm1", x))
    k, q, v = kqv[..., :64], kqv[..., 64:128], kqv[..., 128:]
    omega = w[f"{name}.w"]

    def phi(u: Tensor) -> Tensor:
        return torch.exp(torch.einsum("nti,mi->ntm", u, omega) - (u**2).sum(-1, keepdim=True) / 2) / sqrt(32)

    weights = torch.einsum("nqm,nkm->nqk", phi(q), phi(k))  # the attention matrix in full: quadratic, but plain
    y = torch.einsum("nqk,nkd->nqd", weights, v) / (weights.sum(-1, keepdim=True) + 1e-8)
    x = v + linear(w, f"{name}.proj", y)
    hidden = gelu(linear(w, f"{name}.mlp.0", norm(w, f"{name}.norm2", x)))
    return x + linear(w, f"{name}.mlp.2", hidden)


def token_transformer(w: Weights, name: str, x: Tensor) -> Tensor:
    q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x)).split(64, dim=-1)
    scores = torch.einsum("nqd,nkd->nqk", q, k) / sqrt(x.shape[-1])
    x = v + linear(w, f"{name}.attn.proj", torch.einsum("nqk,nkd->nqd", scores.softmax(-1), v))
    return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x))


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.fc2", gelu(linear(w, f"{name}.fc1", x)))


def attention(w: Weights, name: str, x: Tensor, heads: int, scale: float) -> Tensor:
    n, tokens, dim = x.shape
    qkv = linear(w, f"{name}.qkv", x).reshape(n, tokens, 3, heads, dim // heads)
    scores = torch.einsum("nqhd,nkhd->nhqk", qkv[:, :, 0], qkv[:, :, 1]) * scale
    mixed = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), qkv[:, :, 2])
    return linear(w, f"{name}.proj", mixed.reshape(n, tokens, dim))


def published(w: Weights, image: Tensor, depth: int, heads: int, scale: float, tokens: str = "performer") -> Tensor:
    mix = {"performer": performer, "transformer": token_transformer}[tokens]
    size = image.shape[-1]
    x = unfold(image, (7, 7), stride=(4, 4), padding=(2, 2)).mT
    x = mix(w, "tokens_to_token.attention1", x).mT.reshape(len(x), 64, size // 4, size // 4)
    x = unfold(x, (3, 3), stride=(2, 2), padding=(1, 1)).mT
    x = mix(w, "tokens_to_token.attention2", x).mT.reshape(len(x), 64, size // 8, size // 8)
    x = linear(w, "tokens_to_token.project", unfold(x, (3, 3), stride=(2, 2), padding=(1, 1)).mT)
    x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], 1) + w["pos_embed"]
    for block in (f"blocks.{i}" for i in range(depth)):
        x = x + attention(w, f"{block}.attn", norm(w, f"{block}.norm1", x), heads, scale)
        x = x + mlp(w, f"{block}.mlp", norm(w, f"{block}.norm2", x))
    return linear(w, "head", norm(w, "norm", x))[:, 0]


def random_weights(state: Weights) -> Weights:
    """Weights under which tokens differ and attention is far from uniform, so that every part affects the output."""
    random = torch.Generator().manual_seed(3)

    def draw(key: str, shape: torch.Size) -> Tensor:
        drawn = torch.randn(shape, generator=random)
        if key.endswith("weight"):
            gain = 2.0 if "qkv" in key else 1.0
            return 1 + 0.2 * drawn if len(shape) == 1 else gain * drawn / sqrt(shape[-1])
        return drawn if key.endswith(".w") else 0.2 * drawn

    return {key: draw(key, value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "size", "depth", "dim", "heads", "tokens", "attention_scale"),
    [
        ("t2t_vit_7", 224, 7, 256, 4, "performer", "head_dim"),
        ("t2t_vit_7", 32, 7, 256, 4, "performer", "dim"),
        ("t2t_vit_14", 64, 14, 384, 6, "performer", "head_dim"),
        ("t2t_vit_14", 64, 14, 384, 6, "performer", "dim"),
        ("t2t_vit_t_14", 96, 14, 384, 6, "transformer", "head_dim"),
        ("t2t_vit_t_14", 96, 14, 384, 6, "transformer", "dim"),
    ],
)
@torch.inference_mode()
def test_outputs_are_the_published_networks(
    name: str, size: int, depth: int, dim: int, heads: int, tokens: str, attention_scale: str
) -> None:
    backbone = create_backbone(name, img_size=size, num_classes=20, attention_scale=attention_scale)
    weights = random_weights(backbone.state_dict())
    backbone.load_state_dict(weights)
    n = 1 if size == 224 else 2  # the plain attention matrix of the first stage is large
    images = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(4))
    scales = {"head_dim": (dim // heads) ** -0.5, "dim": dim**-0.5}
    expected, other = (
        published(weights, images, depth, heads, scales[which], tokens)
        for which in (attention_scale, {"dim": "head_dim", "head_dim": "dim"}[attention_scale])
    )
    assert (backbone(images) - expected).abs().max() < 1e-4
    assert (expected - other).abs().max() > 1e-2  # the scale matters, so the comparison can fail


def authors_shapes(dim: int, depth: int, mlp_ratio: int, tokens: str = "performer", classes: int = 1000) -> dict:
    """Keys and shapes of the authors' checkpoints."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, 197, dim)}

    def layer(name: str, out: int, into: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def scale_and_shift(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    for stage, width in (("tokens_to_token.attention1", 147), ("tokens_to_token.attention2", 576)):
        scale_and_shift(f"{stage}.norm1", width)
        scale_and_shift(f"{stage}.norm2", 64)
        if tokens == "performer":
            shapes[f"{stage}.w"] = (32, 64)
            layer(f"{stage}.kqv", 192, width)
            layer(f"{stage}.proj", 64, 64)
            layer(f"{stage}.mlp.0", 64, 64)
            layer(f"{stage}.mlp.2", 64, 64)
        else:
            layer(f"{stage}.attn.qkv", 192, width, bias=False)
            layer(f"{stage}.attn.proj", 64, 64)
            layer(f"{stage}.mlp.fc1", 64, 64)
            layer(f"{stage}.mlp.fc2", 64, 64)
    layer("tokens_to_token.project", dim, 576)
    for block in (f"blocks.{i}" for i in range(depth)):
        scale_and_shift(f"{block}.norm1", dim)
        layer(f"{block}.attn.qkv", 3 * dim, dim, bias=False)
        layer(f"{block}.attn.proj", dim, dim)
        scale_and_shift(f"{block}.norm2", dim)
        layer(f"{block}.mlp.fc1", mlp_ratio * dim, dim)
        layer(f"{block}.mlp.fc2", dim, mlp_ratio * dim)
    scale_and_shift("norm", dim)
    layer("head", classes, dim)
    return shapes


@pytest.mark.parametrize(
    ("name", "dim", "depth", "mlp_ratio", "tokens"),
    [
        ("t2t_vit_7", 256, 7, 2, "performer"),
        ("t2t_vit_10", 256, 10, 2, "performer"),
        ("t2t_vit_12", 256, 12, 2, "performer"),
        ("t2t_vit_14", 384, 14, 3, "performer"),
        ("t2t_vit_t_14", 384, 14, 3, "transformer"),
        ("t2t_vit_19", 448, 19, 3, "performer"),
        ("t2t_vit_24", 512, 24, 3, "performer"),
    ],
)
def test_state_dicts_have_the_authors_keys_and_shapes(
    name: str, dim: int, depth: int, mlp_ratio: int, tokens: str
) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    assert shapes == authors_shapes(dim, depth, mlp_ratio, tokens)


@pytest.mark.parametrize(
    ("name", "millions", "giga_macs"),
    [("t2t_vit_7", 4.3, 1.147), ("t2t_vit_14", 21.5, 4.783), ("t2t_vit_t_14", 21.5, None)],
)
def test_size_is_as_published(name: str, millions: float, giga_macs: float | None) -> None:
    backbone = create_backbone(name)
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    if giga_macs is not None:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, 224, 224))
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=0.02)


def test_position_table_is_a_sinusoid_that_training_leaves_alone() -> None:
    backbone = create_backbone("t2t_vit_7")
    table = backbone.get_parameter("pos_embed")
    assert not table.requires_grad
    for position, column in ((0, 0), (1, 0), (1, 1), (196, 7), (196, 254), (50, 255)):
        angle = position * 2.718281828459045 ** (-log(10000) * (column - column % 2) / 256)
        expected = cos(angle) if column % 2 else sin(angle)
        assert table[0, position, column].item() == pytest.approx(expected, abs=1e-6)


def test_table_follows_the_image_size() -> None:
    assert create_backbone("t2t_vit_7", depth=1, img_size=32).embed(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 256)
    wide = create_backbone("t2t_vit_7", depth=1, img_size=[32, 64])
    assert wide.embed(torch.zeros(1, 3, 32, 64)).shape == (1, 9, 256)


def test_random_features_stay_in_floating_point_and_other_products_do_not() -> None:
    backbone = create_backbone("t2t_vit_7", depth=1, img_size=32)
    kinds = {name: module.kind for name, module in backbone.named_modules() if isinstance(module, MatMul)}
    stem = {kind for name, kind in kinds.items() if name.startswith("tokens_to_token.")}
    assert stem == {"float"}
    assert {kinds["blocks.0.attn.query_key"], kinds["blocks.0.attn.attention_value"]} == {"attention"}


def test_half_precision_does_not_overflow_the_exponentials() -> None:
    backbone = create_backbone("t2t_vit_7", depth=1, img_size=32, num_classes=10)
    backbone.load_state_dict(random_weights(backbone.state_dict()))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = backbone(images)
        half = backbone.half()(images.half())
    assert half.dtype == torch.float16
    assert (half.float() - expected).abs().max() < 0.05


def test_positions_of_another_size_are_resampled_as_the_authors_do() -> None:
    large, small = (create_backbone("t2t_vit_7", depth=1, img_size=size) for size in (224, 32))
    table = large.state_dict()["pos_embed"]
    adapted = small.adapt_state(large.state_dict())["pos_embed"]  # type: ignore[operator]
    grid = table[:, 1:].reshape(1, 14, 14, 256).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(2, 2), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 4, 256)
    assert torch.equal(adapted[:, :1], table[:, :1])
    torch.testing.assert_close(adapted[:, 1:], expected)
    with pytest.raises(QueeError, match="square grid"):
        small.adapt_state({"pos_embed": torch.zeros(1, 12, 256)})  # type: ignore[operator]
