"""The course of a training run: every step once, small images first, stretches that end where they must."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.network import schedule
from quee.network.schedule import images_in, learning_rate_factor, steps_in_all, steps_per_epoch, stretches
from quee.settings.backbone import Backbone


def settings(**values: object) -> Backbone:
    return Backbone.model_validate({"name": "vit_digits", "batch_size": 16, **values})


@given(
    images=st.integers(1, 3000),
    samples=st.integers(1, 700),
    batch=st.integers(1, 64),
    shares=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    longest=st.integers(1, 500),
)
def test_every_step_is_in_one_stretch_and_small_images_come_first(
    images: int, samples: int, batch: int, shares: list[int], longest: int
) -> None:
    sizes = {16 * (k + 1): share / sum(shares) for k, share in enumerate(shares)}
    chosen = settings(images=images, batch_size=batch, sizes=sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "LONGEST", longest)
        found = stretches(chosen, samples)
    total, epoch = steps_in_all(chosen, samples), steps_per_epoch(chosen, samples)
    assert (total - 1) * batch < images <= total * batch
    assert [s.before for s in found] == [sum(s.steps for s in found[:k]) for k in range(len(found))]
    assert sum(s.steps for s in found) == total
    assert all(s.epoch * epoch + s.first == s.before and 0 < s.steps <= epoch - s.first for s in found)
    assert all(s.steps == 1 or s.steps * batch <= longest for s in found)
    sides = [s.side for s in found for _ in range(s.steps)]
    assert sides == sorted(sides)
    for side, share in sizes.items():
        assert abs(sides.count(side) - share * total) <= 1
    assert len({tuple(s.seed) for s in found}) == len(found)


def test_a_stretch_is_an_epoch_where_nothing_is_said() -> None:
    found = stretches(settings(epochs=3), 100)
    assert [(s.epoch, s.first, s.last, s.side, s.work) for s in found] == [(k, 0, 7, None, 1) for k in range(3)]
    assert [images_in(settings(epochs=3), 100, steps) for steps in (0, 1, 7, 8, 21)] == [0, 16, 100, 116, 300]
    assert images_in(settings(epochs=3, drawn=True), 100, 21) == 21 * 16
    assert settings().epochs == 100 and settings(images=5).epochs is None


def test_work_is_counted_by_pixels() -> None:
    found = stretches(settings(images=160, sizes={32: 0.25, 48: 0.4, 64: 0.35}), 1000)
    assert [(s.side, s.work) for s in found] == [(32, 4), (48, 9), (64, 16)]


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate_factor(step, 100, 10) for step in range(101)]
    assert rates[:10] == [(step + 1) / 11 for step in range(10)]
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_factor(0, 10, 0) == 1.0
