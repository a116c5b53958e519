"""Execution of paths: the tree agrees with single paths, and a sample's result does not depend on other samples."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quee.network.architectures import create_backbone
from quee.network.execution import MICRO_BATCH, MultiPrecisionBackbone, draw_prefixes, padded, walk_tree
from quee.paths import PathTree
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.settings.paths import Considered
from quee.settings.quantize import QuantizationConfig

KWARGS = {"embed_dim": 32, "depth": 3, "gates": (1, 2, 3)}
W4A4, W8A8, FP32 = Precision("w4a4"), Precision("w8a8"), Precision("fp32")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(MICRO_BATCH + 6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def backbone(images: Tensor) -> MultiPrecisionBackbone:
    torch.manual_seed(0)
    models = {FP32: create_backbone("vit_digits", **KWARGS)}
    for precision in (W4A4, W8A8):
        copy = create_backbone("vit_digits", **KWARGS)
        copy.load_state_dict(models[FP32].state_dict())
        models[precision] = quantize_(copy, QuantizationConfig(precision), [images[:32]])
    return MultiPrecisionBackbone(models)


@pytest.mark.parametrize("considered", [None, Considered(max_switches=1)])
def test_the_tree_gives_every_nodes_state_once_as_its_path_does(
    backbone: MultiPrecisionBackbone, images: Tensor, considered: Considered | None
) -> None:
    tree = PathTree([W4A4, W8A8, FP32], 3, considered)
    visited = []
    for node, state in walk_tree(backbone, tree, images[:5]):
        visited.append(node)
        with torch.inference_mode():
            assert torch.equal(state, backbone.run_path(tree.paths[node], images[:5]))
    assert sorted(visited) == list(range(len(tree)))


def test_the_tree_is_walked_depth_first(backbone: MultiPrecisionBackbone, images: Tensor) -> None:
    tree = PathTree([W4A4, W8A8], 2)
    names = [tree.name(node) for node, _ in walk_tree(backbone, tree, images[:2])]
    assert names == ["w4a4", "w4a4-w4a4", "w4a4-w8a8", "w8a8", "w8a8-w4a4", "w8a8-w8a8"]


@pytest.mark.parametrize("name", ["w4a4", "w8a8", "fp32", "bf16"])
def test_a_samples_result_does_not_depend_on_the_batch(
    backbone: MultiPrecisionBackbone, images: Tensor, name: str
) -> None:
    precision = Precision(name)
    with torch.inference_mode():
        whole = backbone.run_path((precision,) * 3, images)
        logits = backbone.classify(precision, whole)
        for rows in (slice(0, 1), slice(5, 12), slice(60, 70)):
            part = backbone.run_path((precision,) * 3, images[rows])
            assert torch.equal(part, whole[rows])
            assert torch.equal(backbone.classify(precision, part), logits[rows])


def test_precisions_differ_and_wider_ones_come_closer(backbone: MultiPrecisionBackbone, images: Tensor) -> None:
    with torch.inference_mode():
        exact = backbone.run_path((FP32,) * 3, images)
        errors = {
            n: float((backbone.run_path((Precision(n),) * 3, images) - exact).norm()) for n in ("w4a4", "w8a8", "bf16")
        }
    assert errors["w4a4"] > errors["w8a8"] > 0
    assert errors["bf16"] > 0
    assert errors["w8a8"] < 0.1 * float(exact.norm())


def test_fp32_is_the_float_backbone(backbone: MultiPrecisionBackbone, images: Tensor) -> None:
    model = backbone.models[FP32]
    with torch.inference_mode():
        logits = backbone.classify(FP32, backbone.run_path((FP32,) * 3, images))
        assert torch.allclose(logits, model(images), atol=1e-5)


def test_the_head_behind_a_segment_is_that_of_its_precision_at_w8a8(
    backbone: MultiPrecisionBackbone, images: Tensor
) -> None:
    with torch.inference_mode():
        state = backbone.run_path((W4A4,) * 3, images[:4])
        assert torch.equal(backbone.classify(W4A4, state), backbone.models[W4A4].classify(state))
    assert backbone.models[W4A4].get_submodule("head").precision == W8A8


@pytest.mark.parametrize("size", [1, MICRO_BATCH - 1, MICRO_BATCH, MICRO_BATCH + 1, 3 * MICRO_BATCH])
def test_padding_makes_batches_of_one_size_and_is_cut_off(size: int) -> None:
    sizes = []

    def run(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part * 2

    x = torch.arange(size * 3.0).reshape(size, 3)
    assert torch.equal(padded(run, x), x * 2)
    assert set(sizes) == {MICRO_BATCH}
    assert len(sizes) == -(-size // MICRO_BATCH)


def test_drawn_prefixes_are_the_states_of_the_paths_drawn(backbone: MultiPrecisionBackbone, images: Tensor) -> None:
    precisions = [W4A4, W8A8]
    images = images[:24]
    drawn = list(draw_prefixes(backbone, precisions, images, np.random.default_rng(0)))
    assert [gate for gate, _, _ in drawn] == [1, 2, 3]
    choices = np.stack([choice for _, _, choice in drawn], axis=1)  # (n, gates)
    assert len({tuple(row) for row in choices}) == 8
    with torch.inference_mode():
        for gate, state, _ in drawn:
            for row in range(len(images)):
                path = tuple(precisions[i] for i in choices[row, :gate])
                assert torch.equal(state[row], backbone.run_path(path, images[row : row + 1])[0])


def test_drawn_prefixes_are_uniform_and_seeded(backbone: MultiPrecisionBackbone, images: Tensor) -> None:
    def choices(seed: int) -> np.ndarray:
        random, batch = np.random.default_rng(seed), images.repeat(6, 1, 1, 1)
        return np.stack([c for _, _, c in draw_prefixes(backbone, [W4A4, W8A8], batch, random)])

    first = choices(0)
    assert np.array_equal(first, choices(0))
    assert not np.array_equal(first, choices(1))
    assert bool((np.abs(first.mean(axis=1) - 0.5) < 0.1).all())
