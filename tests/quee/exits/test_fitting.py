"""Exit heads are fitted, executed, counted and read back; the gates' state features follow from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quee.cost import trace_cost
from quee.errors import QueeError
from quee.exits.fitting import Record, behind, fit_exits
from quee.exits.heads import ANY, ExitHeads
from quee.features import GateView, feature_names, state_features
from quee.network.architectures import create_backbone
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import QuantizedLinear
from quee.settings.exits import Exits
from quee.settings.quantize import QuantizationConfig
from quee.work.threads import one_thread

KWARGS = {"embed_dim": 16, "depth": 3, "gates": (1, 2, 3), "num_classes": 3}
W4A4, W8A8, FP32 = Precision("w4a4"), Precision("w8a8"), Precision("fp32")
LABELS = torch.arange(90) % 3
IMAGES = torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.4
IMAGES[:, 0, :2] += LABELS[:, None, None] - 1.0
BATCHES = [(IMAGES[:45], LABELS[:45]), (IMAGES[45:], LABELS[45:])]
HEADS = {
    "linear": {"pooling": "cls_mean", "head": "linear"},
    "hidden": {"pooling": "mean2x2_cls", "head": "hidden", "hidden": 8},
}


def settings(**values: object) -> Exits:
    return Exits.model_validate({"embedding": 4, "draws": 2, **values})


@pytest.fixture(scope="module")
def backbone() -> MultiPrecisionBackbone:
    torch.manual_seed(0)
    models = {FP32: create_backbone("vit_digits", **KWARGS)}
    for precision in (W4A4, W8A8):
        copy = create_backbone("vit_digits", **KWARGS)
        copy.load_state_dict(models[FP32].state_dict())
        models[precision] = quantize_(copy, QuantizationConfig(precision), [IMAGES])
    return MultiPrecisionBackbone(models)


def fit(
    backbone: MultiPrecisionBackbone, precisions: Sequence[Precision] = (W4A4, W8A8), **values: object
) -> tuple[ExitHeads, Record]:
    return fit_exits(backbone, precisions, lambda number: BATCHES, settings(**values), len(BATCHES), len(IMAGES))


@pytest.fixture(scope="module", params=["linear", "hidden", "auto"])
def fitted(request: pytest.FixtureRequest, backbone: MultiPrecisionBackbone) -> tuple[ExitHeads, Record]:
    return fit(backbone, **HEADS.get(request.param, {}))


@pytest.fixture(scope="module")
def heads(fitted: tuple[ExitHeads, Record]) -> ExitHeads:
    return fitted[0]


@torch.inference_mode()
def logits(
    heads: ExitHeads, backbone: MultiPrecisionBackbone, gate: int, precision: Precision, images: Tensor = IMAGES
) -> Tensor:
    """Logits after a uniform path."""
    state = backbone.run_path((precision,) * gate, images)
    return heads.logits(backbone, precision, heads.seen(backbone, gate, state))


@pytest.mark.parametrize("precision", [W4A4, W8A8, FP32])
@pytest.mark.parametrize("gate", [1, 2])
def test_heads_learn_whatever_the_precision(
    heads: ExitHeads, backbone: MultiPrecisionBackbone, gate: int, precision: Precision
) -> None:
    predicted = logits(heads, backbone, gate, precision).argmax(dim=1)
    assert float((predicted == LABELS).float().mean()) > 0.85


def test_history_has_every_gate_before_the_last_and_the_loss_falls(fitted: tuple[ExitHeads, Record]) -> None:
    heads, record = fitted
    assert {row["gate"] for row in record.history} == {1, 2}
    assert record.passes == 2
    for gate, head in enumerate(heads.heads[:-1], 1):
        assert {row["precision"] for row in record.history if row["gate"] == gate} == set(head.classifiers)
        rows = [
            row for row in record.history if row["gate"] == gate and row["precision"] == next(iter(head.classifiers))
        ]
        assert [row["iteration"] for row in rows] == list(range(len(rows)))
        assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] <= 0.7 * np.log(3)


def test_the_last_gate_has_the_backbones_own_head(heads: ExitHeads, backbone: MultiPrecisionBackbone) -> None:
    for precision in (W4A4, FP32):
        with torch.inference_mode():
            expected = backbone.classify(precision, backbone.run_path((precision,) * 3, IMAGES))
        assert torch.equal(logits(heads, backbone, 3, precision), expected)


@pytest.mark.parametrize("kind", HEADS)
def test_quantized_heads_equal_int64_arithmetic_and_come_close_to_the_float_ones(
    backbone: MultiPrecisionBackbone, kind: str
) -> None:
    heads, _ = fit(backbone, **HEADS[kind])
    for gate in (1, 2):
        head = heads.heads[gate - 1]
        with torch.inference_mode():
            state = backbone.run_path((W4A4,) * gate, IMAGES)
            x = pooled = heads.seen(backbone, gate, state)(head.pooling)
            for layer in head.classifiers[ANY].quantized:
                if isinstance(layer, QuantizedLinear):
                    integers = layer.input(x).long() @ layer.weight.long().t()
                    x = integers.float() * (layer.input.scale * layer.weight_scale) + layer.bias
                else:
                    x = layer(x)
            expected = head.classifiers[ANY].floating(pooled)
        found = logits(heads, backbone, gate, W4A4)
        assert torch.equal(found, x)
        assert float((found - expected).norm()) < 0.05 * float(expected.norm())


@pytest.mark.parametrize("precision", [W4A4, FP32])
def test_gates_do_not_depend_on_the_batch(
    heads: ExitHeads, backbone: MultiPrecisionBackbone, precision: Precision
) -> None:
    view = GateView(backbone, heads, embedding=True)
    for gate in (1, 2, 3):
        with torch.inference_mode():
            state = backbone.run_path((precision,) * gate, IMAGES)
            log_probs, features = view(gate, precision, state)
            for rows in (slice(0, 1), slice(7, 20), slice(60, 90)):
                part = view(gate, precision, state[rows])
                assert np.array_equal(part[0], log_probs[rows])
                assert np.array_equal(part[1], features[rows])


def test_fitting_is_deterministic_on_any_number_of_threads(backbone: MultiPrecisionBackbone, tmp_path: Path) -> None:
    torch.manual_seed(123)
    fit(backbone)[0].save(tmp_path / "a")
    with one_thread():
        fit(backbone)[0].save(tmp_path / "b")
    fit(backbone, seed=1)[0].save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


@torch.inference_mode()
def test_heads_are_read_back(heads: ExitHeads, backbone: MultiPrecisionBackbone, tmp_path: Path) -> None:
    heads.save(tmp_path / "heads.safetensors")
    again = ExitHeads.load(tmp_path / "heads.safetensors", backbone.first)
    assert [head.pooling for head in again.heads] == [head.pooling for head in heads.heads]
    assert again.embedding == heads.embedding == 4
    for precision in (W4A4, FP32):
        for gate in (1, 2, 3):
            assert torch.equal(*(logits(h, backbone, gate, precision) for h in (heads, again)))
            state = backbone.run_path((precision,) * gate, IMAGES)
            assert np.array_equal(*(h.embed(h.seen(backbone, gate, state)) for h in (heads, again)))


def test_the_embedding_has_uncorrelated_components_of_unit_variance(backbone: MultiPrecisionBackbone) -> None:
    heads, _ = fit(backbone, [W8A8], **HEADS["linear"])
    for gate in (1, 2, 3):
        with torch.inference_mode():
            embedded = heads.embed(heads.seen(backbone, gate, backbone.run_path((W8A8,) * gate, IMAGES)))
        assert np.allclose(np.cov(embedded.T), np.eye(4), atol=0.02)
        assert np.allclose(embedded.mean(axis=0), 0, atol=2e-3)


def test_without_embedding(backbone: MultiPrecisionBackbone) -> None:
    heads, _ = fit(backbone, embedding=0, **HEADS["linear"])
    view = GateView(backbone, heads, embedding=True)
    with torch.inference_mode():
        _, features = view(1, W4A4, backbone.run_path((W4A4,), IMAGES))
    assert features.shape == (90, 4)
    assert view.bitflops(1) == 0


def test_an_absent_class_is_named(backbone: MultiPrecisionBackbone) -> None:
    kept = LABELS != 1
    with pytest.raises(QueeError, match="no training sample of class 1 for the exit heads"):
        fit_exits(backbone, [W8A8], lambda number: [(IMAGES[kept], LABELS[kept])], settings(), 1, int(kept.sum()))


def test_cost_of_heads_and_embedding_by_hand(backbone: MultiPrecisionBackbone) -> None:
    heads, _ = fit(backbone, **HEADS["linear"])
    assert heads.head_bitflops(1, W4A4) == 32 * 3 * 8 * 8
    assert heads.head_bitflops(2, FP32) == 32 * 3 * 32 * 32
    assert GateView(backbone, heads, embedding=True).bitflops(1) == 32 * 4 * 8 * 8
    assert GateView(backbone, heads, embedding=False).bitflops(1) == 0
    block = trace_cost(backbone.models[FP32]).bitflops(2, W8A8)
    assert heads.head_bitflops(1, W8A8) < 0.02 * block
    hidden, _ = fit(backbone, **HEADS["hidden"])
    assert hidden.head_bitflops(1, W4A4) == (5 * 16 * 8 + 8 * 3) * 8 * 8


def test_uncertainty_by_hand() -> None:
    p = np.array([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]])
    largest, entropy, margin, sharpened = state_features(np.log(np.maximum(p, 1e-300)))[1].T
    assert largest.tolist() == [0.5, 1.0]
    assert entropy == pytest.approx([1.5 * np.log(2), 0.0])
    assert margin == pytest.approx([0.25, 1.0])
    squared = np.array([1, 1, 4]) / 6
    assert sharpened == pytest.approx([-(squared * np.log(squared)).sum(), 0.0])


def test_features_are_named_finite_and_begin_with_the_uncertainty(
    heads: ExitHeads, backbone: MultiPrecisionBackbone
) -> None:
    for embedding, width in ((True, 8), (False, 4)):
        view = GateView(backbone, heads, embedding)
        with torch.inference_mode():
            log_probs, features = view(1, W4A4, backbone.run_path((W4A4,), IMAGES * 1e3))
        assert features.shape == (90, width) == (90, len(view.names))
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        assert np.allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-12)
        assert np.array_equal(features[:, 0], np.exp(log_probs).max(axis=1).astype(np.float32))
    assert feature_names(2) == [
        "max_probability",
        "entropy",
        "margin",
        "sharpened_entropy",
        "embedding_0",
        "embedding_1",
    ]


def test_heads_behind_float_prefixes_see_the_float_network_alone(backbone: MultiPrecisionBackbone) -> None:
    chosen = settings(prefixes="float")
    assert behind(settings(), [W4A4, W8A8]) == (W4A4, W8A8)
    heads, _ = fit(backbone, behind(chosen, [W4A4, W8A8]), prefixes="float", **HEADS["linear"])
    same, _ = fit(MultiPrecisionBackbone({FP32: backbone.models[FP32]}), [FP32], **HEADS["linear"])
    for one, other in zip(heads.heads[:-1], same.heads[:-1], strict=True):
        assert torch.equal(one.classifiers[ANY].floating[0].weight, other.classifiers[ANY].floating[0].weight)


def test_passes_in_different_orders_are_refused(backbone: MultiPrecisionBackbone) -> None:
    """An image held out of a first fit would be among the fitted ones in another pass."""
    orders = [slice(None), torch.arange(len(IMAGES) - 1, -1, -1)]
    with pytest.raises(QueeError, match="in different orders"):
        fit_exits(
            backbone, [W8A8], lambda n: [(IMAGES[orders[n]], LABELS[orders[n]])], settings(draws=2), 1, len(IMAGES)
        )
