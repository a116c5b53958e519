"""Post-training quantization: `quantize_(model, config, calibration_batches)`.

Everything is executed exactly: products of integer-valued float32 operands, so that emulation equals integer
arithmetic whatever the batch or the number of threads.
"""

from quee.quantization.allocation import with_mixed_bits
from quee.quantization.calibration import quantize_, quantize_paths
from quee.quantization.layers import (
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedMatMul,
    empty_quantized,
    finalize,
    layout,
)
from quee.quantization.quantizers import AffineQuantizer, CodebookQuantizer
from quee.quantization.single import quantize_linear
from quee.quantization.weights import quantize_weight
from quee.settings.quantize import INGREDIENTS, PRESETS, QuantizationConfig

__all__ = [
    "INGREDIENTS",
    "PRESETS",
    "AffineQuantizer",
    "CodebookQuantizer",
    "QuantizationConfig",
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedMatMul",
    "empty_quantized",
    "finalize",
    "layout",
    "quantize_",
    "quantize_linear",
    "quantize_paths",
    "quantize_weight",
    "with_mixed_bits",
]
