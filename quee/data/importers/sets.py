"""Tells from the name which set a folder, file or hub split is, and which one becomes the evaluation set."""

import re
from collections.abc import Mapping, Sequence

from quee.data.walk import shown, some
from quee.errors import UsageError

ROLES = {
    "train": ("train", "training", "trainval", "trn"),
    "validation": (
        *("val", "valid", "validation", "validate", "validating"),
        *("dev", "devel", "development", "eval", "evaluation", "holdout"),
    ),
    "test": ("test", "testing", "tst"),
}
"""Words, in lower case, that name a set."""
FILLERS = frozenset(
    (
        *("set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs"),
        *("files", "folder", "photos", "samples"),
    )
)
"""Words that may stand beside them without another meaning."""
NO_CLASS = frozenset(("image", "images", "img", "imgs", "data", "dataset"))
"""Names of folders, in lower case, that are not taken for a class."""
_ROLE = {word: role for role, words in ROLES.items() for word in words}


def role(name: str) -> str | None:
    """`train`, `validation` or `test` where a name means just that, such as `Train`, `valid`, `testing_set`, `train2017`."""
    words = _words(name)
    found = [word for word in words if word in _ROLE]
    return _ROLE[found[0]] if len(found) == 1 and all(w in _ROLE or w in FILLERS for w in words) else None


def resembles(name: str) -> str | None:
    """The set that one word of a name stands for, as in `seg_train`; None where two words name sets."""
    found = {_ROLE[word] for word in _words(name) if word in _ROLE}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> list[str]:
    """Words of a name in lower case, without numbers; `trainset` is two."""
    name = re.sub(r"(?i)h[eo]ld[-_ .]?out", "holdout", name)
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    return [part for word in words for part in _parted(word)]


def _parted(word: str) -> tuple[str, ...]:
    for filler in FILLERS:
        if word.endswith(filler) and (first := word.removesuffix(filler)) in _ROLE:
            return first, filler
    return (word,)


def choose_evaluation(
    candidates: Mapping[str, str | None],
    unusable: Mapping[str, str],
    wanted: str | None,
    preferred: Sequence[str],
    of: str,
) -> str | None:
    """The evaluation set among `candidates`, by name: the requested one, or the one with the first preferred role.

    `unusable` has sets that cannot be used, with the reason; messages call the source `of`. None without candidates.
    Raises UsageError where the requested set is missing, or the choice would be a guess.
    """
    valid = f"valid for --evaluation: {some(map(shown, candidates))}" if candidates else "there is no other set"
    if wanted is not None:
        name = wanted.strip("/")
        for known in (*candidates, *unusable):
            if known == name or shown(known) == name:
                if known in unusable:
                    raise UsageError(f"--evaluation {name}: {unusable[known]}; {valid}")
                return known
        raise UsageError(f"--evaluation {wanted!r}: no such set in {of}; {valid}")
    for part in (*preferred, *(part for part in ROLES if part not in preferred)):
        found = [name for name, its in candidates.items() if its == part]
        if len(found) > 1:
            raise UsageError(f"{of}: which is the evaluation set? {valid}")
        if found:
            return found[0]
    return None


def preferred_roles(beginnings: Sequence[str]) -> list[str]:
    """The roles of a data set's evaluation files, in their order."""
    return list(dict.fromkeys(found for name in beginnings if (found := role(name)) is not None))
