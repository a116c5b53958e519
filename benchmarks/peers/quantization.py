"""Peers' post-training quantization: each is a function of a float network and calibration batches to a classifier.

Parts that are not quantized stay in float32, not bfloat16. One thread; one image at a time where a shape is static.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from quee.network.base import TokenBackbone

Predict = Callable[[Tensor], Tensor]


def nncf_ptq(fast: bool) -> Callable[[nn.Module, list[Tensor]], Predict]:
    """NNCF's PTQ on OpenVINO, for transformers where the backbone is one, with its fast or its full bias correction."""

    def make(model: nn.Module, batches: list[Tensor]) -> Predict:
        import nncf
        import openvino as ov

        sample = batches[0][:1]
        network = ov.convert_model(model, example_input=sample, input=list(sample.shape))
        samples = nncf.Dataset([x.numpy() for batch in batches for x in batch.split(1)])
        kind = {"model_type": nncf.ModelType.TRANSFORMER, "preset": nncf.QuantizationPreset.MIXED}
        quantized = nncf.quantize(
            network,
            samples,
            subset_size=sum(map(len, batches)),
            fast_bias_correction=fast,
            **(kind if isinstance(model, TokenBackbone) else {}),
        )
        compiled = ov.compile_model(quantized, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
        return lambda x: torch.from_numpy(np.concatenate([compiled(part.numpy())[0] for part in x.split(1)]))

    return make


def onnxruntime_static(weight_type: str) -> Callable[[nn.Module, list[Tensor]], Predict]:
    """ONNX Runtime's static quantization to QDQ, min-max ranges, weights per channel."""

    def make(model: nn.Module, batches: list[Tensor]) -> Predict:
        import onnxruntime as ort
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.samples = iter([{"x": x.numpy()} for batch in batches for x in batch.split(1)])

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.samples, None)

        with TemporaryDirectory() as folder:
            source, target = str(Path(folder) / "float.onnx"), str(Path(folder) / "integers.onnx")
            torch.onnx.export(model, (batches[0][:1],), source, input_names=["x"], dynamo=False, opset_version=21)
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType[weight_type],
            )
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            session = ort.InferenceSession(target, options, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(np.concatenate([session.run(None, {"x": p.numpy()})[0] for p in x.split(1)]))

    return make


def torchao_dynamic(weight_bits: int) -> Callable[[nn.Module, list[Tensor]], Predict]:
    """torchao: weights per channel, activations of linear layers to 8 bits per token at run time; no calibration.

    Attention products and the convolution of the stem stay in floating point.
    """

    def make(model: nn.Module, batches: list[Tensor]) -> Predict:
        from torchao.quantization import (
            Int8DynamicActivationInt8WeightConfig,
            Int8DynamicActivationIntxWeightConfig,
            PerAxis,
            quantize_,
        )

        config = Int8DynamicActivationInt8WeightConfig()
        if weight_bits < 8:
            dtype = getattr(torch, f"int{weight_bits}")
            config = Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=PerAxis(0))
        quantize_(model, config)
        return model

    return make


PEERS: dict[str, tuple[str, Callable[[nn.Module, list[Tensor]], Predict]]] = {
    "NNCF PTQ, fast bias correction": ("w8a8", nncf_ptq(True)),
    "NNCF PTQ, bias correction": ("w8a8", nncf_ptq(False)),
    "ONNX Runtime static": ("w8a8", onnxruntime_static("QInt8")),
    "ONNX Runtime static, 4-bit weights": ("w4a8", onnxruntime_static("QInt4")),
    "torchao, dynamic": ("w8a8", torchao_dynamic(8)),
    "torchao, dynamic, 4-bit weights": ("w4a8", torchao_dynamic(4)),
    "torchao, dynamic, 2-bit weights": ("w2a8", torchao_dynamic(2)),
}
