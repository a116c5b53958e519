"""Heads are chosen by held-out loss: a grid where places matter, a hidden layer where lines do not separate."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quee.cost import bitflops
from quee.data.preprocessing import Preprocessing
from quee.exits.fitting import Record, fit_exits
from quee.exits.heads import ANY, ExitHeads
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.settings.exits import Exits

FP32, BF16 = Precision("fp32"), Precision("bf16")
SAMPLES = 1200


def sign(x: Tensor, kind: str) -> Tensor:
    """What the class of images (n, 1, 4, 4) is the sign of: their mean, a place, or two places together (n,)."""
    first, second = x[:, 0, :2, :2].mean((1, 2)), x[:, 0, 2:, 2:].mean((1, 2))
    return {"mean": x[:, 0].mean((1, 2)), "place": first - second, "two places": first * second}[kind]


class Maps(SegmentedBackbone):
    """States (n, 4, 4, 4) are the images and constants, behind blocks that cost something; the head knows the answer."""

    name = "maps"

    def __init__(self, kind: str, work: int) -> None:
        super().__init__()
        self.input, self.num_classes, self.kind = Preprocessing((4, 4), mean=(0.5,), std=(0.5,)), 2, kind
        self.blocks = nn.ModuleList(Block(work) for _ in range(2))
        self.head = nn.Linear(4, 2)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x, torch.zeros_like(x), torch.ones_like(x)], dim=1)

    def classify(self, state: Tensor) -> Tensor:
        known = 1.1 * sign(state[:, :1], self.kind)
        return torch.stack([-known, known], dim=1) + 0 * self.head(self.pool(state, 2, "mean"))

    def width(self, gate: int) -> int:
        return 4


class Block(nn.Module):
    def __init__(self, work: int) -> None:
        super().__init__()
        self.idle = nn.Linear(1, work)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.idle(x[:, 0, 0, :1]).mean()


def images(kind: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 4, 4) whose quarters are bright or dark, and classes (n,), a tenth of them wrong."""
    generator = torch.Generator().manual_seed(0)
    quarters = torch.randint(2, (SAMPLES, 1, 2, 2), generator=generator) * 2.0 - 1
    if kind == "mean":
        quarters[:] = quarters[:, :, :1, :1]
    if kind == "place":
        quarters[:, :, 1, 1] = -quarters[:, :, 0, 0]
    x = quarters.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x += 0.3 * torch.randn(x.shape, generator=generator)
    wrong = torch.rand(SAMPLES, generator=generator) < 0.1
    return x, ((sign(x, kind) > 0) ^ wrong).long()


def chosen(
    kind: str, precisions: Sequence[Precision] = (FP32,), work: int = 16384, **values: object
) -> tuple[ExitHeads, Record]:
    torch.manual_seed(0)
    x, y = images(kind)
    backbone = MultiPrecisionBackbone({FP32: Maps(kind, work).eval().requires_grad_(False)})
    settings = Exits.model_validate({"draws": 1, "embedding": 0, "hidden": 16, **values})
    return fit_exits(backbone, precisions, lambda _: [(x, y)], settings, 1, SAMPLES)


@pytest.mark.parametrize(
    ("kind", "pooling", "hidden"), [("mean", "mean", 0), ("place", "mean2x2", 0), ("two places", "mean2x2_max2x2", 16)]
)
def test_the_cheapest_head_that_knows_is_chosen(kind: str, pooling: str, hidden: int) -> None:
    heads, record = chosen(kind)
    assert heads.heads[0].pooling == pooling
    assert heads.heads[0].classifiers[ANY].sizes[1:-1] == ((hidden,) if hidden else ())
    rows = [row for row in record.candidates if row["chosen"]]
    assert [(row["gate"], row["pooling"], row["hidden"]) for row in rows] == [(1, pooling, hidden)]
    assert rows[0]["accuracy"] > 0.85 and rows[0]["low"] <= 0
    least = min(row["score"] for row in record.candidates)
    assert all(row["difference"] == pytest.approx(row["score"] - least) for row in record.candidates)
    assert ("cheapest" in record.reasons[1]) == (rows[0]["score"] > least)


def test_a_head_that_saves_less_than_the_next_segment_at_its_price_is_not_chosen() -> None:
    """The segment behind costs next to nothing and knows all."""
    heads, record = chosen("two places", work=1)
    assert heads.heads[0].pooling == "mean" and heads.heads[0].classifiers[ANY].sizes == (4, 2)
    prices = [(row["score"] - row["loss"]) / row["cost"] for row in record.candidates]
    assert min(prices) > 0 and max(prices) == pytest.approx(min(prices))


@pytest.mark.parametrize("head", ["linear", "hidden"])
def test_a_named_head_is_not_chosen_but_fitted(head: str) -> None:
    heads, record = chosen("place", pooling="mean4x4", head=head)
    assert heads.heads[0].pooling == "mean4x4"
    assert len(heads.heads[0].classifiers[ANY].sizes) == (2 if head == "linear" else 3)
    assert {row["pooling"] for row in record.candidates} == {"mean4x4"}
    assert len(record.candidates) == (1 if head == "linear" else 3)


def test_costs_of_candidates_by_hand() -> None:
    _, record = chosen("mean")
    unit = 2 * 16384 * 64 + 4 * 2 * 64
    for row in record.candidates:
        macs = row["inputs"] * (row["hidden"] or 2) + row["hidden"] * 2
        assert row["cost"] == pytest.approx(bitflops(macs, (8, 8)) / unit)


class Turned(Maps):
    """At the second of its precisions the states have the other sign."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(-x if next(self.parameters()).dtype == torch.bfloat16 else x)


def test_a_head_for_each_precision_is_fitted_where_that_is_better_beyond_doubt() -> None:
    torch.manual_seed(0)
    x, y = images("place")
    backbone = MultiPrecisionBackbone({FP32: Turned("place", 16384).eval().requires_grad_(False)})
    settings = Exits.model_validate({"draws": 1, "embedding": 0, "pooling": "mean2x2", "head": "linear"})
    heads, record = fit_exits(backbone, (BF16, FP32), lambda _: [(x, y)], settings, 1, SAMPLES)
    assert set(heads.heads[0].classifiers) == {"bf16", "fp32"}
    (each,) = (row for row in record.candidates if row["each_precision"])
    assert each["chosen"] and each["high"] < 0 and each["accuracy"] > 0.85
    assert "one head for each precision" in record.reasons[1]
    with torch.inference_mode():
        for precision in (BF16, FP32):
            found = heads.logits(backbone, precision, heads.seen(backbone, 1, backbone.run(1, precision, x))).argmax(1)
            assert np.mean((found == y).numpy()) > 0.85
    same, _ = chosen("place", (BF16, FP32), pooling="mean2x2", head="linear")
    assert set(same.heads[0].classifiers) == {ANY}
