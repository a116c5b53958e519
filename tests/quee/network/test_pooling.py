"""Poolings are those of PyTorch, in any batch; a name that is not one is refused."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from quee.errors import UsageError
from quee.network.architectures import create_backbone
from quee.network.pooling import Part, over_cells, parts_of

STATES = torch.randn(9, 5, 7, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 4), (4, 4), (7, 6), (9, 5)])
def test_cells_are_those_of_adaptive_pooling(rows: int, columns: int) -> None:
    for kind, peer in (("mean", adaptive_avg_pool2d), ("max", adaptive_max_pool2d)):
        found = over_cells(STATES, Part(kind, rows, columns))
        assert found.shape == (9, rows * columns, 5)
        wanted = peer(STATES.double(), (rows, columns)).float().flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7 if kind == "mean" else 0)


@pytest.mark.parametrize("part", [Part("mean"), Part("mean", 4, 4), Part("max", 2, 3)], ids=str)
def test_a_row_does_not_depend_on_the_batch(part: Part) -> None:
    whole = over_cells(STATES, part)
    for rows in (slice(0, 1), slice(2, 5), slice(8, 9)):
        assert torch.equal(over_cells(STATES[rows], part), whole[rows])


def test_names_are_read_and_written() -> None:
    assert parts_of("cls_mean_max2x3") == (Part("cls"), Part("mean"), Part("max", 2, 3))
    assert "_".join(map(str, parts_of("mean4x4_max4x4_cls"))) == "mean4x4_max4x4_cls"


@pytest.mark.parametrize("name", ["", "cls2x2", "mean4", "mean0x1", "mean_mean", "grid", "mean__max", "mean100x1"])
def test_a_name_that_is_not_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="pooling"):
        parts_of(name)


def test_tokens_are_pooled_on_their_grid() -> None:
    model = create_backbone("vit_digits", embed_dim=32)
    state = torch.randn(5, 17, 32)
    found = model.pool(state, 1, "cls_mean2x2")
    assert found.shape == (5, 5 * 32) == (5, model.pooled_width(1, "cls_mean2x2"))
    assert torch.equal(found[:, :32], state[:, 0])
    corner = state[:, [1, 2, 5, 6]].mean(dim=1)  # of a grid of 4 × 4 patch tokens
    torch.testing.assert_close(found[:, 32:64], corner)


def test_a_class_token_that_is_not_there_is_refused() -> None:
    model = create_backbone("resnet20_cifar", depth=3)
    with pytest.raises(UsageError, match="resnet20_cifar has none; valid: mean, max, grids"):
        model.pool(torch.zeros(1, 16, 8, 8), 1, "cls_mean")
