from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.evaluation.folds import Rotations
from quee.evaluation.measured import measure
from quee.evaluation.resplits import fit_policies
from quee.evaluation.tables import curve_rows, usage_rows
from quee.policies.registry import all_sweeps, fixed_sweeps
from quee.policies.sweep import Setting, Sweep

FOLDS, SAMPLES = 3, 240
BUDGETS = [0.05, 0.2, 0.5, 1.0]
EXPERIMENT = small_experiment(epochs=5, evaluate={"points": 100})
CACHE = small_cache(SAMPLES)
ROWS = np.arange(SAMPLES)
OTHERS = np.array(["predictor", "validation"], dtype=object)


def rotation(number: int, cache=CACHE):
    """Fold `number` is tested; of the others every second sample is in validation."""
    split = np.where(number == ROWS % FOLDS, "test", OTHERS[ROWS // FOLDS % 2])
    return replace(cache, split=split)


def settings_of(caches) -> list[Setting]:
    return [Setting.of(cache, ("validation", "test"), EXPERIMENT.policies, 100) for cache in caches]


@pytest.fixture(scope="module")
def compared() -> tuple[Rotations, dict[str, tuple[Sweep, ...]]]:
    caches = [rotation(number) for number in range(FOLDS)]
    rotations = Rotations(settings_of(caches), BUDGETS)
    fitted = [
        replace(setting, policies=fit_policies(cache, EXPERIMENT)[1])
        for setting, cache in zip(rotations.settings, caches, strict=True)
    ]
    return rotations, {sweeps[0].name: sweeps for sweeps in zip(*map(all_sweeps, fitted), strict=True)}


def test_every_method_is_measured_on_every_held_out_sample(compared) -> None:
    rotations, sweeps = compared
    assert rotations.sizes == [SAMPLES // FOLDS] * FOLDS
    for own in sweeps.values():
        assert len({sweep.name for sweep in own}) == 1
        found = rotations.measure(own)
        assert found.mixed.shape == (SAMPLES, len(BUDGETS))
        assert 0 <= found.auc <= 1


def test_a_static_method_is_right_as_often_as_it_is_on_all_held_out_images(compared) -> None:
    rotations, sweeps = compared
    for precision in ("w4a4", "w8a8"):
        node = CACHE.tree.node("-".join([precision] * CACHE.tree.segments))
        wrong = [bool(CACHE.error[sample, node]) for sample in range(SAMPLES)]
        found = rotations.measure(sweeps[f"static_{precision}"])
        assert found.points[-1].test_accuracy == pytest.approx(1 - sum(wrong) / SAMPLES, abs=1e-12)
        assert found.dearest_accuracy == pytest.approx(1 - sum(wrong) / SAMPLES, abs=1e-12)


def test_the_network_cut_off_at_a_gate_is_right_as_often_as_its_own_head_on_all_held_out_images(compared) -> None:
    rotations, _ = compared
    assert list(rotations.exits)[: len(CACHE.tree.precisions)] == [*map(str, CACHE.tree.precisions)]
    own = CACHE.error if CACHE.own_error is None else CACHE.own_error
    for precision in map(str, CACHE.tree.precisions):
        for gate, accuracy in enumerate(rotations.exits[precision], 1):
            wrong = own[:, CACHE.tree.node("-".join([precision] * gate))]
            assert accuracy == pytest.approx(1 - wrong.mean(), abs=1e-12)


def test_where_nothing_is_fitted_the_curve_over_folds_is_that_of_one_test_split(compared) -> None:
    rotations, sweeps = compared
    together = rotations.measure(sweeps["static_w8a8"])
    once = replace(CACHE, split=np.full(SAMPLES, "test", object))
    setting = Setting(
        {"validation": rotations.settings[0].caches["validation"], "test": once}, rotations.settings[0].costs
    )
    (alone,) = (sweep for sweep in fixed_sweeps(setting) if sweep.name == "static_w8a8")
    expected = Rotations([setting], BUDGETS).measure([alone])
    assert [row for row in together.curve if row[0] == "test"] == [row for row in expected.curve if row[0] == "test"]


def test_each_sample_is_measured_by_its_own_rotation_at_a_point_chosen_there(compared) -> None:
    rotations, sweeps = compared
    for name in ("quee_plan", "confidence_hull", "static_hull", "oracle"):
        found, start = rotations.measure(sweeps[name]), 0
        for own in sweeps[name]:
            for index, budget in enumerate(BUDGETS):
                by_hand = own.errors["test"] @ own.weights(budget)[0]
                assert np.allclose(found.mixed[start : start + SAMPLES // FOLDS, index], by_hand)
            start += SAMPLES // FOLDS
        for index, budget in enumerate(BUDGETS):
            costs = [(own.costs["test"] @ own.weights(budget)[0]).mean() for own in sweeps[name]]
            assert found.points[index].test_cost == pytest.approx(np.mean(costs))
            assert found.points[index].budget_met == all(own.weights(budget)[1] for own in sweeps[name])
        first = measure(sweeps[name][0], rotations.yardsticks[0])
        assert [p.lambda_low for p in found.points] == pytest.approx([p.lambda_low for p in first.points], nan_ok=True)
        assert [p.validation_cost for p in found.points] == [p.validation_cost for p in first.points]


def test_the_points_of_a_curve_are_budgets_met_on_every_rotations_validation_samples(compared) -> None:
    rotations, sweeps = compared
    whole = rotations.whole(sweeps["confidence_hull"])
    cost = whole.validation_cost
    assert (np.diff(cost) > 0).all()
    assert cost[0] == pytest.approx(np.mean([s.validation_cost[0] for s in sweeps["confidence_hull"]]), rel=0.05)
    middle = len(whole.values) // 2
    parts = np.split(whole.costs["validation"][:, middle], FOLDS)
    assert np.ptp([part.mean() for part in parts]) < 1e-9
    rows = curve_rows({"confidence_hull": [rotations.measure(sweeps["confidence_hull"])]})
    assert {row["threshold"] for row in rows} == {None}
    assert {row["split"] for row in rows} == {"validation", "test"}


def test_usage_counts_every_held_out_sample_once(compared) -> None:
    rotations, sweeps = compared
    rows = usage_rows(sweeps["quee_plan"], [0.3], rotations.settings, CACHE.description["classes"])
    counted = np.zeros(4)
    for row in rows:
        counted[row["label"]] += row["samples"]
    assert counted == pytest.approx(np.bincount(CACHE.label))


def test_what_a_rotation_fits_and_chooses_does_not_depend_on_its_test_samples() -> None:
    tested = ROWS % FOLDS == 1
    spoiled = replace(
        CACHE,
        error=np.where(tested[:, None], ~CACHE.error, CACHE.error),
        features=np.where(tested[:, None, None], -CACHE.features, CACHE.features),
        log_probs=np.where(tested[:, None, None], np.roll(CACHE.log_probs, 1, axis=2), CACHE.log_probs),
        head_log_probs=np.where(tested[:, None, None], np.roll(CACHE.head_log_probs, 1, axis=2), CACHE.head_log_probs),
    )
    caches = [rotation(1, CACHE), rotation(1, spoiled)]
    fitted = [
        replace(setting, policies=fit_policies(cache, EXPERIMENT)[1])
        for setting, cache in zip(settings_of(caches), caches, strict=True)
    ]
    wrong = []
    for kept, other in zip(*map(all_sweeps, fitted), strict=True):
        for budget in BUDGETS:
            assert np.array_equal(kept.weights(budget)[0], other.weights(budget)[0]), kept.name
        wrong.append(not np.array_equal(kept.errors["test"], other.errors["test"]))
    assert all(wrong)  # the samples that were spoiled are indeed those that are tested


def test_a_single_rotation_is_the_measurement_itself(compared) -> None:
    rotations, sweeps = compared
    one = Rotations(rotations.settings[:1], BUDGETS)
    for own in sweeps.values():
        assert one.whole(own[:1]) is own[0]
        assert np.array_equal(one.measure(own[:1]).errors, measure(own[0], one.yardsticks[0]).errors)
