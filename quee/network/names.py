"""Messages for unknown backbone names: timm's other networks, tags, misspellings.

`listed` are the registry's names, including patterns with `*`.

Importing this module imports timm.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from quee.errors import UsageError
from quee.network.timm_chain import TimmChain, is_timm, timm_network
from quee.network.vision_transformer import VIT_MODULES, is_timm_vit, refuse_parts

CHAIN_MODULES = ("resnet", "convnext", "efficientnet", "mobilenetv3")
"""timm's modules whose networks are chains of stages."""

HUB = re.compile(r"^(?:hf[_-]hub:)?(?:timm/)?")
"""Prefixes of timm's names on the hub."""
FAMILY = re.compile(
    r"dino(?:_?v\d)?|siglip2?|clip(?:a|_quickgelu)?|eva02|eva|beit(?:v2|3)?|mae|rope|relpos|srelpos|reg\d|gap|tipsv2|sam"
)
"""Parts of names that say how a network was trained or built; a name of another family is not recommended."""
NEAREST = 3
CLOSE = 0.7
"""Likeness, 0–1, from which a name is suggested (`did you mean`)."""
DINOV3 = re.compile(r"dino[-_]?v?3", re.IGNORECASE)


def unknown_backbone(name: str, listed: Sequence[str]) -> str:
    """One line: the network of that name, if timm knows it, and the valid names."""
    plain = HUB.sub("", name)
    base, _, tag = plain.partition(".")
    if plain != name and (plain in listed or _is_of_ours(plain)):
        return f"unknown backbone {name!r}; names are timm's own: {plain!r}"
    if timm.is_model(base) and _is_of_ours(base):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        return (
            f"unknown backbone {name!r}: timm's {base!r} has no weights {tag!r}; valid: {', '.join(tags) or 'no tag'}"
        )
    if timm.is_model(base):
        return (
            f"unknown backbone {name!r}: it is timm's {_kind(base)}, which is not run here; {_supported(base, listed)}"
        )
    if DINOV3.search(name):
        kind = "a DINOv3 has rotary positions (timm's Eva), which are not run here"
        return f"unknown backbone {name!r}: {kind}; {_supported(name, listed)}"
    close = next(_closest(plain, listed), None)
    hint = f" (did you mean {close!r}?)" if close and _likeness(plain, close) >= CLOSE else ""
    return f"unknown backbone {name!r}{hint}; valid: {', '.join(listed)} (*: as timm has them)"


def instead_of(name: str, listed: Sequence[str]) -> str:
    """Names to use instead where a part of timm's network cannot be run with any keywords; empty for other networks."""
    return "" if _builds(name) else f"; nearest that are: {', '.join(nearest(name, listed))}"


def nearest(name: str, listed: Sequence[str], most: int = NEAREST) -> list[str]:
    """The most similar supported names; each is of the same families and can be built."""
    found: list[str] = []
    for candidate in _closest(name, listed):
        if len(found) == most:
            break
        if candidate != name and (candidate in listed or _builds(candidate)):
            found.append(candidate)
    return found


def _supported(name: str, listed: Sequence[str]) -> str:
    kinds = "VisionTransformers with plain patches, ResNets, ConvNeXts and EfficientNets"
    return f"valid are timm's {kinds}, the nearest: {', '.join(nearest(name, listed))}"


def _is_of_ours(name: str) -> bool:
    """Whether timm knows the name, and its network is of a kind that is run here."""
    module = timm.model_entrypoint(name.partition(".")[0]).__module__ if is_timm(name) else ""
    return is_timm_vit(name) or module.rpartition(".")[2] in CHAIN_MODULES


def _closest(name: str, listed: Sequence[str]) -> Iterator[str]:
    """Supported names of the same families, the most similar first."""
    own_names = (candidate for candidate in listed if "*" not in candidate)
    modules = (*VIT_MODULES, *CHAIN_MODULES)
    names = {*own_names, *(model for module in modules for model in timm.list_models(module=module))}
    own = set(FAMILY.findall(name))
    fitting = [candidate for candidate in names if set(FAMILY.findall(candidate)) <= own]
    return iter(sorted(fitting, key=lambda candidate: (-_likeness(name, candidate), candidate)))


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, FAMILY.sub("", name), FAMILY.sub("", other)).ratio()


@cache
def _builds(name: str) -> bool:
    try:
        if is_timm_vit(name):
            refuse_parts(_on_meta(name, num_classes=1, depth=1))
        else:
            with torch.device("meta"):
                TimmChain(*timm_network(name, num_classes=1))
    except UsageError:
        return False
    return True


def _on_meta(name: str, **kwargs: Any) -> nn.Module:
    """timm's network of that name, without memory for its weights."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return model


def _kind(base: str) -> str:
    """Class of timm's network, and its stem where the class alone is supported."""
    try:
        model = _on_meta(base)
    except Exception:  # networks raise many types; the name of the module is enough
        return f"{base!r} of {timm.model_entrypoint(base).__module__}"
    kind = type(model).__name__
    stem = type(getattr(model, "patch_embed", None)).__name__
    return f"VisionTransformer with a {stem} stem" if kind == "VisionTransformer" else kind
