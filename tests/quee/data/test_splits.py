import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.data.splits import held_out_rotations, make_splits, rotations_of
from quee.errors import IntegrityError, UsageError
from quee.settings.prepare import Splits
from quee.settings.sets import SPLITS
from quee.work.io import write_table

DIGITS = Splits()
OFFICIAL = Splits(train=0.9, predictor=0.5, validation=0.1, certification=0.2, test=0.2, evaluation_set="held_out")


def ids(table, split):
    return table.filter(pc.equal(table["split"], split))["sample_id"].to_numpy()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(700, 1500), st.integers(2, 12))
def test_splits_are_disjoint_sorted_and_stratified(seed, samples, classes):
    labels = np.random.default_rng(seed).integers(0, classes, samples)
    table = make_splits(labels, None, DIGITS, seed)
    all_ids = table["sample_id"].to_numpy()
    assert (np.diff(all_ids) > 0).all()
    assert len(all_ids) == samples
    for name, share in DIGITS.model_dump().items():
        if name in SPLITS:
            part = ids(table, name)
            assert abs(len(part) - share * samples) <= 1
            expected = share * np.bincount(labels, minlength=classes)
            assert np.abs(np.bincount(labels[part], minlength=classes) - expected).max() <= 2


def test_calibration_is_a_stratified_part_of_train():
    labels = np.arange(1797) % 10
    table = make_splits(labels, None, DIGITS, 0)
    chosen = table.filter(table["calibration"])
    assert chosen["split"].unique().to_pylist() == ["train"]
    assert len(chosen) == 256
    counts = np.bincount(labels[chosen["sample_id"].to_numpy()])
    assert counts.max() - counts.min() <= 2


def test_the_same_seed_gives_the_same_splits_and_another_seed_others():
    labels = np.arange(1797) % 10
    assert make_splits(labels, None, DIGITS, 3).equals(make_splits(labels, None, DIGITS, 3))
    assert not make_splits(labels, None, DIGITS, 3).equals(make_splits(labels, None, DIGITS, 4))


def test_official_sets_are_kept_apart():
    table = make_splits(np.arange(1000) % 10, np.arange(500) % 10, OFFICIAL, 0)
    assert len(ids(table, "train")) == 900
    assert ids(table, "train").max() < 1000
    held_out = np.concatenate([ids(table, name) for name in SPLITS if name != "train"])
    assert len(held_out) == 500
    assert held_out.min() >= 1000


def test_an_official_test_set_stays_whole_where_the_backbone_is_trained_here():
    splits = Splits(train=0.7, predictor=0.2, validation=0.06, certification=0.04, test=1.0, evaluation_set="test")
    table = make_splits(np.arange(1000) % 10, np.arange(500) % 10, splits, 0)
    assert (ids(table, "test") == np.arange(1000, 1500)).all()
    assert [len(ids(table, name)) for name in SPLITS] == [700, 200, 60, 40, 500]


def test_shares_sum_to_at_most_one_in_each_set():
    with pytest.raises(ValueError, match=r"predictor, validation, certification, test sum to 1\.1"):
        Splits(train=1.0, predictor=0.5, validation=0.3, certification=0.0, test=0.3, evaluation_set="held_out")
    with pytest.raises(ValueError, match=r"train, predictor, validation, certification sum to 1\.2"):
        Splits(train=0.8, predictor=0.3, validation=0.1, test=1.0, evaluation_set="test")


def test_official_without_an_evaluation_set_is_refused():
    with pytest.raises(UsageError, match="no official evaluation set"):
        make_splits(np.arange(1000) % 10, None, OFFICIAL, 0)


def test_a_smoke_run_takes_so_many_of_each_set_and_stays_stratified():
    labels = np.arange(4000) % 10
    table = make_splits(labels, labels, OFFICIAL, 0, limit=100, smoke=True)
    chosen = np.sort(np.concatenate([ids(table, name) for name in SPLITS]))
    assert len(ids(table, "train")) == 100
    assert len(chosen) == 200
    assert table["calibration"].to_numpy().sum() == 100
    held_out = np.bincount(labels[chosen[chosen >= 4000] - 4000])
    assert held_out.max() - held_out.min() <= 2


