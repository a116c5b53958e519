"""Hugging Face's ConvNeXt, versions 1 and 2."""

from typing import Any

from quee.errors import QueeError
from quee.network.checkpoints.layout import Config, Layout, Named, Size, State
from quee.network.checkpoints.layouts.convnext import renamed
from quee.network.checkpoints.layouts.hugging_face import USUAL_EPS, activation, agree, at_size, number
from quee.network.checkpoints.layouts.sizes import convnext, depths

_RULES = (
    (r"^convnext(?:v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.grn\.", ".mlp.grn."),
    (r"^layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
)


def convert(state: State) -> State:
    return renamed(state, _RULES)


def configured(config: Config, state: State, size: Size | None) -> Named:
    """Only the norm before the head has the configuration's ε, in transformers."""
    found = convnext(state)
    if found is None:
        raise QueeError("no weights of a stem, stem.0.weight")
    agree(config, "depths", depths(state, "stages.{}.blocks", range(4)))
    agree(config, "hidden_sizes", [len(state[f"stages.{stage}.blocks.0.norm.weight"]) for stage in range(4)])
    more: dict[str, Any] = {"act_layer": act} if (act := activation(config)) != "gelu" else {}
    if (eps := number(config, "layer_norm_eps", USUAL_EPS)) != 1e-6:
        more["norm_eps"] = {"head.norm": eps}
    return Named(found.name, {**found.kwargs, **more, **at_size(size)})


def named(state: State) -> Named | None:
    """As shapes tell; ε is transformers' usual one."""
    found = convnext(state)
    return found and Named(found.name, {**found.kwargs, "norm_eps": {"head.norm": USUAL_EPS}})


LAYOUT = Layout(
    "Hugging Face ConvNeXt",
    r"(?:convnext(?:v2)?\.)?encoder\.stages\.0\.layers\.0\.dwconv\.weight",
    convert,
    named=named,
    model_types=("convnext", "convnextv2"),
    configured=configured,
)
