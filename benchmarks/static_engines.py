"""Static deployments of a backbone that benchmarks/runtime.py compares with: whole networks, one graph each."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quee.exits.heads import ExitHead, ExitHeads
from quee.export.graphs import export_graphs
from quee.features import GateView
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.work.machine import resident_bytes

Run = Callable[[np.ndarray], np.ndarray]
"""Prepared images (n, c, h, w) to logits (n, classes)."""


def whole_graph(model: SegmentedBackbone, precision: str = "fp32") -> Path:
    """The whole network as one graph with its logits; the input is `x`."""
    whole = deepcopy(model)
    whole.set_gates((len(whole.block_names),))
    view = GateView(MultiPrecisionBackbone({Precision(precision): whole}), ExitHeads([ExitHead("", {}, None)]), False)
    folder = Path(mkdtemp(prefix="quee-static-"))
    return folder / export_graphs(view, [Precision(precision)], folder)[0]


def openvino(model: Any, threads: int, hint: str) -> Run:
    """A network compiled for each batch size, which is the fastest way for OpenVINO."""
    from openvino import Core

    core, compiled = Core(), {}
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }

    def run(x: np.ndarray) -> np.ndarray:
        if len(x) not in compiled:
            own = core.read_model(model) if isinstance(model, Path) else model.clone()
            own.reshape([len(x), *x.shape[1:]])
            compiled[len(x)] = core.compile_model(own, "CPU", settings).create_infer_request()
        return np.array(compiled[len(x)].infer({0: x}, share_inputs=True, share_outputs=True)[0])

    return run


def nncf_int8(graph: Path, calibration: Tensor) -> Any:
    import nncf
    from openvino import Core

    model = Core().read_model(graph)
    model.reshape([1, *calibration.shape[1:]])
    samples = nncf.Dataset([x.numpy() for x in calibration.split(1)])
    return nncf.quantize(
        model,
        samples,
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )


def onnxruntime(graph: Path, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def onnxruntime_static(graph: Path, calibration: Tensor) -> Path:
    """Quantizes products alone: a quantized residual sum costs accuracy and time."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = iter([{"x": x.numpy()} for x in calibration.split(64)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.samples, None)

    target = graph.with_name("static.onnx")
    quantize_static(
        graph,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    return target


def onnxruntime_dynamic(graph: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = graph.with_name("dynamic.onnx")
    quantize_dynamic(graph, target, weight_type=QuantType.QInt8, per_channel=True)
    return target


def pytorch(model: SegmentedBackbone, compiled: bool) -> Run:
    runs = torch.compile(model, dynamic=True) if compiled else model

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return runs(torch.from_numpy(x)).numpy()

    return run


def pytorch_int8(model: SegmentedBackbone, calibration: Tensor) -> Run:
    """PyTorch's own int8 (PT2E): convolutions and linear layers, weights per output channel, by Inductor.

    It is compiled for each batch size, because the exporter fixes that in some networks. Raises ImportError without
    torchao, RuntimeError where there is no compiler or where Inductor left all products in float, which it does in silence.
    """
    from torch._dynamo.utils import counters
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError as error:
        raise ImportError(f"PyTorch's int8 is in torchao: pip install 'quee[bench]' ({error})") from None
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise RuntimeError("there is no C++ compiler for Inductor; set CXX or install g++") from None
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())

    def observed(samples: int) -> torch.fx.GraphModule:
        exported = torch.export.export(model, (calibration[:1].repeat(samples, 1, 1, 1),)).module()
        return prepare_pt2e(exported, quantizer)

    size = min(64, len(calibration))
    known = observed(size)
    with torch.no_grad():
        for start in range(0, len(calibration) - size + 1, size):
            known(calibration[start : start + size])
    compiled: dict[int, Callable[[Tensor], Tensor]] = {}

    def run(x: np.ndarray) -> np.ndarray:
        # Inductor finds integer products only where weights are frozen, and freezes them only without gradients.
        with torch.no_grad(), config.patch(freezing=True):
            if len(x) not in compiled:
                own = observed(len(x))
                own.load_state_dict(known.state_dict())
                compiled[len(x)] = torch.compile(convert_pt2e(own), dynamic=False)
                compiled[len(x)](torch.from_numpy(x))
                if not any(
                    counters["inductor"][f"q{kind}_weight_prepack_matcher_count"] for kind in ("linear", "conv")
                ):
                    raise RuntimeError("Inductor made integers of no product")
            return compiled[len(x)](torch.from_numpy(x)).numpy()

    return run


def static_deployments(
    float_model: SegmentedBackbone,
    w8a8: SegmentedBackbone | None,
    calibration: Tensor,
    threads: int,
    names: Sequence[str],
    x: np.ndarray,
) -> tuple[dict[str, Run], dict[str, dict[str, int]]]:
    """Every deployment of `names`, or all, that can be made here; the others are left out with the reason.

    Also by name: the bytes of its file, and the growth of the process in bytes until it had run x (n, c, h, w).
    """
    graph = whole_graph(float_model)

    @cache
    def int8() -> Path:
        from openvino import save_model

        model = graph.with_name("nncf.xml")
        save_model(nncf_int8(graph, calibration), model, compress_to_fp16=False)
        return model

    makers: dict[str, Callable[[], Run]] = {
        "OpenVINO fp32": lambda: openvino(graph, threads, "f32"),
        "OpenVINO bf16": lambda: openvino(graph, threads, "bf16"),
        "OpenVINO int8 (NNCF)": lambda: openvino(int8(), threads, "f32"),
        "OpenVINO int8 (NNCF), bf16 beside": lambda: openvino(int8(), threads, "bf16"),
        "ONNX Runtime fp32": lambda: onnxruntime(graph, threads),
        "ONNX Runtime int8 static": lambda: onnxruntime(onnxruntime_static(graph, calibration), threads),
        "ONNX Runtime int8 dynamic": lambda: onnxruntime(onnxruntime_dynamic(graph), threads),
        "PyTorch eager": lambda: pytorch(float_model, False),
        "PyTorch compiled": lambda: pytorch(float_model, True),
        "PyTorch int8 (PT2E)": lambda: pytorch_int8(float_model, calibration),
    }
    if w8a8 is not None:
        makers["OpenVINO int8 (quee)"] = lambda: openvino(whole_graph(w8a8, "w8a8"), threads, "f32")
    kinds = {"fp32": graph, "bf16": graph, "static": graph.with_name("static.onnx")}
    kinds |= {"(NNCF)": graph.with_name("nncf.bin"), "dynamic": graph.with_name("dynamic.onnx")}
    found, sizes = {}, {}
    for name in names or makers:
        try:
            if "NNCF" in name:
                int8()
            before = resident_bytes()
            found[name] = makers[name]()
            found[name](x)
            sizes[name] = {"resident": resident_bytes() - before}
            file = next((path for kind, path in kinds.items() if name.endswith(kind)), None)
            if file is not None and file.is_file():
                sizes[name]["bytes"] = file.stat().st_size
            print(f"{name}: made", flush=True)
        except Exception as error:  # a peer may fail in any way
            found.pop(name, None)
            print(f"{name}: left out, {type(error).__name__}: {str(error)[:150]}")
    return found, sizes
