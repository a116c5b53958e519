"""Orders of class names: which name is label 0, 1 and so on.

torchvision sorts class folders as text (`1, 10, 2`), timm by the numbers in their names (`1, 2, 10`); published data sets
have lists of their own. A network's outputs follow one of these orders, and labels must follow the same.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from quee.data import DATASETS
from quee.data.files import same_name
from quee.data.walk import some
from quee.errors import UsageError
from quee.work.registry import unknown

MAX_BYTES = 16 << 20
"""Largest size of a file of class names."""
_NUMBER = re.compile(r"(\d+)")
_WNID = re.compile(r"n\d{8}")


def natural(name: str) -> list[Any]:
    """Sort key of timm's order: numbers within a name by their value, letters without regard to case."""
    return [int(part) if part.isdecimal() else part for part in _NUMBER.split(name.lower())]


ORDERS: dict[str, Callable[[str], Any]] = {"text": str, "natural": natural}
"""Sort keys by the names that `--class-order` takes."""


def ordered(names: Sequence[str], order: str | Sequence[str]) -> tuple[str, ...]:
    """Class names in an order: a key of ORDERS, or a list of the same names.

    Raises UsageError for an unknown order, and for a list that has other names.
    """
    if not isinstance(order, str):
        place = positions(order, names, "the list of classes")
        return tuple(names[index] for index in np.argsort(place).tolist())
    if order not in ORDERS:
        raise UsageError(unknown("class order", order, [*ORDERS, "a file with a name a line"]))
    return tuple(sorted(names, key=lambda name: (ORDERS[order](name), name)))


def note_on(names: Sequence[str], chosen: str = "text") -> str:
    """A line on the order of class names where text and numbers give two orders; empty where they give one."""
    orders = {key: ordered(names, key) for key in ORDERS}
    if len(set(orders.values())) < 2:
        return ""
    other = next(key for key in ORDERS if key != chosen)
    first = next(i for i in range(len(names)) if orders[chosen][i] != orders[other][i])
    shown = {key: ", ".join(of[max(0, first - 1) : first + 2]) for key, of in orders.items()}
    kinds = {"text": "as text, as torchvision does", "natural": "by number, as timm does"}
    return (
        f"classes are sorted {kinds[chosen]} (… {shown[chosen]} …); for a network that counts them {kinds[other]} "
        f"(… {shown[other]} …): --class-order {other}"
    )


def order_given(text: str | None) -> str | tuple[str, ...] | None:
    """The value of `--class-order`: a key of ORDERS, or the names in the file of that path."""
    return text if text is None or text in ORDERS else read_classes(Path(text), f"--class-order {text}")


def outputs_given(text: str | None, classes: Sequence[str], option: str = "--class-order") -> tuple[str, ...] | None:
    """The names of a network's outputs in their order by the value of an option, as `order_given` reads it.

    `classes` are the data set's; raises UsageError for a list of other names.
    """
    found = order_given(text)
    if found is None:
        return None
    if isinstance(found, str):
        return ordered(classes, found)
    positions(found, classes, f"{option} {text}")
    return found


def read_classes(path: Path, option: str) -> tuple[str, ...]:
    """Class names of a text file, one a line, blank lines left out; `option` names the file in the UsageError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{option}: more than {MAX_BYTES:,} bytes; a file of class names has one a line")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise UsageError(f"{option}: not readable ({reason}); give a file with a class name a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{option}: {twice!r} is in it twice")
    return names


def positions(own: Sequence[str], classes: Sequence[str], what: str) -> np.ndarray:
    """Where each of `classes` is in `own`, (classes,) int64, by name; differences of spelling count only if they must.

    ImageNet's classes are also matched between WordNet ids and words. Raises UsageError, which calls `own` by `what`, where
    the names are not the same.
    """
    if (found := _positions(own, classes)) is not None:
        return found
    missing, other = ([n for n in a if n not in b] for a, b in ((classes, set(own)), (own, set(classes))))
    faults = [f"without {some(missing, 5)}"] if missing else []
    faults += [f"with {some(other, 5)}"] if other else []
    raise UsageError(
        f"{what} has {len(own)} names, {' and '.join(faults) or 'some twice'}; the data set's: {some(classes, 5)}"
    )


def has_names(own: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether two lists have the same names, in any order."""
    return _positions(own, classes) is not None