def test_too_little_data_is_refused_naming_the_split():
    with pytest.raises(UsageError, match="calibration: 256 samples out of 45"):
        make_splits(np.arange(100) % 10, None, DIGITS, 0)
    with pytest.raises(
        UsageError, match=r"prepare\.splits\.validation: too few samples for split 'validation', of 3 in all"
    ):
        make_splits(np.arange(3), None, DIGITS, 0)
    with pytest.raises(UsageError, match="calibration: 256 samples out of 45 in train"):
        make_splits(np.arange(2000) % 10, None, DIGITS, 0, limit=100)
    with pytest.raises(UsageError, match="smoke run of 3 samples has too few for 2 of each of two classes"):
        make_splits(np.arange(100) % 10, None, DIGITS, 0, limit=3, smoke=True)
    with pytest.raises(UsageError, match="too few samples for split 'certification'"):
        make_splits(np.arange(1000) % 10, None, Splits(certification=0.0002, test=0.1, calibration=16), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.lists(st.integers(1, 9), min_size=2, max_size=40), st.floats(0.1, 0.6))
def test_every_class_of_which_there_are_two_has_a_training_sample_where_there_is_room(seed, counts, train):
    labels = np.repeat(np.arange(len(counts)), counts)
    splits = Splits(train=train, calibration=16, predictor=0.2, validation=0.1, test=0.1)
    try:
        table = make_splits(labels, None, splits, seed)
    except UsageError:  # too few for a split
        return
    part = ids(table, "train")
    assert len(part) == round(train * len(labels))
    assert len(np.unique(labels[part])) == min(len(counts), len(part))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 6), min_size=2, max_size=60),
    st.integers(4, 150),
    st.sampled_from(["pooled", "held_out", "test"]),
)
def test_a_smoke_run_has_every_class_it_draws_in_training_whatever_the_sets(seed, counts, limit, kind):
    labels = np.repeat(np.arange(len(counts)), counts)
    shares = {
        "pooled": Splits(train=0.08, calibration=16, predictor=0.4, validation=0.1, test=0.2),
        "held_out": Splits(train=0.08, predictor=0.4, validation=0.1, test=0.4, evaluation_set="held_out"),
        "test": Splits(train=0.3, predictor=0.4, validation=0.2, test=1.0, evaluation_set="test"),
    }[kind]
    try:
        table = make_splits(labels, labels, shares, seed, limit, smoke=True)
    except UsageError:  # too few for a split
        return
    whole = np.concatenate([labels, labels])
    drawn, trained = (np.unique(whole[ids_]) for ids_ in (table["sample_id"].to_numpy(), ids(table, "train")))
    assert (drawn == trained).all()
    enough = (np.bincount(whole if kind == "pooled" else labels) >= 2).sum()
    assert len(drawn) == min(enough, min(limit, len(labels)) // 2)
    each = np.array([np.isin(labels, drawn).sum()] * 2)
    assert len(table) == np.minimum(each, limit).sum()


def folded(folds, **others):
    """Settings with folds: a fifth of the held-out samples is validation; of the rest that is not tested 80 % is predictor."""
    rest = 1 - 1 / folds
    turning = {"predictor": 0.8 * rest, "certification": 0.2 * rest, "test": 1 / folds}
    shares = {"validation": 0.2, **{name: 0.8 * share for name, share in turning.items()}}
    return Splits(**{"train": 1.0, "calibration": 16, "evaluation_set": "held_out", "folds": folds, **shares, **others})


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31 - 1), st.lists(st.integers(20, 60), min_size=2, max_size=12), st.integers(2, 20), st.booleans()
)
def test_every_held_out_sample_but_validation_is_tested_in_one_fold_and_by_nothing_that_has_seen_it(
    seed, counts, folds, pooled
):
    labels = np.repeat(np.arange(len(counts)), counts)
    if pooled:
        shares = {name: getattr(folded(folds), name) / 2 for name in SPLITS}
        table = make_splits(labels, None, folded(folds, **shares, evaluation_set="pooled"), seed)
    else:
        table = make_splits(np.arange(100) % len(counts), labels, folded(folds), seed)
    every = labels if pooled else np.concatenate([np.arange(100) % len(counts), labels])
    sample, fold = table["sample_id"].to_numpy(), table["fold"].to_numpy()
    rotations = np.stack(rotations_of(table))
    assert len(rotations) == folds
    assert (np.diff(sample) > 0).all()
    tested, never = fold >= 0, rotations[0] == "validation"
    assert tested.sum() + never.sum() == len(labels) - pooled * round(0.5 * len(labels))
    assert abs(never.sum() - 0.2 * (tested | never).sum()) <= 1
    assert (rotations[:, never] == "validation").all() and (rotations[:, ~(tested | never)] == "train").all()
    assert ((rotations == "test").sum(axis=0) == tested).all()
    assert (np.argmax(rotations == "test", axis=0)[tested] == fold[tested]).all()
    assert set(np.unique(rotations[:, tested])) == {"predictor", "certification", "test"}
    by_class = np.stack([np.bincount(every[sample[fold == k]], minlength=len(counts)) for k in range(folds)])
    assert (by_class.max(axis=0) - by_class.min(axis=0)).max() <= 1
    assert np.ptp(by_class.sum(axis=1)) <= 1
    for split in rotations:
        rest = tested & (split != "test")
        for name, share in (("predictor", 0.8), ("certification", 0.2)):
            assert abs((split == name).sum() - share * rest.sum()) <= 1.5
    again = make_splits(np.arange(100) % len(counts), labels, folded(folds), seed)
    if not pooled:
        assert again.equals(table)


