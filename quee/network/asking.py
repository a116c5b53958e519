"""Asking a network for its answers."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn


def ask(network: nn.Module, batches: Iterable[Tensor]) -> np.ndarray:
    """Classes (n,) int64 that a network answers to batches of prepared images, on the device of its parameters."""
    parameter = next(network.parameters(), None)
    place = "cpu" if parameter is None else parameter.device
    with torch.inference_mode():
        found = [network(x.to(place)).argmax(dim=1).cpu().numpy() for x in batches]
    return np.concatenate(found) if found else np.zeros(0, np.int64)
