"""What is read of a state at a gate: parts of a pooling, normalised."""

from torch import Tensor
from torch.nn import functional

from quee.network.base import SegmentedBackbone
from quee.network.pooling import Part


def seen_part(model: SegmentedBackbone, gate: int, state: Tensor, part: Part) -> Tensor:
    """One part of the pooled state (n, cells · width) at a gate, at zero mean and unit variance."""
    found = model.pool_part(state, gate, part)
    return functional.layer_norm(found, found.shape[1:]).flatten(1)