def _positions(own: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    keys: tuple[Callable[[str], str], ...] = (str, same_name)
    spelled = (([*map(key, own)], [*map(key, classes)]) for key in keys)
    for given, wanted in chain(spelled, _wordnet(own, classes)):
        place = {name: index for index, name in enumerate(given)}
        if len(place) == len(own) == len(set(wanted)) == len(wanted) and set(wanted) == set(place):
            return np.array([place[name] for name in wanted], np.int64)
    return None


def _wordnet(own: Sequence[str], classes: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """WordNet ids in place of the names in both lists, once, if all are ImageNet's and some are its words."""
    if all(map(_WNID.fullmatch, (*own, *classes))):
        return
    given, wanted = _ids(tuple(own)), _ids(tuple(classes))
    if given and wanted:
        yield given, wanted


def _ids(names: tuple[str, ...]) -> list[str]:
    """WordNet ids of ImageNet's classes; none for others. In ImageNet's own order, words of two classes are told apart."""
    if all(map(_WNID.fullmatch, names)):
        return [*names]
    rows = _imagenet_classes("imagenet-1k")
    if [*map(same_name, names)] == [same_name(words) for _, words in rows]:
        return [wnid for wnid, _ in rows]
    found = _words_of(names)
    return [found[name][0] for name in names] if found else []


def known_orders(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Orders in which networks may count these classes, by description, without the order given; each order once."""
    names = tuple(classes)
    found = {
        "sorted as text (torchvision)": ordered(names, "text"),
        "sorted by number (timm)": ordered(names, "natural"),
        "sorted as text without regard to case": tuple(sorted(names, key=lambda name: (name.casefold(), name))),
        **_published(names),
        **_imagenet(names),
    }
    kept: dict[tuple[str, ...], str] = {}
    for words, order in found.items():
        if order != names:
            kept.setdefault(order, words)
    return {words: order for order, words in kept.items()}


def _published(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The published lists of registered data sets that have these classes, under the spelling of `names`."""
    found = {}
    for dataset in DATASETS.entries():
        if (place := _positions(dataset.classes, names)) is not None:
            found[f"the list of {dataset.title}"] = tuple(names[index] for index in np.argsort(place).tolist())
    return found


def _imagenet(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """For classes called by WordNet ids or by ImageNet's words: sorted by the words, and sorted by the ids."""
    words = _words_of(names)
    if words is None:
        return {}
    return {
        "sorted by ImageNet's words": tuple(
            sorted(names, key=lambda name: (words[name][1].casefold(), words[name][0]))
        ),
        "sorted by WordNet id (ImageNet)": tuple(sorted(names, key=lambda name: words[name][0])),
    }


@cache
def _imagenet_classes(subset: str) -> tuple[tuple[str, str], ...]:
    """WordNet id and words of each class, in timm's order; read once, because many lists are compared with them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    return tuple(zip(info.label_names(), info.label_descriptions(), strict=True))


def _words_of(names: tuple[str, ...]) -> dict[str, tuple[str, str]] | None:
    """WordNet id and words of each class, by timm's table of ImageNet's 21,841 classes; None where one is not in it."""
    rows = _imagenet_classes("imagenet-21k" if all(map(_WNID.fullmatch, names)) else "imagenet-1k")
    by_name = {wnid: (wnid, words) for wnid, words in rows}
    for wnid, words in rows:
        for text in (words, words.partition(",")[0]):
            by_name.setdefault(same_name(text), (wnid, words))
    found = {name: by_name.get(name) or by_name.get(same_name(name)) for name in names}
    return None if None in found.values() else found  # type: ignore[return-value]
