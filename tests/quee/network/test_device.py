"""Where networks run: the setting, and every shard on a GPU as on the CPU.

The GPU is emulated: it refuses tensors of two devices in one operation, as CUDA does, and kernels chosen for a GPU run.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_gpu import emulated_gpu

from quee.cache.build import Recipe, compute_shard
from quee.data.source import open_dataset
from quee.errors import UsageError
from quee.exits.fitting import fit_exits
from quee.exits.gates import compute_states
from quee.network.device import CPU, DEVICES, GPU, gpus, place, resolved
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import load_precisions
from quee.network.predictions import Networks, compute_predictions
from quee.precision import Precision
from quee.quantization.calibration_shards import compute_answers, compute_calibration, compute_sensitivity
from quee.quantization.layers import IntegerProduct, QuantizedLinear
from quee.settings.exits import Exits
from quee.settings.quantize import QuantizationConfig
from quee.trees.candidates import Rows, compute_candidate
from tests.quee.cache.test_build import make

FEW = np.arange(200, 232)
W3A3, W4A4 = (QuantizationConfig(Precision(name)) for name in ("w3a3", "w4a4"))


def test_the_gpu_is_used_where_there_is_one() -> None:
    with emulated_gpu():
        assert gpus() == 1
        assert [resolved(name) for name in DEVICES] == [GPU, CPU, GPU]
        assert place(GPU) == torch.device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert [resolved(name) for name in ("auto", CPU)] == [CPU, CPU]
    with pytest.raises(
        UsageError, match=re.escape("QUEE_DEVICE: cuda, but PyTorch finds no GPU here; valid: auto, cpu")
    ):
        resolved(GPU, "QUEE_DEVICE")
    with pytest.raises(UsageError, match="work for a GPU: cuda, but PyTorch finds no GPU"):
        place(GPU)


def test_products_in_float32_keep_all_bits_on_a_gpu() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        with emulated_gpu():
            place(GPU)
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_the_emulation_refuses_what_cuda_refuses() -> None:
    with emulated_gpu():
        x, y = torch.ones(3), torch.ones(3).to(GPU)
        assert y.device.type == GPU and y.cpu().device.type == CPU
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            x + y
        with pytest.raises((RuntimeError, TypeError)):
            y.numpy()


@pytest.fixture(
    scope="module",
    params=["patches", pytest.param("tokens to tokens", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)
def recipe(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make(request.param, data, tmp_path_factory.mktemp("recipe"))


def networks(recipe: Recipe, device: str, quantized: bool = True) -> Networks:
    folder = Path(recipe.backbone)
    return Networks.at(
        Path(recipe.data), recipe.dataset, dict(recipe.digests), folder, folder if quantized else None, device
    )


ROWS = Rows(np.arange(64), np.arange(64, 160), np.arange(200, 264))
SHARDS: dict[str, Callable[[Recipe, str, Path], bytes]] = {
    "features": lambda recipe, device, _: compute_shard(
        replace(recipe, device=device), FEW, np.full(len(FEW), "validation", object), 0
    ),
    "predictions": lambda recipe, device, _: compute_predictions(networks(recipe, device), "w4a4", FEW),
    "float predictions": lambda recipe, device, _: compute_predictions(networks(recipe, device, False), "fp32", FEW),
    "states for gates": lambda recipe, device, _: compute_states(networks(recipe, device, False), FEW),
    "formats": lambda recipe, device, _: compute_answers(networks(recipe, device, False), "int8", FEW),
    "sensitivity": lambda recipe, device, _: compute_sensitivity(networks(recipe, device), "w4a4", FEW),
    "calibration": lambda recipe, device, work: compute_calibration(
        networks(recipe, device, False), (W3A3,), False, FEW, 0, str(work)
    ),
    "calibration of a tree": lambda recipe, device, work: compute_calibration(
        networks(recipe, device, False), (W3A3, W4A4), True, FEW, 0, str(work)
    ),
    "candidate": lambda recipe, device, _: compute_candidate(networks(recipe, device, False), W4A4, ROWS),
}
"""Every shard that runs a network: recipe, device and a folder to its bytes."""


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_is_the_same_on_an_emulated_gpu(name: str, recipe: Recipe, tmp_path: Path) -> None:
    expected = SHARDS[name](recipe, CPU, tmp_path / CPU)
    with emulated_gpu():
        found = SHARDS[name](recipe, GPU, tmp_path / GPU)
    assert found == expected


def test_exits_are_the_same_on_an_emulated_gpu(recipe: Recipe, tmp_path: Path) -> None:
    folder, images = Path(recipe.backbone), open_dataset(Path(recipe.data), recipe.dataset)

    def fitted(device: str) -> bytes:
        backbone: MultiPrecisionBackbone = load_precisions(folder, folder, [Precision("w4a4")]).to(place(device))
        x, y = images.batch(FEW, backbone.first.input), torch.from_numpy(images.labels[FEW])
        settings = Exits(embedding=4, hidden=4)
        heads, _ = fit_exits(backbone, [Precision("w4a4"), Precision("fp32")], lambda _: [(x, y)], settings, 1, len(x))
        heads.save(tmp_path / f"{device}.safetensors")
        return (tmp_path / f"{device}.safetensors").read_bytes()

    expected = fitted(CPU)
    with emulated_gpu():
        assert fitted(GPU) == expected


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 3, 5), (33, 24, 8), (70, 9, 17)])
@pytest.mark.parametrize("low", [-3.0, 0.0])
def test_a_gpus_integer_kernel_is_exact_for_any_shape(rows: int, inputs: int, outputs: int, low: float) -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(torch.nn.Linear(inputs, outputs), Precision("w8a8"))
    layer.input.set_range(low, 4.0)
    layer.set_weight(torch.randint(-127, 128, (outputs, inputs)), torch.rand(outputs), torch.rand(outputs))
    layer.finalize()
    x = torch.randn(rows, inputs)
    expected = layer(x)
    with emulated_gpu():
        layer.to(GPU)
        assert isinstance(layer._faster, IntegerProduct) and layer._faster.multiple == 8
        assert torch.equal(layer(x.to(GPU)).cpu(), expected)
