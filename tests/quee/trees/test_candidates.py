"""A candidate says what the network quantized so says, at the cost of its path with the heads visited."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from quee.cost import trace_cost
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.paths import PathTree
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.settings.quantize import QuantizationConfig, Quantize
from quee.trees.candidates import Rows, candidate, costs_of, rows_of
from quee.trees.settled import UNIT_PRECISION, Settled, read_settled

IDS = {"train": np.arange(100), "calibration": np.arange(0, 100, 4), "validation": np.arange(100, 140)}


@pytest.fixture(scope="module")
def backbone() -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("vit_digits", (1, 2), embed_dim=16, depth=2, num_heads=2).eval()


def images(ids: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Two batches of noise, each image drawn by its id."""
    for part in np.array_split(ids, 2):
        drawn = [np.random.default_rng(int(k)).normal(size=(1, 8, 8)) for k in part]
        yield torch.from_numpy(np.stack(drawn)).float(), part % 10


def test_the_last_gate_is_the_quantized_networks_own_head(backbone: SegmentedBackbone) -> None:
    rows, config = rows_of(IDS, 0), QuantizationConfig("w4a4", "minmax")
    before = deepcopy(backbone.state_dict())
    found = candidate(backbone, config, images, rows)
    calibration = torch.cat([x for x, _ in images(rows.calibration)])
    quantized = quantize_(deepcopy(backbone), config, [calibration])
    with torch.inference_mode():
        logits = quantized(torch.cat([x for x, _ in images(rows.judged)])).double()
    assert (found.answer[:, 1] == logits.argmax(dim=1).numpy()).all()
    assert found.confidence[:, 1] == pytest.approx(logits.softmax(dim=1).amax(dim=1).numpy(), abs=1e-6)
    assert found.confidence.shape == (40, 2) and (found.confidence > 0.1).all()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_costs_rise_and_end_at_the_static_network_with_an_early_head(backbone: SegmentedBackbone) -> None:
    layers = {"blocks.0.mlp.fc1": Precision("w8a8")}
    for config in (QuantizationConfig("w3a3"), QuantizationConfig("w3a3", layers=layers)):
        found = costs_of(backbone, config, Quantize())
        own = {"w3a3": {name: str(p) for name, p in config.layers.items()}}
        cost = trace_cost(backbone, layers=own)
        head = backbone.pooled_width(1, backbone.global_pooling) * 10 * 64 / cost.unit
        assert found[-1] == pytest.approx(cost.static((Precision("w3a3"),) * 2) / cost.unit + head)
        assert 0 < found[0] < found[1]
        assert costs_of(backbone, QuantizationConfig("w8a8"), Quantize())[-1] == pytest.approx(1 + head)


def test_images_that_judge_are_validation_images() -> None:
    rows = rows_of(IDS, 3)
    assert np.isin(rows.judged, IDS["validation"]).all()
    assert np.isin(np.union1d(rows.fitted, rows.calibration), IDS["train"]).all()
    assert rows.described() == {
        "calibration": 25,
        "fitted": len(rows.fitted),
        "judged": 40,
        "judged_split": "validation",
    }
    assert rows.passes(2) == 2 * (30 * 25 + len(rows.fitted) + len(rows.judged))


def test_a_smoke_run_with_few_images_has_some_of_each() -> None:
    few = {"train": np.arange(4), "calibration": np.arange(4), "validation": np.arange(4, 5)}
    rows = rows_of(few, 0)
    assert min(len(rows.calibration), len(rows.fitted), len(rows.judged)) > 0
    assert isinstance(rows, Rows)


def test_a_settled_tree_is_read_as_it_was_written(tmp_path) -> None:
    layers = {Precision("w3a3"): {"blocks.0.attn.qkv": "w4a4"}}
    tree = PathTree(["w3a3", "w4a4"], 2)
    written = Settled(tree, (Precision("fp32"),), (1, 2), layers, {"format": "int8"}, {"tried": 3})
    written.write(tmp_path)
    found = read_settled(tmp_path)
    assert list(found.tree) == list(tree) and found.gates == (1, 2) and found.record == {"tried": 3}
    configs = found.configs(Quantize(preset="mse"), [Precision("w6a6")])
    assert [str(p) for p in configs] == ["w3a3", "w4a4", "w6a6", "w8a8"] and found.quantized[-1] == Precision("fp32")
    assert {c.float_products for c in configs.values()} == {"int8"} and configs[UNIT_PRECISION].fold_norms is False
    assert configs[Precision("w3a3")].layers == {"blocks.0.attn.qkv": Precision("w4a4")}
    assert configs[Precision("w4a4")].layers == {}
