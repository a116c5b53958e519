"""Engine `torch`: executes quantized segments exactly, as the feature cache did; the reference of the other engines."""

from copy import deepcopy

import numpy as np
import torch

from quee.errors import QueeError
from quee.network.device import CPU, GPU, place
from quee.network.execution import MultiPrecisionBackbone
from quee.precision import Precision
from quee.quantization.layers import use_integer_kernels
from quee.runtime.engines.base import Step
from quee.runtime.view import View


class TorchEngine:
    """Computes the same bits as the simulation, in any batch. Integer products are emulated in float32.

    On `cuda` segments run on the GPU, which has kernels for `bf16`, `fp16` and products with integer weights. Gates stay
    on the CPU.
    """

    def __init__(self, view: View, device: str = CPU) -> None:
        """Raises QueeError where the device does not exist."""
        if device == GPU and not torch.cuda.is_available():
            raise QueeError("engine cuda needs a CUDA device, and PyTorch finds none; take engine torch")
        self.name = "torch" if device == CPU else device
        self.view, self.device, self.backbone = view, device, view.backbone
        if device != CPU:
            models = {precision: deepcopy(model) for precision, model in view.backbone.models.items()}
            self.backbone = MultiPrecisionBackbone(models).to(place(device))
            for model in models.values():
                use_integer_kernels(model)

    @property
    def version(self) -> str:
        return str(torch.__version__)

    @property
    def threads(self) -> int:
        """PyTorch's own setting; engines do not change it."""
        return torch.get_num_threads()

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        with torch.inference_mode():
            after = self.backbone.run(segment, precision, torch.from_numpy(state)).cpu()
            logits, embedding = self.view.outputs(segment, precision, after)
        return Step(after.numpy() if segment < self.backbone.segments else None, logits, embedding)

    def executed(self, precision: Precision) -> str:
        if precision.is_float:
            return precision.name
        if self.device == CPU:
            return "fp32 (emulated)"
        return "int8" if precision == Precision("w8a8") else "int8 (emulated)"
