"""Exported graphs compute PyTorch's results by integer kernels in any batch; messages say how to install missing engines."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from quee.errors import QueeError, UsageError
from quee.exits.fitting import fit_exits
from quee.export.graphs import export_graphs, exportable, graph_name
from quee.features import GateView
from quee.network.architectures import create_backbone
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_paths
from quee.runtime.engines import graphs, memory, open_engine, probe
from quee.settings.exits import Exits
from quee.settings.quantize import QuantizationConfig
from quee.work import extras

PRECISIONS = [Precision(name) for name in ("fp32", "w4a4", "w8a8")]
ENGINES = ("openvino", "onnxruntime")
WIDE = {"embed_dim": 32, "depth": 3, "num_heads": 2}
SWIN = {
    "img_size": 20,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 16,
    "num_classes": 10,
    "depths": (2, 1),
    "num_heads": (2, 2),  # maps of 10 and 5 places: the last windows are padded
}
NETWORKS = {
    "vit_fashion_mnist": (WIDE, Exits(embedding=4, pooling="cls_mean3x3_max2x2", head="hidden", hidden=24)),
    "vit_digits": (WIDE, Exits(embedding=4, pooling="cls_mean", head="linear")),
    "swin_tiny_patch4_window7_224": (SWIN, Exits(embedding=4, pooling="mean2x2_max", head="hidden", hidden=24)),
}
"""A grid that does not divide the 4 × 4 patches, and a hidden layer; what heads of before had; maps of channels last."""


@pytest.fixture(scope="module", params=NETWORKS)
def view(request: pytest.FixtureRequest) -> GateView:
    """A small untrained network with an overlapping stem, plain patches, or shifted windows, at three precisions."""
    torch.manual_seed(0)
    kwargs, settings = NETWORKS[request.param]
    backbone = create_backbone(request.param, (1, 2, 3), **kwargs).requires_grad_(False).eval()
    size = backbone.input
    x = torch.randn(64, *size.shape)
    configs = [QuantizationConfig(p, preset="repq") for p in PRECISIONS if not p.is_float]
    models = quantize_paths(backbone, configs, [x], 0)
    multi = MultiPrecisionBackbone({Precision("fp32"): backbone, **models})
    y = torch.arange(64) % 10
    heads, _ = fit_exits(multi, PRECISIONS, lambda _: [(x, y)], settings, 1, len(x))
    return GateView(multi, heads, embedding=True)


@pytest.fixture(scope="module")
def images(view: GateView) -> np.ndarray:
    size = view.backbone.models[Precision("fp32")].input
    return np.random.default_rng(1).standard_normal((150, *size.shape), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(view: GateView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    out = tmp_path_factory.mktemp("graphs")
    assert export_graphs(view, PRECISIONS, out) == sorted(p.name for p in out.iterdir())
    return out


def opened(name: str, view: GateView, folder: Path):
    pytest.importorskip(name)
    return open_engine(name, view, folder, threads=1)


def along(view: GateView, images: np.ndarray, precision: Precision) -> Iterator[tuple[int, np.ndarray]]:
    """Segments with PyTorch's states before them."""
    reference, state = open_engine("torch", view), images
    for segment in range(1, view.backbone.segments + 1):
        yield segment, state
        state = reference.run(segment, precision, state).state


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", ENGINES)
def test_an_exported_step_is_that_of_torch_up_to_rounding(view, images, folder, name, precision) -> None:
    engine, reference = opened(name, view, folder), open_engine("torch", view)
    for segment, state in along(view, images, precision):
        wanted, found = reference.run(segment, precision, state), engine.run(segment, precision, state)
        assert (found.state is None) == (segment == view.backbone.segments)
        assert found.log_probs.dtype == np.float64 and found.features.dtype == np.float32
        assert found.features.shape == wanted.features.shape
        # A value at the edge of two integers may fall to either side, which changes later values; few values do.
        assert np.median(np.abs(found.log_probs - wanted.log_probs)) < 1e-5
        assert np.abs(found.log_probs - wanted.log_probs).mean() < 2e-3
        assert np.abs(found.features - wanted.features).mean() < 2e-3
        assert (found.log_probs.argmax(1) == wanted.log_probs.argmax(1)).mean() > 0.98


