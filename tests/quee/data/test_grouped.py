"""Splits of samples in groups: no group is divided, sizes are near the shares, classes are spread."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.data.grouped import cut_groups
from quee.data.splits import make_splits, rotations_of, split_groups
from quee.errors import UsageError
from quee.settings.prepare import Splits
from quee.settings.sets import HELD_OUT, SPLITS
from quee.work.io import write_table

DIGITS = Splits()
HELD = Splits(train=0.9, predictor=0.5, validation=0.1, certification=0.2, test=0.2, evaluation_set="held_out")
FOLDS = Splits(
    train=1.0, predictor=0.6, validation=0.1, certification=0.12, test=0.18, evaluation_set="held_out", folds=5
)
seeds = st.integers(0, 2**31 - 1)


def drawn(seed: int, samples: int, largest: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and groups (n,) of 1 to `largest` samples each, which mostly share a class."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, largest + 1, samples)
    groups = np.repeat(random.permutation(samples), sizes)[:samples]
    own = random.integers(0, classes, samples)[groups]
    labels = np.where(random.random(samples) < 0.7, own, random.integers(0, classes, samples))
    order = random.permutation(samples)
    return labels[order], groups[order]


def undivided(table: pa.Table) -> bool:
    """Whether every group of a table is in one split, in every rotation, and in one fold."""
    groups = table["group"].to_numpy()
    columns = [*rotations_of(table), *([table["fold"].to_numpy()] if "fold" in table.schema.names else [])]
    return all(len(np.unique(column[groups == group])) == 1 for column in columns for group in np.unique(groups))


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(700, 1500), st.integers(2, 20), st.integers(2, 12))
def test_no_group_is_divided_and_sizes_are_near_their_shares(
    seed: int, samples: int, largest: int, classes: int
) -> None:
    labels, groups = drawn(seed, samples, largest, classes)
    table = make_splits(labels, None, DIGITS, seed, groups=groups)
    assert undivided(table) and len(table) == samples
    assert np.array_equal(table["group"].to_numpy(), groups)
    split, biggest = rotations_of(table)[0], int(np.bincount(groups).max())
    for name in SPLITS:
        assert abs((split == name).sum() - getattr(DIGITS, name) * samples) <= biggest
    assert table.equals(make_splits(labels, None, DIGITS, seed, groups=groups))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_classes_are_spread_as_in_the_whole(seed: int) -> None:
    labels, groups = drawn(seed, 2000, 6, 5)
    split = rotations_of(make_splits(labels, None, DIGITS, seed, groups=groups))[0]
    for name in ("train", "predictor", "validation", "test"):
        share = getattr(DIGITS, name)
        found = np.bincount(labels[split == name], minlength=5)
        assert np.abs(found - share * np.bincount(labels)).max() <= 6


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 8))
def test_folds_and_their_rotations_divide_no_group(seed: int, largest: int) -> None:
    labels, groups = drawn(seed, 900, largest, 4)
    groups[500:] += 10_000  # the official sets share no group
    table = make_splits(labels[:500], labels[500:], FOLDS, seed, groups=groups)
    assert undivided(table)
    held_out, tested = np.arange(900) >= 500, table["fold"].to_numpy() >= 0
    sizes = np.bincount(table["fold"].to_numpy()[tested])
    assert len(sizes) == 5 and np.ptp(sizes) <= 2 * largest
    for number, split in enumerate(rotations_of(table)):
        assert np.array_equal(split == "test", table["fold"].to_numpy() == number)
        assert set(split[held_out]) == set(HELD_OUT)


@settings(max_examples=15, deadline=None)
@given(seeds, st.booleans())
def test_groups_of_one_sample_give_the_splits_without_groups(seed: int, folds: bool) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, 600)
    groups = np.random.default_rng(seed).permutation(600)
    settings, given = (FOLDS, (labels[:300], labels[300:])) if folds else (DIGITS, (labels, None))
    table = make_splits(*given, settings, seed, groups=groups)
    assert table.drop_columns(["group"]).equals(make_splits(*given, settings, seed))


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(60, 300))
def test_a_limited_number_of_samples_divides_no_group_either(seed: int, limit: int) -> None:
    labels, groups = drawn(seed, 900, 5, 4)
    for smoke in (False, True):
        table = make_splits(
            labels, None, DIGITS.model_copy(update={"calibration": 16}), seed, limit, smoke, groups=groups
        )
        assert len(table) == limit and undivided(table)


def test_a_class_of_one_group_is_learned_from() -> None:
    labels, groups = np.arange(400) % 4, np.arange(400) // 4
    labels, groups = np.append(labels, [4, 4, 4]), np.append(groups, [999, 999, 999])
    few = DIGITS.model_copy(update={"calibration": 64})
    for seed in range(10):
        split = rotations_of(make_splits(labels, None, few, seed, groups=groups))[0]
        assert set(labels[split == "train"]) == {0, 1, 2, 3, 4}


def test_every_split_gets_a_group_as_long_as_there_are_enough() -> None:
    labels, groups = np.arange(100) % 2, np.arange(100) // 25
    shares = {"train": 0.45, "predictor": 0.25, "validation": 0.1, "test": 0.2}
    found = cut_groups(np.arange(100), labels, groups, shares, np.random.default_rng(0))
    assert [len(part) for part in found.values()] == [25, 25, 25, 25]


def test_a_group_in_both_official_sets_is_refused_unless_they_are_pooled() -> None:
    labels, groups = np.arange(600) % 4, np.arange(600) // 3
    groups[590:] = 5
    with pytest.raises(UsageError, match=r"'held_out', but 2 groups, such as 5, have samples on both sides.*'pooled'"):
        make_splits(labels[:400], labels[400:], HELD, 0, groups=groups)
    pooled = Splits(train=0.5, predictor=0.2, validation=0.1, test=0.2)
    assert undivided(make_splits(labels[:400], labels[400:], pooled, 0, groups=groups))


def test_groups_are_read_from_the_table_of_splits(tmp_path) -> None:
    labels, groups = drawn(0, 800, 4, 3)
    write_table(tmp_path / "splits.parquet", make_splits(labels, None, DIGITS, 0, 600, groups=groups))
    ids = make_splits(labels, None, DIGITS, 0, 600, groups=groups)["sample_id"].to_numpy()[5:90:7]
    assert np.array_equal(split_groups(tmp_path / "splits.parquet", ids), groups[ids])
    write_table(tmp_path / "none.parquet", make_splits(labels, None, DIGITS, 0))
    assert split_groups(tmp_path / "none.parquet", ids) is None


NEVER = Splits(train=0.5, predictor=0.5, validation=0.3, certification=0.2, test=1.0, evaluation_set="never_seen")


def test_samples_that_weights_have_never_seen_are_held_out_of_the_training_set() -> None:
    labels, seen = np.arange(1000) % 4, np.ones(700, bool)
    seen[::7] = False
    split = rotations_of(make_splits(labels[:700], labels[700:], NEVER, 0, seen=seen))[0]
    ids = make_splits(labels[:700], labels[700:], NEVER, 0, seen=seen)["sample_id"].to_numpy()
    by_split = {name: ids[split == name] for name in SPLITS}
    assert seen[by_split["train"]].all() and len(by_split["train"]) == 300
    for name, count in (("predictor", 50), ("validation", 30), ("certification", 20)):
        assert len(by_split[name]) == count and not seen[by_split[name]].any()
    assert by_split["test"].tolist() == list(range(700, 1000))


@pytest.mark.parametrize(("seen", "said"), [(None, "is not known"), (True, "seen all of"), (False, "seen none of")])
def test_never_seen_is_refused_where_it_is_not_known_or_means_nothing(seen: bool | None, said: str) -> None:
    labels = np.arange(1000) % 4
    with pytest.raises(UsageError, match=rf"'never_seen', but .*{said}"):
        make_splits(labels[:700], labels[700:], NEVER, 0, seen=None if seen is None else np.full(700, seen))
