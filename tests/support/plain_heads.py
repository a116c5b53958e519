"""`quee.fit` without its choice among ways to read a state, which takes most of its time, for tests of something else."""

import pytest

from quee.network.base import SegmentedBackbone


def read_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit heads read the plain pooling alone; tests/quee/exits/ has tests of the choice."""
    monkeypatch.setattr(SegmentedBackbone, "poolings", property(lambda backbone: (backbone.global_pooling,)))


@pytest.fixture
def plain_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    read_plainly(monkeypatch)
