"""The feature cache: only the samples and the networks decide its bytes."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from quee.cache.build import Recipe, build_cache
from quee.data.source import open_dataset
from quee.exits.fitting import fit_exits
from quee.network.architectures import create_backbone
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import save_backbone, save_quantized
from quee.network.predictions import Networks, predict
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.settings.exits import Exits
from quee.settings.quantize import QuantizationConfig
from quee.work.io import file_digest
from quee.work.store import Store
from quee.work.workers import Inline, Lanes, Processes, Workers

IDS = np.arange(3, 143)
SPLITS = np.array(["test", "validation"] * 70, dtype=object)
BACKBONES = {
    "patches": ("vit_digits", {"embed_dim": 32, "depth": 2}),
    "convolutions": ("vit_fashion_mnist", {"embed_dim": 32, "depth": 2}),
    "three channels": ("vit_digits", {"embed_dim": 32, "depth": 2, "in_chans": 3}),
    "tokens to tokens": ("t2t_vit_7", {"img_size": 32, "num_classes": 10}),
}
HEADS = Exits(embedding=4, pooling="cls_mean2x2", head="hidden", hidden=16)
"""A grid and a hidden layer, named so that none of the others is fitted."""


def make(name: str, data: Path, folder: Path) -> Recipe:
    """The recipe of a network with random weights: integers and floats in the tree, half floats as its reference."""
    kind, kwargs = BACKBONES[name]
    torch.manual_seed(0)
    fp32, w4a4 = Precision("fp32"), Precision("w4a4")
    gates = (1, 7) if kind == "t2t_vit_7" else (1, 2)
    models = {fp32: create_backbone(kind, gates, **kwargs), w4a4: create_backbone(kind, gates, **kwargs)}
    models[w4a4].load_state_dict(models[fp32].state_dict())
    images = open_dataset(data, "digits")
    transform = models[fp32].input
    x, y = images.batch(IDS[:64], transform), torch.from_numpy(images.labels[IDS[:64]])
    models[w4a4] = quantize_(models[w4a4], QuantizationConfig(w4a4), [x])
    heads, _ = fit_exits(MultiPrecisionBackbone(models), [w4a4], lambda _: [(x, y)], HEADS, 1, len(x))
    save_backbone(folder, models[fp32], kwargs)
    save_quantized(folder, w4a4, models[w4a4])
    heads.save(folder / "heads.safetensors")
    return Recipe(
        data=str(data),
        dataset="digits",
        digests=tuple(images.digests.items()),
        backbone=str(folder),
        quantized=str(folder),
        heads=str(folder / "heads.safetensors"),
        precisions=("w4a4", "fp32"),
        references=("bf16",),
        paths=("w4a4", "fp32", "w4a4-w4a4", "w4a4-fp32", "fp32-w4a4", "fp32-fp32"),
        embedding=True,
        networks=tuple((str(file), file_digest(file)) for file in sorted(folder.glob("*.safetensors"))),
    )


@pytest.fixture(scope="module")
def recipe(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make("patches", data, tmp_path_factory.mktemp("patches"))


def digests(recipe: Recipe, work: Path, size: int, lanes: Lanes, samples: int = len(IDS)) -> dict[str, str]:
    """SHA-256 of the published files by name."""
    out = work / f"out-{size}-{type(lanes).__name__}-{torch.get_num_threads()}"
    out.mkdir(parents=True)
    store = Store(str(out.with_name(f"{out.name}-shards")))
    build_cache(recipe, IDS[:samples], SPLITS[:samples], store, out, size, lanes)
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in out.iterdir()}


@pytest.fixture(scope="module")
def expected(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = digests(recipe, tmp_path_factory.mktemp("expected"), 64, Inline())
    assert sorted(found) == ["part-00000.parquet", "reference-00000.parquet"]
    return found


@pytest.mark.parametrize("size", [17, 32, 63, 100, 1000])
def test_the_size_of_shards_decides_no_byte(
    recipe: Recipe, expected: dict[str, str], tmp_path: Path, size: int
) -> None:
    assert digests(recipe, tmp_path, size, Inline()) == expected


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_decides_no_byte(
    recipe: Recipe, expected: dict[str, str], tmp_path: Path, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert digests(recipe, tmp_path, 40, Inline()) == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "size"), [(1, 64), (2, 32), (3, 50)])
def test_the_number_of_workers_decides_no_byte(
    recipe: Recipe, expected: dict[str, str], tmp_path: Path, workers: int, size: int
) -> None:
    assert digests(recipe, tmp_path, size, Processes(Workers(workers))) == expected


@pytest.mark.slow
def test_dask_decides_no_byte(recipe: Recipe, expected: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from loopback import dask_cluster

    from quee.work.workers import Dask

    with dask_cluster(2, tmp_path / "dask") as cluster:
        assert digests(recipe, tmp_path, 48, Dask(Workers(address=cluster.address))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "patches"])
def test_with_another_stem_too(name: str, data: Path, tmp_path: Path) -> None:
    recipe = make(name, data, tmp_path)
    found = {size: digests(recipe, tmp_path, size, Inline(), 70) for size in (64, 32, 20)}
    assert found[32] == found[20] == found[64]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_size_of_shards_decides_no_prediction(recipe: Recipe, tmp_path: Path, size: int) -> None:
    networks = Networks.at(
        Path(recipe.data), recipe.dataset, dict(recipe.digests), Path(recipe.backbone), Path(recipe.quantized)
    )
    names = [Precision(name) for name in ("fp32", "w4a4")]
    found = predict(networks, names, IDS, Store(str(tmp_path / "a")), size, Inline(), "a")
    usual = predict(networks, names, IDS, Store(str(tmp_path / "b")), 64, Inline(), "b")
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in usual.items()
    }


def test_parts_of_the_tree_alone_have_no_reference_file(recipe: Recipe, tmp_path: Path) -> None:
    found = digests(replace(recipe, references=()), tmp_path, 64, Inline(), 20)
    assert list(found) == ["part-00000.parquet"]
