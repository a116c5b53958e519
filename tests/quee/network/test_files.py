"""Networks on disk: quantized ones are read back exactly and have the size of their bits, and damage is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quee.errors import IntegrityError, QueeError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.files import (
    LISTED,
    fitted_on,
    load_backbone,
    load_precisions,
    load_quantized,
    save_backbone,
    save_quantized,
)
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.settings.quantize import QuantizationConfig
from quee.work.io import read_json, read_metadata, read_tensors, write_json, write_tensors

KWARGS = {"embed_dim": 32, "depth": 2}
IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def build() -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("vit_digits", gates=(1, 2), **KWARGS)


@pytest.mark.parametrize("name", ["w8a8", "w3a3", "w2a4", "w5a3"])
def test_a_quantized_network_is_read_back_exactly(tmp_path: Path, name: str) -> None:
    precision = Precision(name)
    model = quantize_(build(), QuantizationConfig(precision, stem=Precision("w8a8")), [IMAGES])
    assert isinstance(model, SegmentedBackbone)
    save_quantized(tmp_path, precision, model)
    loaded = load_quantized(tmp_path, precision, build())
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_weights_take_their_bits(tmp_path: Path) -> None:
    sizes = {}
    for name in ("w2a4", "w4a4", "w8a8"):
        model = quantize_(build(), QuantizationConfig(Precision(name)), [IMAGES])
        save_quantized(tmp_path, Precision(name), model)  # type: ignore[arg-type]
        arrays = read_tensors(tmp_path / f"{name}.safetensors")
        sizes[name] = sum(a.nbytes for key, a in arrays.items() if key.startswith("blocks.") and a.dtype == np.uint8)
    weights = 2 * (32 * 96 + 32 * 32 + 32 * 64 * 2)
    assert sizes == {"w2a4": weights / 4, "w4a4": weights / 2, "w8a8": weights}


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    w4a4, w8a8 = Precision("w4a4"), Precision("w8a8")
    model = quantize_(build(), QuantizationConfig(w4a4), [IMAGES])
    save_quantized(tmp_path, w4a4, model)  # type: ignore[arg-type]
    path = tmp_path / "w4a4.safetensors"
    arrays, facts = read_tensors(path), read_metadata(path)
    write_tensors(tmp_path / "w8a8.safetensors", arrays, facts)
    with pytest.raises(IntegrityError, match="at w8a8: it is w4a4"):
        load_quantized(tmp_path, w8a8, build())
    write_tensors(path, arrays)
    with pytest.raises(IntegrityError, match="does not describe a network"):
        load_quantized(tmp_path, w4a4, build())
    write_tensors(path, {**arrays, "head.weight": arrays["head.weight"][:-1]}, facts)
    with pytest.raises(IntegrityError, match=r"head\.weight: .* do not hold"):
        load_quantized(tmp_path, w4a4, build())
    write_tensors(path, arrays, facts)
    with pytest.raises(QueeError, match=r"differ in layer blocks\.2"):
        load_quantized(tmp_path, w4a4, create_backbone("vit_digits", embed_dim=32, depth=3))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        load_quantized(tmp_path, w4a4, build())


def test_every_precision_named_is_loaded_with_the_float_network(tmp_path: Path) -> None:
    backbone = build()
    save_backbone(tmp_path, backbone, KWARGS)
    save_quantized(tmp_path, Precision("w4a4"), quantize_(build(), QuantizationConfig(Precision("w4a4")), [IMAGES]))  # type: ignore[arg-type]
    multi = load_precisions(tmp_path, tmp_path, [Precision("w4a4"), Precision("bf16")])
    assert sorted(map(str, multi.models)) == ["fp32", "w4a4"]
    with torch.inference_mode():
        assert torch.isfinite(multi.classify(Precision("bf16"), multi.run_path((Precision("bf16"),) * 2, IMAGES))).all()


@pytest.mark.parametrize("samples", [0, 1, 808, LISTED])
def test_few_training_samples_are_listed_in_the_description(samples: int, tmp_path: Path) -> None:
    save_backbone(tmp_path, build(), KWARGS, fitted_on=list(range(samples)))
    assert read_json(tmp_path / "backbone.json")["fitted_on"] == list(range(samples)) == fitted_on(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"backbone.json", "model.safetensors"}


def test_many_training_samples_are_kept_beside_the_description(tmp_path: Path) -> None:
    ids = np.flatnonzero(np.random.default_rng(0).random(1_280_000) < 0.8).tolist()
    save_backbone(tmp_path, build(), KWARGS, fitted_on=ids)
    assert (tmp_path / "backbone.json").stat().st_size < 1000
    assert read_json(tmp_path / "backbone.json")["fitted_on"]["samples"] == len(ids)
    assert fitted_on(tmp_path) == ids
    assert load_backbone(tmp_path).name == "vit_digits"
    (tmp_path / "fitted_on.parquet").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"digest of .*fitted_on.parquet"):
        fitted_on(tmp_path)
    (tmp_path / "fitted_on.parquet").unlink()
    with pytest.raises(IntegrityError, match=r"missing file: .*fitted_on.parquet"):
        fitted_on(tmp_path)


def test_words_stand_for_a_set_that_is_not_among_the_samples(tmp_path: Path) -> None:
    save_backbone(tmp_path, build(), KWARGS, fitted_on="official training set")
    assert fitted_on(tmp_path) == "official training set"


def test_descriptions_of_before_are_read(tmp_path: Path) -> None:
    save_backbone(tmp_path, build(), KWARGS)
    description = read_json(tmp_path / "backbone.json")
    write_json(tmp_path / "backbone.json", {**description, "fitted_on": list(range(2 * LISTED))})
    assert fitted_on(tmp_path) == list(range(2 * LISTED))