@pytest.mark.parametrize("name", ENGINES)
def test_integers_in_floats_are_those_of_torch_too(view, images, folder, name) -> None:
    """Execution where integer kernels saturate, on any CPU."""
    engine, reference, precision = opened(name, view, folder), open_engine("torch", view), Precision("w8a8")
    engine.exact = False
    assert engine.executed(precision) == "fp32 (emulated)"
    for segment, state in along(view, images, precision):
        wanted, found = reference.run(segment, precision, state), engine.run(segment, precision, state)
        assert np.median(np.abs(found.log_probs - wanted.log_probs)) < 1e-5
        assert np.abs(found.features - wanted.features).mean() < 2e-3


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", [*ENGINES, "openvino, large"])
def test_an_engines_results_do_not_depend_on_the_batch(view, images, folder, name, precision, monkeypatch) -> None:
    name, _, large = name.partition(", ")
    if large:
        monkeypatch.setattr("quee.runtime.engines.openvino.SMALL", 0)
    engine = opened(name, view, folder)
    for segment, state in along(view, images, precision):
        whole = engine.run(segment, precision, state)
        order = np.random.default_rng(segment).permutation(len(state))
        for rows in np.split(order, [1, 3, 6, 11, 28, 61]):
            part = engine.run(segment, precision, state[rows])
            assert np.array_equal(part.log_probs, whole.log_probs[rows])
            assert np.array_equal(part.features, whole.features[rows])
            if whole.state is not None:
                assert np.array_equal(part.state, whole.state[rows])


def test_later_calls_leave_earlier_results_alone(view, images, folder) -> None:
    engine, precision = opened("openvino", view, folder), Precision("fp32")
    first = engine.run(1, precision, images[:8])
    kept = first.state.copy()
    engine.run(1, precision, images[8:16])
    assert np.array_equal(first.state, kept)


def test_what_is_lent_stays_as_it_is_while_any_view_of_it_lives_and_is_used_again_after(view, images, folder) -> None:
    engine, precision = opened("openvino", view, folder), Precision("w8a8")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: engine.run(1, precision, images[start : start + 8]).state[2:5], range(40)))
        wanted = [engine.run(1, precision, images[start : start + 8]).state[2:5].copy() for start in range(40)]
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    idle = engine._run_for(1, precision, 8).idle
    before = len(idle)
    del found
    assert len(idle) - before >= 40  # each was a call of its own


def test_sizes_not_compiled_for_are_padded_to_the_next(view, images, folder) -> None:
    engine, precision = opened("openvino", view, folder), Precision("w8a8")
    engine.warm(1, precision, 8)
    compiled = set(map(id, engine._runs.values()))
    for size in (3, 5, 7):
        assert engine.run(1, precision, images[:size]).state.shape[0] == size
    assert set(map(id, engine._runs.values())) == compiled


def test_openvino_runs_weights_by_integer_kernels_where_they_are_exact(view, folder) -> None:
    engine, precision = opened("openvino", view, folder), Precision("w8a8")
    for segment in range(1, view.backbone.segments + 1):
        compiled = engine.compiled(engine.graph(folder / graph_name(segment, precision)), precision)
        facts = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
        products = [f for f in facts if str(f["layerType"].astype(str)) in ("FullyConnected", "Convolution")]
        whole = [f for f in products if str(f["runtimePrecision"].astype(str)) in ("u8", "i8")]
        # 4 linear layers in each block, the gate's two or the head's two.
        assert len(products) >= 4
        assert len(whole) / len(products) > 0.8 if engine.exact else not whole


def test_onnx_runtime_runs_weights_by_integer_kernels_where_they_are_exact(view, folder, tmp_path: Path) -> None:
    import onnx

    engine, precision = opened("onnxruntime", view, folder), Precision("w8a8")
    for segment in range(1, view.backbone.segments + 1):
        engine.session(engine.graph(folder / graph_name(segment, precision)), tmp_path / "optimised.onnx")
        kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        if not engine.exact:
            assert not any("Integer" in kind or "QLinear" in kind for kind in kinds)
            continue
        assert kinds.count("MatMulIntegerToFloat") + kinds.count("QLinearMatMul") >= 4
        assert kinds.count("MatMulNBits") == 0  # would round activations once more


def test_what_no_kernel_executes_is_called_emulated(view, folder) -> None:
    for name in ENGINES:
        engine = opened(name, view, folder)
        assert engine.executed(Precision("w8a8")) == ("int8" if engine.exact else "fp32 (emulated)")
        assert engine.executed(Precision("w4a4")) == ("int8 (emulated)" if engine.exact else "fp32 (emulated)")
        assert engine.executed(Precision("fp32")) == "fp32"
        assert engine.executed(Precision("bf16")) in ("bf16", "fp32 (emulated)")
    assert open_engine("torch", view).executed(Precision("w8a8")) == "fp32 (emulated)"


