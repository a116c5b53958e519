"""Disjoint, stratified, seeded splits, recorded by sample id."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from quee.data.grouped import cut_groups
from quee.errors import IntegrityError, UsageError
from quee.groups import divides
from quee.measure import LABELLED
from quee.settings.prepare import Splits
from quee.settings.sets import HELD_OUT, SPLITS, sets_of
from quee.work.io import read_table

SMALLEST = 2
"""Least number of images per class in a smoke run."""


def make_splits(
    labels_train: np.ndarray,
    labels_test: np.ndarray | None,
    splits: Splits,
    seed: int,
    limit: int | None = None,
    smoke: bool = False,
    groups: np.ndarray | None = None,
    seen: np.ndarray | None = None,
) -> pa.Table:
    """Columns sample_id (sorted), split, calibration; a sample id is a row number over training, then test files.

    `splits.evaluation_set` says from which official set each split is drawn. Every class gets a training sample if
    there are enough. `limit` keeps so many samples of each set. A `smoke` run takes them from as many classes as get two
    samples each, uses all of them, and caps the calibration samples at their number. Raises UsageError where a needed
    split is empty or too small for its calibration samples.

    With `splits.folds`, column fold has the rotation (from 0) in which a sample is tested, -1 for training and validation
    samples; split holds for rotation 0, and split_1, split_2, … for the others. A fold has the same number of samples of
    each class up to one, and so have the folds in all.

    `groups` (N,) are the groups of all samples; none is divided between splits or folds (`quee.data.grouped`), and column
    group has them. `seen` (n_train,) says which training samples the backbone's weights have seen, for `evaluation_set`
    'never_seen'. Raises UsageError where a group has samples in sets that are divided apart.
    """
    rng = np.random.default_rng([seed, 0x5917])
    given = [np.asarray(labels) for labels in (labels_train, labels_test) if labels is not None]
    if splits.evaluation_set != "pooled" and labels_test is None:
        raise UsageError(
            f"prepare.splits.evaluation_set: {splits.evaluation_set!r}, but the dataset has no official evaluation "
            "set; valid: 'pooled'"
        )
    labels = np.concatenate(given)
    sets = _sets(splits.evaluation_set, [len(own) for own in given], seen)
    if groups is not None and splits.evaluation_set != "pooled":
        _refuse_shared(groups, sets, splits.evaluation_set)
    drawn = smoke_classes([labels[own] for own in sets], limit, splits, seed) if smoke and limit is not None else None
    orders = []
    for own in sets:
        rows = own if drawn is None else own[np.isin(labels[own], drawn)]
        orders.append(rows[stratified_order(labels[rows], rng)][:limit])
    if splits.evaluation_set == "pooled":
        pooled = np.sort(np.concatenate(orders))
        orders = [pooled[stratified_order(labels[pooled], rng)]]
    parts: dict[str, np.ndarray] = {}
    for rows, wanted in zip(orders, sets_of(splits.evaluation_set), strict=True):
        shares = {name: getattr(splits, name) for name in wanted}
        if drawn is not None:
            shares = _smoke_shares(shares, len(drawn), len(rows))
        if groups is not None and divides(groups[rows]):
            parts |= cut_groups(rows, labels[rows], groups[rows], shares, rng)
            continue
        if "train" in shares:
            rows = _every_class_first(rows, labels[rows], round(shares["train"] * len(rows)))
        parts |= cut(rows, shares)
    rotations = list(_rotations(parts, labels, splits, rng, groups)) if splits.folds else [parts]
    for rotation in rotations:
        _check(rotation, splits, smoke)

    ids, names = _by_sample(rotations[0])
    columns = {
        "sample_id": pa.array(ids, pa.int64()),
        "split": pa.array(names, pa.string()),
        "calibration": pa.array(np.isin(ids, parts["train"][: splits.calibration])),
    }
    if groups is not None:
        columns["group"] = pa.array(groups[ids], pa.int64())
    if splits.folds:
        others = {_column(number): _by_sample(part)[1] for number, part in enumerate(rotations) if number}
        fold = np.full(len(ids), -1)
        for number, part in enumerate(rotations):
            fold[np.isin(ids, part["test"])] = number
        columns["fold"] = pa.array(fold, pa.int32())
        columns |= {name: pa.array(own, pa.string()) for name, own in others.items()}
    return pa.table(columns)


def _sets(evaluation_set: str, sizes: Sequence[int], seen: np.ndarray | None) -> list[np.ndarray]:
    """Ids of the samples that are divided together: the official sets, of `sizes`, or their parts; pooled later."""
    ids = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    if evaluation_set != "never_seen":
        return ids
    if seen is None:
        raise UsageError(
            "prepare.splits.evaluation_set: 'never_seen', but which training samples the weights have seen is not known; "
            "`quee weights add … --trained-on DATASET --never-seen FILE` states it"
        )
    if seen.all() or not seen.any():
        count = f"{'all' if seen.all() else 'none'} of the {len(seen):,} training samples"
        raise UsageError(
            f"prepare.splits.evaluation_set: 'never_seen', but the weights have seen {count}; valid: 'held_out', 'test', "
            "'pooled'"
        )
    return [ids[0][seen], ids[0][~seen], ids[1]]


def _refuse_shared(groups: np.ndarray, sets: Sequence[np.ndarray], evaluation_set: str) -> None:
    """Raises UsageError where a group has samples in two of the sets, so that it would be divided between splits."""
    for number, own in enumerate(sets):
        for other in sets[number + 1 :]:
            if len(shared := np.intersect1d(groups[own], groups[other])):
                raise UsageError(
                    f"prepare.splits.evaluation_set: {evaluation_set!r}, but {len(shared):,} groups, such as {shared[0]}, have "
                    "samples on both sides of its division, so that held-out samples would be like those that were learned "
                    "from; 'pooled' keeps groups together"
                )


def _rotations(
    parts: Mapping[str, np.ndarray],
    labels: np.ndarray,
    splits: Splits,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The ids by split in every rotation: one fold is the test split, the others are divided by their shares.

    The validation split is the same in all, so that what is chosen on it once, such as the tree, was not chosen on a test
    split.
    """
    turning = [name for name in HELD_OUT if name != "validation"]
    held_out = rng.permutation(np.concatenate([parts[name] for name in turning]))
    by_class = held_out[np.argsort(labels[held_out], kind="stable")]
    shares = {name: getattr(splits, name) for name in turning if name != "test"}
    shares = {name: share / sum(shares.values()) for name, share in shares.items()}
    grouped = groups is not None and divides(groups[by_class])
    if groups is not None and grouped:
        even = {str(number): 1 / splits.folds for number in range(splits.folds)}
        folds = list(cut_groups(by_class, labels[by_class], groups[by_class], even, rng).values())
    else:
        folds = [by_class[number :: splits.folds] for number in range(splits.folds)]
    for fold in folds:
        rest = by_class[~np.isin(by_class, fold)]
        rest = rest[stratified_order(labels[rest], rng)]
        if groups is not None and grouped:
            divided = cut_groups(rest, labels[rest], groups[rest], shares, rng)
        else:
            divided = cut(rest, shares)
        yield {"train": parts["train"], **divided, "validation": parts["validation"], "test": fold}


