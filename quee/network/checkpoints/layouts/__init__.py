"""Registry of checkpoint layouts: a reader in this folder and one line here, or a line that names and refuses a layout.

A layout is recognised by its anchor, a key that no other layout has. The part of the key before the anchor is the prefix
of a wrapping module (`model.`, `visual.trunk.`) and is removed. A layout without `convert` is refused.
"""

import re
from dataclasses import dataclass

from quee.errors import QueeError
from quee.network.checkpoints.layout import Layout, State
from quee.network.checkpoints.layouts import (
    dinov2,
    google,
    hugging_face,
    mmpretrain,
    resnet_cifar,
    t2t_vit,
    timm,
    torchvision,
)

_PREPARED = "only backbones of `quee.network.architectures` are run; see docs/backbones.md for their names"

LAYOUTS = (
    Layout(
        "LoRA adapter", r"lora_A\.(?:\w+\.)?weight", advice="merge it into its network first (peft: merge_and_unload)"
    ),
    t2t_vit.LAYOUT,
    Layout(
        "BEiT",
        r"blocks\.0\.attn\.q_bias|(?:beit|data2vec_vision)\.embeddings\.cls_token|encoder\.layer\.0\.lambda_1",
        advice=_PREPARED,
    ),
    hugging_face.LAYOUT,
    torchvision.LAYOUT,
    mmpretrain.LAYOUT,
    google.LAYOUT,
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
    dinov2.LAYOUT,
    timm.MAE,
    timm.DEIT3,
    timm.LAYOUT,
    Layout("ResNet", r"layer4\.0\.conv1\.weight", advice=_PREPARED),
    resnet_cifar.LAYOUT,
    Layout("Hugging Face ResNet", r"embedder\.embedder\.convolution\.weight", advice=_PREPARED),
    Layout("ConvNeXt", r"stages\.0\.(?:blocks\.0\.conv_dw|layers\.0\.dwconv|0\.dwconv)\.weight", advice=_PREPARED),
    Layout("torchvision convolutional network", r"features\.0\.(?:0\.)?weight", advice=_PREPARED),
    Layout("EfficientNet", r"blocks\.0\.0\.conv_dw\.weight", advice=_PREPARED),
    Layout(
        "text transformer", r"embeddings\.word_embeddings\.weight|wte\.weight|embed_tokens\.weight", advice=_PREPARED
    ),
)
"""In the order of search: the first layout whose anchor is found counts."""


@dataclass(frozen=True)
class Recognised:
    """Weights under the names of a backbone here, mostly timm's."""

    state: State
    layout: str
    """Name of the layout; empty where none is recognised and the names are as in the file."""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    """Keys that were left out."""
    note: str = ""
    architecture: str = ""
    """As in `Layout`."""


HEAD = re.compile(r"(?:\w+_)?(?:heads?|classifier|fc|logits)\d?[./]")
"""Prefixes of keys of classification heads."""


def recognise(state: State, source: str) -> Recognised:
    """The weights under the names of a backbone here, by the first layout whose anchor is among the keys.

    Raises QueeError naming the layout where no backbone here has its parts, where the file holds several networks, or
    where a head is outside of the network.
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
    left_out = (*outside, *(prefix + key for key in unused))
    return Recognised(converted, layout.name, prefix, left_out, layout.note, layout.architecture)