def test_the_first_rotation_is_the_column_that_the_stages_read(tmp_path):
    table = make_splits(np.arange(100) % 4, np.arange(200) % 4, folded(5), 0)
    assert table.schema.names == [
        "sample_id",
        "split",
        "calibration",
        "fold",
        "split_1",
        "split_2",
        "split_3",
        "split_4",
    ]
    assert (ids(table, "test") == table["sample_id"].to_numpy()[table["fold"].to_numpy() == 0]).all()
    write_table(tmp_path / "splits.parquet", table)
    found = held_out_rotations(tmp_path / "splits.parquet", np.arange(100, 300))
    assert [(split == "test").sum() for split in found] == [32] * 5
    with pytest.raises(IntegrityError, match="not those of the feature cache"):
        held_out_rotations(tmp_path / "splits.parquet", np.arange(100, 299))


def test_a_smoke_run_is_cross_fitted_too():
    labels = np.arange(4000) % 10
    table = make_splits(labels, labels, folded(5), 0, limit=100, smoke=True)
    assert np.bincount(table["fold"].to_numpy() + 1).tolist() == [120, 16, 16, 16, 16, 16]


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({"folds": 1}, r"folds: 1; valid: 0 for a fixed test split, or 2 to 20"),
        ({"folds": 21}, "less than or equal to 20"),
        ({"evaluation_set": "test", "train": 0.1}, "folds: with evaluation_set 'test'"),
        ({"test": 0.1}, r"test: 0\.1; with 5 folds it must be one of 5 equal parts .*: 0\.16 beside"),
    ],
)
def test_folds_that_cannot_be_are_refused(given_, why):
    with pytest.raises(ValueError, match=why):
        Splits(**{**folded(5).model_dump(), **given_})


def test_more_folds_than_samples_are_refused():
    with pytest.raises(UsageError, match="too few samples for split"):
        make_splits(np.arange(100) % 2, np.arange(6) % 2, folded(20), 0)
