"""Names that frameworks give the weights of a Vision Transformer, and how they become timm's.

A layout is recognised by one key that no other has, its anchor; what stands before it in the key is the prefix of a
wrapping module (`model.`, `visual.trunk.`) and is taken off. A layout without `convert` is named and refused.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from quee.errors import QueeError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """One way to name weights."""

    name: str
    anchor: str
    """Regular expression of a key's end that tells the layout; what is before it is a prefix."""
    convert: Callable[[State], State] | None = None
    """Its names to timm's (T2T-ViT's stay the authors'); None: no backbone here has such parts."""
    advice: str = ""
    """What to do instead, where it is not read."""
    also: str = ""
    """Regular expression of which some key must have a match too."""
    unused: str = ""
    """Regular expression of keys that no classifier reads; they are left out, and said."""
    note: str = ""
    """What to know of weights under these names."""


@dataclass(frozen=True)
class Recognised:
    """Weights under timm's (or T2T-ViT's) names."""

    state: State
    layout: str
    """Name of the layout; empty where none is recognised and the names are as in the file."""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    """Keys that were not taken."""
    note: str = ""


def same(state: State) -> State:
    return state


def rename(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """Every key by the rules, in order; raises QueeError when two become one."""
    renamed: State = {}
    for key, value in state.items():
        name = key
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        if name in renamed:
            raise QueeError(f"two weights would be {name}: {key} is one of them")
        renamed[name] = value
    return renamed


def join(state: State, parts: tuple[str, str, str]) -> State:
    """Query, key and value of each attention, `…attn.{part}.weight` and `.bias`, joined to timm's `…attn.qkv`."""
    joined = {}
    for key, value in state.items():
        before, dot, kind = key.rpartition(".")
        block, _, part = before.rpartition(".")
        if part not in parts or not block.endswith("attn"):
            joined[key] = value
        elif part == parts[0]:
            names = [f"{block}.{name}{dot}{kind}" for name in parts]
            if missing := [name for name in names if name not in state]:
                raise QueeError(f"{missing[0]} is missing beside {key}")
            joined[f"{block}.qkv{dot}{kind}"] = torch.cat([state[name] for name in names])
        elif f"{block}.{parts[0]}{dot}{kind}" not in state:
            raise QueeError(f"{block}.{parts[0]}{dot}{kind} is missing beside {key}")
    return joined


_HUGGING_FACE = (
    (r"^(?:vit|deit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
    (r"^(?:classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)


def hugging_face(state: State) -> State:
    """ViTForImageClassification, DeiT's and DINOv2's: query, key and value are joined."""
    if "deit.embeddings.distillation_token" in state and "classifier.weight" in state:
        raise QueeError(
            "it is a DeiTForImageClassification, whose one head reads the class token of a network with a distillation "
            "token; timm's has two heads: take DeiTForImageClassificationWithTeacher, or the ViT of that size"
        )
    return join(rename(state, _HUGGING_FACE), ("query", "key", "value"))


_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)
_MMPRETRAIN = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^ln1\.", "norm."),
)


def torchvision_vit(state: State) -> State:
    return rename(state, _TORCHVISION)


def mmpretrain(state: State) -> State:
    return rename(state, _MMPRETRAIN)


def dinov2(state: State) -> State:
    """The authors' names; of training in chunks of blocks, the number of the chunk is taken off."""
    return rename(state, ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),))


_GOOGLE_BLOCK = (
    (r"LayerNorm_0/", "norm1."),
    (r"LayerNorm_[12]/", "norm2."),
    (r"MultiHeadDotProductAttention_[01]/out/", "attn.proj."),
    (r"MultiHeadDotProductAttention_[01]/(query|key|value)/", r"attn.\1."),
    (r"MlpBlock_[03]/Dense_0/", "mlp.fc1."),
    (r"MlpBlock_[03]/Dense_1/", "mlp.fc2."),
)
_GOOGLE = (
    (r"^cls$", "cls_token"),
    (r"^(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj."),
    (r"^Transformer/encoder_norm/", "norm."),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"^head/", "head."),
    *_GOOGLE_BLOCK,
    (r"\.(kernel|scale)$", ".weight"),
)


