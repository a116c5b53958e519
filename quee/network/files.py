"""Networks on disk: a backbone with its description, and its quantized versions."""

import json
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from quee.errors import IntegrityError, QueeError
from quee.network.architectures import check_state_dict, create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.quantization.folding import fold_, folded
from quee.quantization.layers import QuantizedConv2d, QuantizedLinear, empty_quantized, finalize, layout, pack, unpack
from quee.work.io import (
    FORMAT,
    file_digest,
    read_json,
    read_metadata,
    read_table,
    read_tensors,
    verify_digests,
    write_json,
    write_table,
    write_tensors,
)


def tensors(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


LISTED = 10_000
"""Most sample ids in `backbone.json`. More ids are written to `FITTED`, which loading a network does not read."""
FITTED = "fitted_on.parquet"


def save_backbone(folder: Path, backbone: SegmentedBackbone, kwargs: dict[str, Any], **facts: Any) -> None:
    """Write `model.safetensors` and `backbone.json`; `facts` are added to the description.

    The fact `fitted_on` is a list of sample ids, or text. More than `LISTED` ids go to `fitted_on.parquet`; the
    description then has their number and the file's name and digest.
    """
    write_tensors(folder / "model.safetensors", tensors(backbone))
    ids = facts.get("fitted_on")
    if isinstance(ids, list) and len(ids) > LISTED:
        write_table(folder / FITTED, pa.table({"sample_id": pa.array(ids, pa.int64())}))
        facts["fitted_on"] = {"file": FITTED, "samples": len(ids), "sha256": file_digest(folder / FITTED)}
    description = {"format": FORMAT, "gates": list(backbone.gates), "kwargs": kwargs, "name": backbone.name, **facts}
    write_json(folder / "backbone.json", description)


def fitted_on(folder: Path) -> list[int] | str:
    """Ids of the samples that a backbone was fitted on, or text for samples outside of the data set.

    Raises IntegrityError where the file of ids is missing or has another digest than in `backbone.json`.
    """
    said: list[int] | str | dict[str, Any] = read_json(folder / "backbone.json").get("fitted_on", [])
    if not isinstance(said, dict):
        return said
    verify_digests(folder, {FITTED: said["sha256"]})
    ids: list[int] = read_table(folder / FITTED)["sample_id"].to_pylist()
    return ids


def load_backbone(folder: Path) -> SegmentedBackbone:
    """The float backbone of a folder; raises IntegrityError or QueeError naming a fault."""
    description = read_json(folder / "backbone.json")
    try:
        name, kwargs, gates = description["name"], description["kwargs"], tuple(description["gates"])
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{folder / 'backbone.json'} has no {error}") from None
    backbone = create_backbone(name, gates, **kwargs)
    state = {key: torch.from_numpy(value) for key, value in read_tensors(folder / "model.safetensors").items()}
    check_state_dict(backbone, state, str(folder / "model.safetensors"))
    backbone.load_state_dict(state)
    return backbone.requires_grad_(False).eval()


def save_quantized(folder: Path, precision: Precision, model: SegmentedBackbone) -> None:
    """Write `PRECISION.safetensors`: weights packed at their bit width, and the layout of the network as metadata."""
    state = tensors(model)
    for name, module in _with_weights(model):
        state[f"{name}.weight"] = pack(state[f"{name}.weight"], module.precision.weight_bits)
    facts = {"layout": json.dumps(layout(model), sort_keys=True), "precision": str(precision)}
    write_tensors(folder / f"{precision}.safetensors", state, facts)


def load_quantized(folder: Path, precision: Precision, backbone: SegmentedBackbone) -> SegmentedBackbone:
    """The network of `backbone`'s architecture at an integer precision.

    Raises IntegrityError or QueeError where the file is damaged or of another network.
    """
    path = folder / f"{precision}.safetensors"
    arrays, facts = read_tensors(path), read_metadata(path)
    try:
        parts = json.loads(facts["layout"])
        if facts["precision"] != str(precision):
            raise ValueError(f"it is {facts['precision']}")
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"{path} does not describe a network at {precision}: {error}") from None
    model = empty_quantized(fold_(deepcopy(backbone)), parts)
    assert isinstance(model, SegmentedBackbone)
    for name, module in _with_weights(model):
        if (key := f"{name}.weight") in arrays:
            shape = tuple(module.weight.shape)
            arrays[key] = unpack(arrays[key], module.precision.weight_bits, shape, f"{path}: {key}")
    state = {key: torch.from_numpy(value) for key, value in arrays.items()}
    check_state_dict(model, state, str(path))
    model.load_state_dict(state)
    finalize(model)
    return model.requires_grad_(False).eval()


def _with_weights(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear | QuantizedConv2d]]:
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedConv2d):
            yield name, module


def load_precisions(backbone_dir: Path, quantized_dir: Path, precisions: Iterable[Precision]) -> MultiPrecisionBackbone:
    """A backbone at the given precisions and in floating point."""
    float_model = load_backbone(backbone_dir)
    models = {Precision("fp32"): float_model}
    plain = folded(float_model)  # once for all precisions: finding BatchNorm runs the network
    for precision in sorted({*precisions} - set(models)):
        if not precision.is_float:
            models[precision] = load_quantized(quantized_dir, precision, plain)
        elif precision.name not in ("fp32", "bf16", "fp16"):
            raise QueeError(f"nothing executes {precision}")
    return MultiPrecisionBackbone(models)
