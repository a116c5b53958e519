"""Messages for unknown backbone names: tags, misspellings, other spellings of timm's names.

`listed` are the registry's names, including patterns with `*`.

Importing this module imports timm.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

import timm

from quee.network.timm_models import is_timm
from quee.work.registry import listed as listed_near

HUB = re.compile(r"^(?:hf[_-]hub:)?(?:timm/)?")
"""Prefixes of timm's names on the hub."""
FAMILY = re.compile(
    r"dino(?:_?v\d)?|siglip2?|clip(?:a|_quickgelu)?|eva02|eva|beit(?:v2|3)?|mae|rope|relpos|srelpos|reg\d|gap|tipsv2|sam"
)
"""Parts of names that say how a network was trained or built; a name of another family is not recommended."""
CLOSE = 0.7
"""Likeness, 0–1, from which a name is suggested (`did you mean`)."""
LISTING = "`quee.network.architectures.names()`"
DINOV3 = re.compile(r"dino[-_]?v?3", re.IGNORECASE)


def unknown_backbone(name: str, listed: Sequence[str]) -> str:
    """One line: the name that was meant, as far as it can be guessed, and the valid names."""
    plain = HUB.sub("", name)
    base, _, tag = plain.partition(".")
    own = [candidate for candidate in listed if "*" not in candidate]
    if plain != name and (plain in own or is_timm(plain)):
        return f"unknown backbone {name!r}; names are timm's own: {plain!r}"
    if timm.is_model(base):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        return (
            f"unknown backbone {name!r}: timm's {base!r} has no weights {tag!r}; valid: {', '.join(tags) or 'no tag'}"
        )
    if DINOV3.search(name):
        return f"unknown backbone {name!r}; valid for DINOv3: {', '.join(timm.list_models('*dinov3*'))}"
    close = next(_closest(plain, [*own, *timm.list_models()]), None)
    hint = f" (did you mean {close!r}?)" if close and _likeness(plain, close) >= CLOSE else ""
    return f"unknown backbone {name!r}{hint}; valid: {listed_near(plain, own, LISTING)}; and timm's: timm.list_models()"


def _closest(name: str, names: Iterable[str]) -> Iterator[str]:
    """The names of the same families, the most similar first."""
    own = set(FAMILY.findall(name))
    fitting = [candidate for candidate in set(names) if set(FAMILY.findall(candidate)) <= own]
    return iter(sorted(fitting, key=lambda candidate: (-_likeness(name, candidate), candidate)))


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, FAMILY.sub("", name), FAMILY.sub("", other)).ratio()
