"""What is said of a name that is no backbone here: timm's networks of other kinds, tags, near misses.

Importing this module imports timm.
"""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from quee.errors import UsageError
from quee.network import architectures
from quee.network.vision_transformer import VIT_MODULES, is_timm_vit, refuse_parts

HUB = re.compile(r"^(?:hf[_-]hub:)?(?:timm/)?")
"""What stands before timm's names on the hub."""
FAMILY = re.compile(
    r"dino(?:_?v\d)?|siglip2?|clip(?:a|_quickgelu)?|eva02|eva|beit(?:v2|3)?|mae|rope|relpos|srelpos|reg\d|gap|tipsv2|sam"
)
"""Parts of names that say how a network was trained or built; no name of another family is recommended for one."""
NEAREST = 3
CLOSE = 0.7
"""Likeness, 0–1, from which a name is asked after."""
DINOV3 = re.compile(r"dino[-_]?v?3", re.IGNORECASE)


def unknown_backbone(name: str) -> str:
    """One line: what the name is, if timm knows it, and which names are valid."""
    plain = HUB.sub("", name)
    base, _, tag = plain.partition(".")
    if plain != name and (plain in architectures.names() or is_timm_vit(plain)):
        return f"unknown backbone {name!r}; names are timm's own: {plain!r}"
    if timm.is_model(base) and is_timm_vit(base):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        return (
            f"unknown backbone {name!r}: timm's {base!r} has no weights {tag!r}; valid: {', '.join(tags) or 'no tag'}"
        )
    if timm.is_model(base):
        return f"unknown backbone {name!r}: it is timm's {_kind(base)}, which is not run here; {_supported(base)}"
    if DINOV3.search(name):
        kind = "a DINOv3 has rotary positions (timm's Eva), which are not run here"
        return f"unknown backbone {name!r}: {kind}; {_supported(name)}"
    close = next(_closest(plain), None)
    hint = f" (did you mean {close!r}?)" if close and _likeness(plain, close) >= CLOSE else ""
    return f"unknown backbone {name!r}{hint}; valid: {', '.join(_valid())}"


def _valid() -> list[str]:
    patterns = [name for listed in architectures.ARCHITECTURES.values() for name in listed if "*" in name]
    return [*architectures.names(), f"timm's VisionTransformers by timm's names ({', '.join(patterns)})"]


def nearest(name: str, most: int = NEAREST) -> list[str]:
    """Supported names most like one, of no family that it is not of; each has been seen to build."""
    found: list[str] = []
    for candidate in _closest(name):
        if len(found) == most:
            break
        if candidate != name and (candidate in architectures.names() or _builds(candidate)):
            found.append(candidate)
    return found


def _supported(name: str) -> str:
    return f"valid are timm's VisionTransformers with plain patches, the nearest: {', '.join(nearest(name))}"


def _closest(name: str) -> Iterator[str]:
    """Supported names, most alike first, without those of families that the name is not of."""
    names = {*architectures.names(), *(model for module in VIT_MODULES for model in timm.list_models(module=module))}
    own = set(FAMILY.findall(name))
    fitting = [candidate for candidate in names if set(FAMILY.findall(candidate)) <= own]
    return iter(sorted(fitting, key=lambda candidate: (-_likeness(name, candidate), candidate)))


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, FAMILY.sub("", name), FAMILY.sub("", other)).ratio()


@cache
def _builds(name: str) -> bool:
    try:
        refuse_parts(_on_meta(name, num_classes=1, depth=1))
    except UsageError:
        return False
    return True


def _on_meta(name: str, **kwargs: Any) -> nn.Module:
    """timm's network of a name without memory for its weights."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return model


def _kind(base: str) -> str:
    """Class of timm's network, and its stem where the class alone would do."""
    try:
        model = _on_meta(base)
    except Exception:  # whatever one of a thousand networks wants; its module says enough
        return f"{base!r} of {timm.model_entrypoint(base).__module__}"
    kind = type(model).__name__
    stem = type(getattr(model, "patch_embed", None)).__name__
    return f"VisionTransformer with a {stem} stem" if kind == "VisionTransformer" else kind
