"""Fits of other seeds and folds in shards, on a small project."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_project import tiny_in

from quee.evaluation.repeats import Held, divide_again, fit_again, fit_ensembles, forget
from quee.evaluation.resplits import fit_policies, resplit
from quee.settings.experiment import load_experiment
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Inline

FOLDS = {
    "evaluation_set": "held_out", "train": 1.0, "calibration": 16, "folds": 4,
    "predictor": 0.45, "validation": 0.2, "certification": 0.15, "test": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """Results up to the targets, which tests do not change."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny = tiny_in(tmp_path_factory.mktemp("tiny"), monkeypatch)
        tiny.data({"a": 60, "b": 60}, {"a": 40, "b": 40})
        tiny.write(prepare={"splits": FOLDS})
        stages = ("settings", "prepare", "backbone", "tree", "quantize", "exits", "features", "targets")
        out = tiny.run(*stages)
        folders = (str(out / name) for name in ("features", "prepare", "targets"))
        yield Held(load_experiment("tiny"), *folders)


def test_policies_out_of_shards_are_those_fitted_in_place_and_are_kept(held: Held, tmp_path: Path) -> None:
    store, wanted = Store(str(tmp_path / "shards")), [(1, 0), (0, 2)]
    caches = [held.rotation(number) for number in range(len(held.splits()))]
    assert len(caches) == 4 and sum(int((cache.split == "test").sum()) for cache in caches) == 64
    found = fit_again(held, wanted, store, Inline(), caches)
    for seed, rotation in wanted:
        with alone():
            policies = fit_policies(caches[rotation], held.experiment, seed)[1]
        assert found[seed, rotation].keys() == policies.keys()
        for name, policy in policies.items():
            own = found[seed, rotation][name].arrays()
            assert all(np.array_equal(own[key], value) for key, value in policy.arrays().items())
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir()}
    fit_again(held, wanted, store, Inline(), caches)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir()} == times, "computed once"


def test_ensembles_out_of_shards_answer_as_those_fitted_with_the_rotation(held: Held, tmp_path: Path) -> None:
    number = len(held.splits())
    alone_in = [held.rotation(rotation) for rotation in range(number)]
    assert not np.array_equal(alone_in[0].p_label, alone_in[1].p_label), "rotations have ensembles of their own"
    forget()
    fitted = fit_ensembles(held, number, Store(str(tmp_path / "shards")), Inline())
    assert len(fitted.ensembles) == number
    for rotation, expected in enumerate(alone_in):
        found = fitted.rotation(rotation)
        for name in ("p_label", "features", "prediction", "split"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_a_task_without_ensembles_has_none_in_any_rotation(held: Held, tmp_path: Path) -> None:
    without = replace(
        held,
        experiment=held.experiment.model_copy(
            update={"targets": held.experiment.targets.model_copy(update={"ensemble": False})}
        ),
    )
    fitted = fit_ensembles(without, 2, Store(str(tmp_path / "shards")), Inline())
    assert fitted.ensembles[1] is None
    forget()


def test_re_divisions_out_of_shards_are_those_computed_in_place(held: Held, tmp_path: Path) -> None:
    rows = divide_again(held, 2, Store(str(tmp_path / "shards")), Inline())
    with alone():
        assert rows == [row for seed in (0, 1) for row in resplit(held.own_heads(), held.experiment, seed)]
    assert divide_again(held, 0, Store(str(tmp_path / "none")), Inline()) == []
