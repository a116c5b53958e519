"""The device that runs networks: the CPU, or a GPU of this machine. PyTorch is imported where a device is asked for."""

from typing import TYPE_CHECKING

from quee.errors import UsageError

if TYPE_CHECKING:
    import torch

CPU, GPU = "cpu", "cuda"
DEVICES = ("auto", CPU, GPU)
"""Values of the setting; `auto` is the GPU if there is one."""


def resolved(wanted: str, where: str = "device") -> str:
    """`cpu` or `cuda`. Raises UsageError, naming the setting at `where`, for `cuda` on a machine without a GPU."""
    there = gpus() > 0
    if wanted == GPU and not there:
        raise UsageError(f"{where}: cuda, but PyTorch finds no GPU here; valid: auto, cpu")
    return GPU if there and wanted != CPU else CPU


def place(name: str) -> "torch.device":
    """The device called `cpu` or `cuda` in this process, on which products in float32 keep all bits.

    Raises UsageError for `cuda` without a GPU: a worker on another machine may have none.
    """
    import torch

    if resolved(name, "work for a GPU") == GPU:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def gpus() -> int:
    """Number of GPUs of this machine that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
