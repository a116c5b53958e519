"""A GPU for tests on machines without one: tensors that say they are on `cuda` and compute on the CPU.

An operation that takes tensors of both devices is refused as CUDA refuses it, and so is `.numpy()`. Values are real: what
runs on the emulated GPU has the CPU's results, but for kernels that are chosen by the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

COPIES = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_"}
"""Operations whose index tensors may be on the CPU."""


class _OnGpu(torch.Tensor):
    """A tensor that says it is on `cuda`; `inner` has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "_OnGpu":
        found = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="meta", requires_grad=inner.requires_grad,
        )  # fmt: skip
        found.inner = inner
        return found

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """What Python reads. To PyTorch itself the tensor has no memory: for one on `cuda` it would call the driver."""
        return torch.device("cuda:0")

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_OnGpu":
        found = _OnGpu(self.inner.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            found._is_param = True
        return memo.setdefault(id(self), found)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Sends copies to `cuda` and tensors created there to the emulation, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.removeprefix("aten::")
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, _OnGpu)]
    if name == "_has_compatible_shallow_copy_type":
        return not ours
    others = [x for x in tensors if not isinstance(x, _OnGpu) and x.dim()]
    if ours and others and name not in COPIES and not (name in INDEXED and isinstance(args[0], _OnGpu)):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")
    wanted = kwargs.get("device")
    here = bool(ours) if wanted is None else torch.device(wanted).type == "cuda"
    if name == "copy_":
        here = isinstance(args[0], _OnGpu)
    plain = tree_map(lambda x: x.inner if isinstance(x, _OnGpu) else x, (args, kwargs))
    if wanted is not None:
        plain[1]["device"] = torch.device("cpu")
        if name == "_to_copy" and here != bool(ours) and len(plain[1]) == 1:
            plain = ((plain[0][0].clone(),), plain[1])
    with torch._C._DisableTorchDispatch():
        found = func(*plain[0], **plain[1])
    if func._schema.is_mutable and name.endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map(lambda x: _OnGpu(x) if here and isinstance(x, torch.Tensor) else x, found)


class _Moves(TorchFunctionMode):
    """Moves tensors to the emulated GPU without PyTorch's own code for it, which would call the driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            x, *others = *args, *kwargs.values()
            if any(isinstance(o, str | torch.device) and torch.device(o).type == "cuda" for o in others):
                kinds = [o for o in others if isinstance(o, torch.dtype)]
                x = x.to(*kinds) if kinds else x
                return x if isinstance(x, _OnGpu) else _OnGpu(x.detach().clone())
        return func(*args, **kwargs)


@contextmanager
def emulated_gpu() -> Iterator[None]:
    """Within this block PyTorch finds one GPU, of the capability 8.0."""
    replaced = torch.__future__.get_overwrite_module_params_on_conversion
    with (
        patch.object(torch.__future__, replaced.__name__, lambda: True),  # new data would leave `inner` behind
        patch.object(torch.cuda, "is_available", lambda: True),
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(torch.cuda, "device_count", lambda: 1),
        patch.object(torch.cuda, "get_device_capability", lambda *_: (8, 0)),
        patch.object(torch.cuda, "get_device_name", lambda *_: "emulated"),
        patch.object(torch, "inference_mode", torch.no_grad),  # views of wrapped tensors have version counters
        _Everywhere(),
        _Moves(),
    ):
        yield