def test_export_is_deterministic(view, folder, tmp_path: Path) -> None:
    export_graphs(view, PRECISIONS, tmp_path)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS[1:], ids=str)
def test_quantize_dequantize_around_float_products_is_the_integer_product(view, images, precision) -> None:
    model = view.backbone.model(precision)
    twin = exportable(model)
    assert twin is not model
    with torch.inference_mode():
        x = torch.from_numpy(images)
        apart = (twin.embed(x) - model.embed(x)).abs()
    assert apart.mean() < 1e-4 and apart.median() < 1e-6  # but for values at the edge of two integers


def test_auto_remembers_what_it_measured(view, images, folder, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = open_engine("auto", view, folder, threads=1)
    chosen = first.chosen(1, Precision("w8a8"), images[:4])
    assert memory.cache_file().is_file()
    monkeypatch.setattr(probe, "least_seconds", lambda *_: pytest.fail("measured again"))
    again = open_engine("auto", view, folder, threads=1)
    assert again.chosen(1, Precision("w8a8"), images[:4]).name == chosen.name
    assert again.run(1, Precision("w8a8"), images[:4]).state.shape[0] == 4


@pytest.mark.parametrize("exact", [True, False])
def test_auto_tries_integers_in_floats_where_kernels_of_integers_are_another_way(
    view, images, folder, tmp_path: Path, monkeypatch, exact: bool
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(graphs, "_measured", lambda *_: exact)
    tried: list[str] = []
    monkeypatch.setattr(probe, "least_seconds", lambda engine, *_: tried.append(engine.name) or float(len(engine.name)))
    engine = open_engine("auto", view, folder, threads=1)
    engine.chosen(1, Precision("w8a8"), images[:4])
    assert ("openvino in floats" in tried) is exact
    tried.clear()
    engine.chosen(1, Precision("fp32"), images[:4])
    assert tried and "openvino in floats" not in tried


def test_integers_in_floats_by_choice_are_those_of_the_engine(view, images, folder) -> None:
    pytest.importorskip("openvino")
    auto, precision = open_engine("auto", view, folder, threads=1), Precision("w4a4")
    floats, own = auto.engines["openvino in floats"], open_engine("openvino", view, folder, threads=1)
    one, other = floats.run(1, precision, images[:8]), own.run(1, precision, images[:8])
    assert np.median(np.abs(one.logits - other.logits)) < 1e-5
    assert floats.executed(precision) == "fp32 (emulated)"


def test_exact_sums_are_measured_once_per_machine_and_version(view, folder, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(graphs, "_KNOWN", {})
    found = open_engine("openvino", view, folder, threads=1).exact
    monkeypatch.setattr(graphs, "_KNOWN", {})
    monkeypatch.setattr(graphs, "are_exact", lambda run: not found)
    assert open_engine("openvino", view, folder, threads=1).exact is found
    assert open_engine("openvino", view, folder, threads=2).exact is not found, (
        "another number of threads is measured anew"
    )


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_memory_of_auto_is_made_anew(view, images, folder, tmp_path: Path, monkeypatch, damage) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    memory.cache_file().parent.mkdir(parents=True)
    memory.cache_file().write_text(damage)
    assert open_engine("auto", view, folder, threads=1).run(1, Precision("w8a8"), images[:4]).state is not None


def test_an_engine_that_is_not_installed_says_what_to_install(view, folder, monkeypatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(QueeError, match=r"engine openvino needs the package openvino: pip install 'quee\[openvino\]'"):
        open_engine("openvino", view, folder)


def test_bad_engines_are_refused(view, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto"):
        open_engine("tensorrt", view)
    with pytest.raises(UsageError, match="threads"):
        open_engine("torch", view, None, 0)
    if not torch.cuda.is_available():
        with pytest.raises(QueeError, match="CUDA"):
            open_engine("cuda", view)
    for name in ENGINES:
        pytest.importorskip(name)
        with pytest.raises(QueeError, match="torch"):
            open_engine(name, view, tmp_path)


def test_auto_without_graphs_is_torch(view, images, tmp_path: Path) -> None:
    engine = open_engine("auto", view, tmp_path, threads=1)
    wanted = open_engine("torch", view).run(1, Precision("w8a8"), images[:3])
    assert np.array_equal(engine.run(1, Precision("w8a8"), images[:3]).log_probs, wanted.log_probs)


def test_without_onnx_no_bundle_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(QueeError, match=r"writing a bundle needs the package onnx: pip install 'quee\[train\]'"):
        export_graphs(None, PRECISIONS, tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
