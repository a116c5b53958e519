"""Division of samples by shares without dividing groups, as even as can be in sizes and classes."""

from collections.abc import Iterator, Mapping

import numpy as np

from quee.groups import numbered

UNUSED = ""
"""The part of samples whose share no split has."""
LEAST = 2
"""Groups that stay in a split from which a group is moved; a split of one group says nothing of others."""


def cut_groups(
    rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The samples `rows` (n,), with labels (n,) and groups (n,), divided by shares; parts keep the order of `rows`.

    Groups are given out from the largest to the smallest, those of a size in random order. Each goes to a split that has
    room for half of it, or to the one with most room; of these to the split whose numbers of samples, in all and by class,
    come nearest to its share. So a split has at most a group more than its share. Where a split `train` lacks a class, it
    gets the smallest group that has it.
    """
    parts = dict(shares)
    if (rest := 1 - sum(parts.values())) * len(rows) > 0.5:
        parts[UNUSED] = rest
    place = numbered(groups)
    assigned = _assigned(labels, place, np.array(list(parts.values())), rng)
    names = list(parts)
    if "train" in parts:
        _complete(assigned, labels, place, names)
    return {name: rows[assigned[place] == names.index(name)] for name in shares}


def _assigned(labels: np.ndarray, place: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part (G,) of every group; `place` (n,) numbers the groups of the samples."""
    totals, sizes = np.bincount(labels), np.bincount(place)
    want, want_of = shares * len(labels), shares[:, None] * totals  # (P,), (P, classes)
    have, have_of, count = np.zeros(len(shares)), np.zeros(want_of.shape), np.zeros(len(shares), int)
    turn = rng.permutation(len(sizes))
    turn = turn[np.argsort(-sizes[turn], kind="stable")]
    found = np.zeros(len(sizes), int)
    members = list(_classes(labels, place))
    for left, group in zip(range(len(turn), 0, -1), turn, strict=True):
        classes, numbers = members[group]
        room, size = want - have, sizes[group]
        empty = np.flatnonzero((count == 0) & (shares > 0))
        fits = empty if left <= len(empty) else np.flatnonzero(room >= size / 2)
        if not len(fits):
            fits = np.array([room.argmax()])
        over = have_of[fits][:, classes] - want_of[fits][:, classes]
        worse = (numbers * (2 * over + numbers) / totals[classes]).sum(axis=1) + size * (size - 2 * room[fits]) / len(
            labels
        )
        chosen = fits[worse.argmin()]
        found[group] = chosen
        have[chosen] += size
        have_of[chosen, classes] += numbers
        count[chosen] += 1
    return found


def _classes(labels: np.ndarray, place: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each group its classes and their numbers of samples."""
    width = int(labels.max(initial=0)) + 1
    pairs, numbers = np.unique(place * width + labels, return_counts=True)
    ends = np.searchsorted(pairs // width, np.arange(1, int(place.max(initial=-1)) + 1))
    return zip(np.split(pairs % width, ends), np.split(numbers, ends), strict=True)


def _complete(assigned: np.ndarray, labels: np.ndarray, place: np.ndarray, names: list[str]) -> None:
    """Move the smallest group of every class that split `train` lacks there, from a part that has groups to spare."""
    train, sizes = names.index("train"), np.bincount(place)
    for label in np.setdiff1d(labels, labels[assigned[place] == train]):
        having = np.unique(place[labels == label])
        counts = np.bincount(assigned, minlength=len(names))
        spare = [group for group in having if names[assigned[group]] == UNUSED or counts[assigned[group]] > LEAST]
        if spare and label not in labels[assigned[place] == train]:
            assigned[min(spare, key=lambda group: (sizes[group], group))] = train
