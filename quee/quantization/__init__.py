"""Post-training quantization: `quantize_(model, config, calibration_batches)`.

Uniform grids, executed exactly: products of integer-valued float32 operands, so that emulation equals integer
arithmetic whatever the batch or the number of threads.
"""

from quee.quantization.calibration import QuantizationConfig, quantize_
from quee.quantization.layers import (
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedMatMul,
    empty_quantized,
    finalize,
)
from quee.quantization.quantizers import AffineQuantizer, quantize_weight

__all__ = [
    "AffineQuantizer",
    "QuantizationConfig",
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedMatMul",
    "empty_quantized",
    "finalize",
    "quantize_",
    "quantize_weight",
]
