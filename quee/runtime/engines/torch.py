"""PyTorch: quantized segments exactly, as the feature cache was built with them; the reference of the other engines."""

import numpy as np
import torch

from quee.features import GateView
from quee.precision import Precision
from quee.runtime.engines.base import Step


class TorchEngine:
    """Executes what the simulation executes: the same bits, in any batch. Integer products are emulated in float32."""

    name = "torch"

    def __init__(self, view: GateView) -> None:
        self.view = view

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        backbone = self.view.backbone
        with torch.inference_mode():
            after = backbone.run(segment, precision, torch.from_numpy(state))
            log_probs, features = self.view(segment, precision, after)
        return Step(after.numpy() if segment < backbone.segments else None, log_probs, features)

    def executed(self, precision: Precision) -> str:
        return precision.name if precision.is_float else "fp32 (emulated)"
