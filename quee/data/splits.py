"""Disjoint, stratified, seeded splits, recorded by sample id."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from quee.data.sets import SPLITS, sets_of
from quee.errors import UsageError
from quee.experiment import Splits
from quee.io import read_table


def make_splits(
    labels_train: np.ndarray, labels_test: np.ndarray | None, splits: Splits, seed: int, limit: int | None = None
) -> pa.Table:
    """Columns sample_id (sorted), split, calibration; a sample id is a row number over training, then test files.

    `splits.evaluation_set` says which splits are drawn from which labels. `limit` keeps so many samples of each set, and
    then no more calibration samples than there are. Raises UsageError when a split that is needed comes out empty.
    """
    rng = np.random.default_rng([seed, 0x5917])
    sets = [np.asarray(labels) for labels in (labels_train, labels_test) if labels is not None]
    offsets = np.cumsum([0, *map(len, sets)])
    orders = [offset + stratified_order(labels, rng)[:limit] for offset, labels in zip(offsets, sets, strict=False)]
    if splits.evaluation_set != "pooled":
        if labels_test is None:
            raise UsageError(
                f"prepare.splits.evaluation_set: {splits.evaluation_set!r}, but the dataset has no official evaluation "
                "set; valid: 'pooled'"
            )
    else:
        labels = np.concatenate(sets)
        pooled = np.sort(np.concatenate(orders))
        orders = [pooled[stratified_order(labels[pooled], rng)]]
    parts: dict[str, np.ndarray] = {}
    for drawn, wanted in zip(orders, sets_of(splits.evaluation_set), strict=True):
        parts |= _cut(drawn, {name: getattr(splits, name) for name in wanted})
    _check(parts, splits, limit)

    calibration = parts["train"][: splits.calibration]
    ids = np.concatenate(list(parts.values()))
    names = np.concatenate([np.full(len(part), name, dtype=object) for name, part in parts.items()])
    order = np.argsort(ids)
    columns = {
        "sample_id": pa.array(ids[order], pa.int64()),
        "split": pa.array(names[order], pa.string()),
        "calibration": pa.array(np.isin(ids[order], calibration)),
    }
    return pa.table(columns)


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of which every stretch has the classes in nearly their shares of the whole."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    index = np.arange(len(labels)) - np.repeat(first, count)
    position = (index + np.repeat(rng.random(len(count)), count)) / np.repeat(count, count)
    return by_class[np.argsort(position, kind="stable")]


def _cut(order: np.ndarray, shares: dict[str, float]) -> dict[str, np.ndarray]:
    ends = np.rint(np.cumsum(list(shares.values())) * len(order)).astype(int)
    return dict(zip(shares, np.split(order, ends), strict=False))


def _check(parts: dict[str, np.ndarray], splits: Splits, limit: int | None) -> None:
    needed = {"predictor", "validation", "test"} | ({"train"} if splits.train > 0 else set())
    if empty := sorted(name for name in needed if not len(parts[name])):
        raise UsageError(f"prepare.splits: too few samples for split {empty[0]!r}; raise its share or the limit")
    if limit is None and 0 < len(parts["train"]) < splits.calibration:
        raise UsageError(
            f"prepare.splits.calibration: {splits.calibration} samples out of {len(parts['train'])} in train"
        )


def split_ids(path: Path) -> dict[str, np.ndarray]:
    """Sorted sample ids by split from a `splits.parquet`; `calibration`, a subset of `train`, is among them."""
    table = read_table(path)
    ids, split = table["sample_id"].to_numpy(), np.asarray(table["split"].to_pylist(), dtype=object)
    found = {name: ids[split == name] for name in SPLITS}
    return {**found, "calibration": ids[table["calibration"].to_numpy(zero_copy_only=False)]}