def _by_sample(parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,), rising, and the name of each one's split (n,)."""
    ids = np.concatenate(list(parts.values()))
    names = np.concatenate([np.full(len(part), name, dtype=object) for name, part in parts.items()])
    order = np.argsort(ids)
    return ids[order], names[order]


def _column(rotation: int) -> str:
    """Name of the column with the splits of a rotation."""
    return f"split_{rotation}" if rotation else "split"


def smoke_classes(sets: Sequence[np.ndarray], limit: int, splits: Splits, seed: int) -> np.ndarray:
    """The classes, rising, from which a smoke run draws `limit` samples of each set: as many as get two samples each.

    Raises UsageError where there are fewer than two such classes.
    """
    labels = np.concatenate(sets) if splits.evaluation_set == "pooled" else sets[0]
    enough = np.flatnonzero(np.bincount(labels) >= SMALLEST)
    count = min(len(enough), min(limit, len(sets[0])) // SMALLEST)
    if count < 2:
        raise UsageError(
            f"a smoke run of {limit} samples has too few for {SMALLEST} of each of two classes; raise --limit"
        )
    if count == len(enough):
        return enough
    return np.sort(np.random.default_rng([seed, 0x5E1]).choice(enough, count, replace=False))


def _smoke_shares(shares: dict[str, float], classes: int, samples: int) -> dict[str, float]:
    """Divide all drawn samples by the shares; training gets at least one sample of each class."""
    total = sum(shares.values())
    scaled = {name: share / total for name, share in shares.items()}
    least = classes / samples
    if scaled.get("train", 1.0) >= least:
        return scaled
    rest = (1 - least) / (1 - scaled["train"])
    return {name: least if name == "train" else share * rest for name, share in scaled.items()}


def _every_class_first(order: np.ndarray, labels: np.ndarray, first: int) -> np.ndarray:
    """The order (n,), changed so that its `first` entries hold a sample of every class if there is room; `labels` (n,).

    A sample of a missing class is swapped with the last sample of the most frequent class. An order that already has
    all classes is not changed.
    """
    counts = np.bincount(labels[:first], minlength=int(labels.max(initial=0)) + 1)
    later, places = np.unique(labels[first:], return_index=True)
    order, labels = order.copy(), labels.copy()
    for label, place in zip(later, places + first, strict=True):
        if counts[label]:
            continue
        most = int(counts.argmax())
        if counts[most] < 2:
            break
        last = np.flatnonzero(labels[:first] == most)[-1]
        for values in (order, labels):
            values[[last, place]] = values[[place, last]]
        counts[most] -= 1
        counts[label] += 1
    return order


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every part has nearly the class shares of the whole."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    index = np.arange(len(labels)) - np.repeat(first, count)
    position = (index + np.repeat(rng.random(len(count)), count)) / np.repeat(count, count)
    return by_class[np.argsort(position, kind="stable")]


def in_turn(ids: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The samples `ids` (n,), with labels (n,), in a random order in which classes take turns as long as they can."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(ids))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(ids)) - np.repeat(first, count)
    return ids[by_class[np.lexsort((rng.random(len(ids)), turn))]]


def cut(order: np.ndarray, shares: dict[str, float]) -> dict[str, np.ndarray]:
    ends = np.rint(np.cumsum(list(shares.values())) * len(order)).astype(int)
    return dict(zip(shares, np.split(order, ends), strict=False))


def _check(parts: dict[str, np.ndarray], splits: Splits, smoke: bool) -> None:
    if empty := [name for name, part in parts.items() if getattr(splits, name) > 0 and not len(part)]:
        raise UsageError(
            f"prepare.splits.{empty[0]}: too few samples for split {empty[0]!r}, of {sum(map(len, parts.values()))} in all; "
            "raise its share, or the limit"
        )
    if not smoke and len(parts["train"]) < splits.calibration:
        raise UsageError(
            f"prepare.splits.calibration: {splits.calibration} samples out of {len(parts['train'])} in train; "
            "lower it, or raise prepare.splits.train or prepare.limit"
        )


def thinned(ids: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """At most `most` of the samples `ids` (n,), drawn at random, rising; all of them where `most` is None."""
    if not most or len(ids) <= most:
        return ids
    return np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))


def split_ids(path: Path) -> dict[str, np.ndarray]:
    """Sorted sample ids by split from a `splits.parquet`; `calibration`, a subset of `train`, is among them, and `labelled`."""
    table = read_table(path)
    ids, split = table["sample_id"].to_numpy(), np.asarray(table["split"].to_pylist(), dtype=object)
    found = {name: ids[split == name] for name in (*SPLITS, LABELLED)}
    return {**found, "calibration": ids[table["calibration"].to_numpy(zero_copy_only=False)]}


def split_groups(path: Path, ids: np.ndarray) -> np.ndarray | None:
    """Groups (n,) of the samples `ids` (n,) from a `splits.parquet`; None where the data set has no groups."""
    table = read_table(path)
    if "group" not in table.schema.names:
        return None
    found: np.ndarray = table["group"].to_numpy()[np.searchsorted(table["sample_id"].to_numpy(), ids)]
    return found


def rotations_of(table: pa.Table) -> list[np.ndarray]:
    """Splits (n,) of a table's samples in every rotation; a single one where there are no folds."""
    count = 1 + sum(name.startswith("split_") for name in table.schema.names)
    columns = [_column(number) for number in range(count)]
    return [np.asarray(table[name].to_pylist(), dtype=object) for name in columns]


def held_out_rotations(path: Path, ids: np.ndarray) -> list[np.ndarray]:
    """Splits (n,) in every rotation, from a `splits.parquet`, of the held-out samples `ids` (n,), rising.

    Raises IntegrityError where these are not all held-out samples.
    """
    table = read_table(path)
    splits = rotations_of(table)
    held_out = splits[0] != "train"
    if not np.array_equal(table["sample_id"].to_numpy()[held_out], ids):
        raise IntegrityError(f"{path}: its held-out samples are not those of the feature cache; `quee run` makes both")
    return [split[held_out] for split in splits]
