"""Registry of checkpoint layouts: a reader in this folder and one line here, or a line that names and refuses a layout.

A layout is recognised by its anchor, a key that no other layout has. The part of the key before the anchor is the prefix
of a wrapping module (`model.`, `visual.trunk.`) and is removed. A layout without `convert` is refused.
"""

import re
from dataclasses import dataclass

from quee.errors import QueeError
from quee.network.checkpoints.layout import Layout, State
from quee.network.checkpoints.layouts import (
    beit,
    convnext,
    dinov2,
    efficientnet,
    eva,
    google,
    hugging_face_beit,
    hugging_face_convnext,
    hugging_face_dinov2,
    hugging_face_dinov3,
    hugging_face_resnet,
    hugging_face_swin,
    hugging_face_vit,
    mmpretrain,
    resnet_cifar,
    swin,
    t2t_vit,
    timm,
    torchvision_convnext,
    torchvision_mbconv,
    torchvision_resnet,
    torchvision_swin,
    torchvision_vit,
)

_PREPARED = "only backbones of `quee.network.architectures` are run; see docs/backbones.md for their names"

LAYOUTS = (
    Layout(
        "LoRA adapter", r"lora_A\.(?:\w+\.)?weight", advice="merge it into its network first (peft: merge_and_unload)"
    ),
    Layout(
        "quantized network",
        r"(?:qweight|qzeros|weight_packed|weight\.(?:SCB|absmax|quant_map|_data)|weight_format|_packed_params\S*)",
        advice="weights before quantization are wanted: quee quantizes them itself",
    ),
    t2t_vit.LAYOUT,
    Layout("data2vec", r"data2vec_vision\.embeddings\.cls_token", advice=_PREPARED),
    hugging_face_beit.LAYOUT,
    beit.LAYOUT,
    hugging_face_dinov2.LAYOUT,
    hugging_face_vit.LAYOUT,
    torchvision_vit.LAYOUT,
    mmpretrain.LAYOUT,
    google.LAYOUT,
    Layout(
        "OpenAI or OpenCLIP CLIP",
        r"visual\.class_embedding",
        advice="timm reads it: torch.save(timm.create_model(NAME, checkpoint_path=FILE).state_dict(), 'weights.pth')",
    ),
    Layout("Hugging Face CLIP or SigLIP", r"vision_model\.encoder\.layers\.0\.layer_norm1\.weight", advice=_PREPARED),
    eva.DINOV3,
    hugging_face_dinov3.LAYOUT,
    eva.LAYOUT,
    hugging_face_swin.V2,
    torchvision_swin.V2,
    swin.V2,
    swin.LAYOUT,
    hugging_face_swin.LAYOUT,
    torchvision_swin.LAYOUT,
    timm.RELATIVE,
    dinov2.LAYOUT,
    timm.MAE,
    timm.DEIT3,
    timm.LAYOUT,
    torchvision_resnet.LAYOUT,
    resnet_cifar.LAYOUT,
    hugging_face_resnet.LAYOUT,
    convnext.LAYOUT,
    convnext.AUTHORS,
    hugging_face_convnext.LAYOUT,
    torchvision_convnext.LAYOUT,
    torchvision_mbconv.EFFICIENTNET,
    torchvision_mbconv.MOBILENET,
    Layout(
        "torchvision convolutional network",
        r"features\.0\.(?:0\.)?weight",
        advice="of torchvision's networks ViT, ResNet, ConvNeXt, Swin, EfficientNet and MobileNetV3 are read",
    ),
    efficientnet.LAYOUT,
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
    found: Layout | None = None


WITHIN = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Modules that compilation and sharding put around others, anywhere in a key."""
AVERAGED = re.compile(r"(?:^|[_.])(?:ema|swa|avg|averaged?|polyak)(?:$|[_.])")
"""Matches the keys and prefixes of averaged weights, in lower case."""
HEAD = re.compile(r"(?:\w+_)?(?:heads?|classifier|fc|logits)\d?[./]")
"""Prefixes of keys of classification heads."""


def recognise(state: State, source: str) -> Recognised:
    """The weights under the names of a backbone here, by the first layout whose anchor is among the keys.

    Raises QueeError naming the layout where no backbone here has its parts, where the file holds several networks, or
    where a head is outside of the network.
    """
    state = {WITHIN.sub("", key): value for key, value in state.items()}
    for layout in LAYOUTS:
        found = [match for key in state if (match := re.fullmatch(rf"(|.*?[./])(?:{layout.anchor})", key))]
        if found and (not layout.also or any(re.search(layout.also, key) for key in state)):
            return _taken(state, layout, sorted({match[1] for match in found}), source)
    return Recognised(state, "")


NAMED = 4
"""Layouts that a message names."""


def readable(like: str = "") -> str:
    """A few of the layouts that are read, for messages, and where all are listed; the nearest to a module's path come first."""
    words = set(re.findall(r"[a-z]+", like.lower()))
    names = [layout.name for layout in LAYOUTS if layout.convert]
    nearest = sorted(names, key=lambda name: -len(words & set(re.findall(r"[a-z]+", name.lower()))))[:NAMED]
    return f"{'; '.join(nearest)}; and {len(names) - NAMED} more, which docs/backbones.md#weights lists"


def _taken(state: State, layout: Layout, prefixes: list[str], source: str) -> Recognised:
    if layout.convert is None:
        raise QueeError(f"{source} is a {layout.name} ({len(state)} weights), which is not read; {layout.advice}")
    averaged = [prefix for prefix in prefixes if AVERAGED.search(prefix.lower())]
    if len(averaged) == 1:  # beside the weights that were averaged
        prefixes = averaged
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
    return Recognised(converted, layout.name, prefix, left_out, layout)