def google(state: State) -> State:
    """JAX's arrays: inputs first, heads apart; those of big_vision have all blocks in one array."""
    spread: State = {}
    for key, value in state.items():
        if (stacked := "Transformer/encoderblock/") in key:
            spread |= {key.replace(stacked, f"Transformer/encoderblock_{i}/"): part for i, part in enumerate(value)}
        else:
            spread[key] = value
    turned = {key: _from_jax(key, value) for key, value in spread.items()}
    return join(rename(turned, _GOOGLE), ("query", "key", "value"))


def _from_jax(key: str, value: Tensor) -> Tensor:
    kind = key.rpartition("/")[2]
    if "/MultiHeadDotProductAttention_" in key:
        if "/out/" in key:
            return value.flatten(0, -2).t() if kind == "kernel" else value  # (heads, head dim, dim)
        return value.flatten(1).t() if kind == "kernel" else value.flatten()  # (dim, heads, head dim)
    if kind != "kernel":
        return value
    return value.permute(3, 2, 0, 1) if value.dim() == 4 else value.t()  # (height, width, in, out) or (in, out)


_PREPARED = "only backbones of `quee.network.architectures` are run; see docs/backbones.md for their names"

LAYOUTS = (
    Layout(
        "LoRA adapter", r"lora_A\.(?:\w+\.)?weight", advice="merge it into its network first (peft: merge_and_unload)"
    ),
    Layout("T2T-ViT, the authors' names", r"tokens_to_token\.project\.weight", same),
    Layout(
        "BEiT",
        r"blocks\.0\.attn\.q_bias|(?:beit|data2vec_vision)\.embeddings\.cls_token|encoder\.layer\.0\.lambda_1",
        advice=_PREPARED,
    ),
    Layout(
        "Hugging Face ViT, DeiT or DINOv2",
        r"(?:(?:vit|deit|dinov2|dinov2_with_registers)\.)?embeddings\.patch_embeddings\.projection\.weight",
        hugging_face,
        also=r"encoder\.layer\.0\.(?:layernorm_before|norm1)\.weight",
        unused=r"pooler\.|embeddings\.mask_token$|^decoder\.",
    ),
    Layout(
        "torchvision ViT",
        r"encoder\.layers\.encoder_layer_0\.ln_1\.weight",
        torchvision_vit,
        note="torchvision's own weights want preprocessing={mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], "
        "interpolation: bilinear, crop_pct: 0.875}",
    ),
    Layout("MMPretrain ViT", r"layers\.0\.ffn\.layers\.0\.0\.weight", mmpretrain, also=r"(^|\.)ln1\.weight$"),
    Layout(
        "Google's ViT of JAX (.npz)",
        r"Transformer/encoderblock(?:_0)?/LayerNorm_0/(?:scale|bias)",
        google,
        unused=r"^pre_logits/",
    ),
    Layout(
        "OpenAI or OpenCLIP CLIP",
        r"visual\.class_embedding",
        advice="timm reads it: torch.save(timm.create_model(NAME, checkpoint_path=FILE).state_dict(), 'weights.pth')",
    ),
    Layout("Hugging Face CLIP or SigLIP", r"vision_model\.encoder\.layers\.0\.layer_norm1\.weight", advice=_PREPARED),
    Layout("DINOv3", r"rope_embed\.\S+|storage_tokens|layer\.0\.attention\.q_proj\.weight", advice=_PREPARED),
    Layout(
        "EVA or another ViT with rotary positions", r"blocks\.0\.attn\.(?:rope\S*|q_proj\.weight)", advice=_PREPARED
    ),
    Layout("Swin Transformer", r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table", advice=_PREPARED),
    Layout("Swin Transformer", r"encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight", advice=_PREPARED),
    Layout("ViT with relative positions", r"blocks\.0\.attn\.rel_pos\S*", advice=_PREPARED),
    Layout("DINOv2, the authors' names", r"blocks\.0\.(?:0\.)?ls1\.gamma", dinov2, also=r"mask_token$"),
    Layout(
        "ViT of MAE pre-training, timm's names",
        r"blocks\.0\.norm1\.weight",
        same,
        also=r"decoder_blocks\.0\.",
        unused=r"^decoder_|^mask_token$",
    ),
    Layout("DeiT III, the authors' names", r"blocks\.0\.gamma_1", same),
    Layout("timm ViT", r"blocks\.0\.norm1\.weight", same, unused=r"^mask_token$"),
    Layout("ResNet", r"layer1\.0\.conv1\.weight", advice=_PREPARED),
    Layout("Hugging Face ResNet", r"embedder\.embedder\.convolution\.weight", advice=_PREPARED),
    Layout("ConvNeXt", r"stages\.0\.(?:blocks\.0\.conv_dw|layers\.0\.dwconv|0\.dwconv)\.weight", advice=_PREPARED),
    Layout("torchvision convolutional network", r"features\.0\.(?:0\.)?weight", advice=_PREPARED),
    Layout("EfficientNet", r"blocks\.0\.0\.conv_dw\.weight", advice=_PREPARED),
    Layout(
        "text transformer", r"embeddings\.word_embeddings\.weight|wte\.weight|embed_tokens\.weight", advice=_PREPARED
    ),
)
"""In the order they are looked for: the first whose anchor is found."""
HEAD = re.compile(r"(?:\w+_)?(?:heads?|classifier|fc|logits)\d?[./]")
"""How keys of classification heads begin."""


def recognise(state: State, source: str) -> Recognised:
    """The weights under timm's names, by the first layout whose anchor is among the keys.

    Raises QueeError naming the layout where no backbone here has its parts, where several networks are in the file, or
    where a head stands outside of the network.
    """
    for layout in LAYOUTS:
        found = [match for key in state if (match := re.fullmatch(rf"(|.*?[./])(?:{layout.anchor})", key))]
        if found and (not layout.also or any(re.search(layout.also, key) for key in state)):
            return _taken(state, layout, sorted({match[1] for match in found}), source)
    return Recognised(state, "")


def readable() -> str:
    """The layouts that are read, for messages."""
    return "; ".join(layout.name for layout in LAYOUTS if layout.convert)


def _taken(state: State, layout: Layout, prefixes: list[str], source: str) -> Recognised:
    if layout.convert is None:
        raise QueeError(f"{source} is a {layout.name} ({len(state)} weights), which is not read; {layout.advice}")
    prefix = "" if "" in prefixes else prefixes[0]
    if prefix and len(prefixes) > 1:
        raise QueeError(
            f"{source} holds several networks ({layout.name}): {', '.join(prefixes)}; save one of them alone: "
            f"torch.save({{k[{len(prefix)}:]: v for k, v in state.items() if k.startswith({prefix!r})}}, 'weights.pth')"
        )
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = [key for key in state if not key.startswith(prefix)]
    around = [prefix[: match.end()] for match in re.finditer(r"[./]", prefix)][:-1]
    if heads := [key for key in outside if any(HEAD.match(key.removeprefix(module)) for module in ("", *around))]:
        raise QueeError(
            f"{source} is a {layout.name} under {prefix!r} with {heads[0]} outside of it: whether that is its head is not "
            f"known; save both under one prefix, the head as {prefix}head.weight and {prefix}head.bias"
        )
    unused = [key for key in own if layout.unused and re.search(layout.unused, key)]
    kept = {key: value for key, value in own.items() if key not in set(unused)}
    try:
        converted = layout.convert(kept)
    except QueeError as error:
        raise QueeError(f"{source} ({layout.name}): {error}") from None
    return Recognised(converted, layout.name, prefix, (*outside, *(prefix + key for key in unused)), layout.note)
