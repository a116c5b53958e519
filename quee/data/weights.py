"""Pretrained weights: read without executing anything, checked against their backbone, kept as safetensors."""

from pathlib import Path
from typing import Any

from quee.errors import UsageError
from quee.io import write_tensors


def import_weights(backbone: str, source: Path, target: Path) -> int:
    """Write the weights in `source` to `target` under their own names; returns the number of parameters.

    Raises QueeError naming missing and left-over keys when they do not fit the backbone, built with as many classes as
    the weights have.
    """
    from quee.backbones import backbone_names, create_backbone, is_backbone
    from quee.backbones.checkpoints import fit_state, load_checkpoint
    from quee.registry import unknown

    if not is_backbone(backbone):
        raise UsageError(unknown("backbone", backbone, backbone_names()))
    state = load_checkpoint(source)
    head = state.get("head.weight")
    kwargs: dict[str, Any] = {} if head is None or head.dim() != 2 else {"num_classes": head.shape[0]}
    fit_state(create_backbone(backbone, **kwargs), state, str(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, {name: value.numpy() for name, value in state.items()}, {"backbone": backbone})
    return sum(value.numel() for value in state.values())
