"""A layer beside a block: block(x) + layer(x), under the block's name."""

from torch import Tensor, nn

BESIDE = "compensation"
"""Name of the layer within its block."""


def add_beside(block: nn.Module, layer: nn.Module) -> None:
    """Make a block give block(x) + layer(x); a layer that is there already is replaced."""
    if BESIDE not in dict(block.named_children()):
        block.register_forward_hook(_sum)  # copied with the module, by reference
    block.add_module(BESIDE, layer)


def _sum(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    result: Tensor = output + block.get_submodule(BESIDE)(inputs[0])
    return result


def block_of(name: str) -> str:
    """The block that a layer of that name stands beside, or an empty string."""
    block, _, last = name.rpartition(".")
    return block if last == BESIDE else ""
