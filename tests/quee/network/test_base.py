"""The contract of a backbone, on one whose states are maps of another width at each gate instead of tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_heads import read_plainly
from sklearn.datasets import load_digits

import quee
from quee.cost import trace_cost
from quee.ensembles import as_cached
from quee.network import HEAD
from quee.network.architectures import ARCHITECTURES, create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.execution import walk_tree
from quee.policies.base import simulate
from quee.precision import Precision
from quee.runtime import AdaptiveClassifier, load_bundle


@pytest.fixture(scope="module")
def backbone() -> SegmentedBackbone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "toy_convnet", ("toy_convnet",))
        torch.manual_seed(0)
        yield create_backbone("toy_convnet")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    given = load_digits()
    return np.rint(given.images * 255 / 16).astype(np.uint8)[:500], given.target[:500]


@pytest.fixture(scope="module", params=["torch", "openvino", "onnxruntime"])
def classifier(request: pytest.FixtureRequest, bundle: Path) -> AdaptiveClassifier:
    if request.param != "torch":
        pytest.importorskip(request.param)
    return load_bundle(bundle, engine=request.param)


@pytest.fixture(scope="module", params=["toy_convnet", "resnet20_cifar"])
def bundle(request: pytest.FixtureRequest, digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "bundle"
    network = request.getfixturevalue("backbone") if request.param == "toy_convnet" else small_resnet()
    with pytest.MonkeyPatch.context() as monkeypatch:
        read_plainly(monkeypatch)  # engines read grids of maps in architectures/test_registry.py
        quee.fit(network, *digits, out, precisions=["w4a4", "w8a8"], policy="plan")
    return out


def small_resnet() -> SegmentedBackbone:
    """With residual sums, padded shortcuts and BatchNorm whose statistics are not its initial ones."""
    torch.manual_seed(0)
    network = create_backbone("resnet20_cifar", gates=(1, 3), depth=3, in_chans=1, img_size=8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.load_state_dict({key: value + 0.1 for key, value in module.state_dict().items()})
    return network


@torch.inference_mode()
def test_widths_differ_from_gate_to_gate(backbone: SegmentedBackbone) -> None:
    state = torch.randn(3, *backbone.input.shape)
    for gate, width in ((1, 16), (2, 32)):
        state = backbone.run_segment(gate, state)
        assert state.dim() == 4
        assert backbone.global_pooling == "mean_max"
        found = backbone.pool(state, gate, "mean_max")
        assert found.shape == (3, 2 * width) == (3, backbone.pooled_width(gate, "mean_max"))
        assert torch.allclose(found[:, :width], state.mean(dim=(2, 3)), atol=1e-6)
        assert torch.equal(found[:, width:], state.amax(dim=(2, 3)))


def test_every_module_has_its_segment(backbone: SegmentedBackbone) -> None:
    found = {name: backbone.segment_of(name) for name, _ in backbone.named_parameters() if name.endswith("weight")}
    assert found == {"stem.0.weight": 1, "blocks.0.0.weight": 1, "blocks.1.0.weight": 2, "head.weight": HEAD}
    assert backbone.block_of("blocks.10.0.weight") is None


def test_cost_is_counted_in_the_segment_of_each_product(backbone: SegmentedBackbone) -> None:
    cost, fp32 = trace_cost(backbone, include_elementwise=True), Precision("fp32")
    stem, first, second = 64 * 9 * 16, 16 * 9 * 16 * 16, 4 * 9 * 16 * 32
    gelu = (64 * 16, 16 * 16, 4 * 32)
    assert cost.bitflops(1, fp32) == (stem + first + gelu[0] + gelu[1]) * 32**2
    assert cost.bitflops(2, fp32) == (second + gelu[2]) * 32**2
    assert cost.bitflops(HEAD, fp32) == 32 * 10 * 32**2


@pytest.mark.parametrize("trade_off", [0.0, 0.02, 0.1, 1.0])
def test_execution_equals_simulation(classifier: AdaptiveClassifier, digits, trade_off: float) -> None:
    x = classifier.prepare(digits[0][:120])
    tree, view = classifier.tree, classifier.view
    features = np.empty((len(x), len(tree), len(view.names)), np.float32)
    labels = np.empty((len(x), len(tree)), np.int64)
    heads = np.empty((len(x), len(tree), view.backbone.classes), np.float16)
    for node, state in walk_tree(view.backbone, tree, torch.from_numpy(x)):
        path, lineage = tree.paths[node], tree.lineage(node)
        log_probs, seen = view(len(path), path[-1], state)
        heads[:, node] = as_cached(log_probs)
        answer, features[:, node] = classifier.executor.ensembles(np.full(len(x), node), heads[:, lineage], seen)
        labels[:, node] = answer.argmax(axis=1)
    found = classifier.route_prepared(x, trade_off=trade_off)
    first = tree.choice[tree.lineage(int(found.node[0]))[0]]
    ends = simulate(tree, classifier.policy, features, np.array([trade_off]))[first, :, 0]
    same = found.node == ends
    assert same.mean() >= (1.0 if classifier.engine.name == "torch" else 0.99)
    assert (found.label == labels[np.arange(len(x)), found.node])[same].mean() >= 0.99
