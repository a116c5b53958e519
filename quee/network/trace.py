"""One run of a network written down: which modules and functions it called, in which order, on which tensors.

The run takes place on the meta device, without values: it costs little memory and time. A forward that depends on values
cannot be written down. The number of samples is a large prime, so that it is found again in shapes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

SAMPLES = 7919
"""Number of samples in the run: a prime, so that numbers that it divides are multiples of the number of samples."""


@dataclass(eq=False)
class Call:
    """A call of a module (`name`) or of a function of torch (`function`)."""

    name: str | None
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    start: int
    """Number of functions that were called before this call."""
    within: "Call | None" = None
    result: Any = None
    end: int = 0
    versions: tuple[int, ...] = ()
    """Of the tensors among a module's results, how often they had been changed in place."""
    calls: list["Call"] = field(default_factory=list)
    """Calls directly within a module's."""

    def modules(self) -> Iterator["Call"]:
        """The calls of modules within this one, at any depth, in their order."""
        for call in self.calls:
            if call.name is not None:
                yield call
                yield from call.modules()

    def functions(self) -> Iterator["Call"]:
        """The calls of functions within this one, at any depth, in their order."""
        for call in self.calls:
            if call.name is None:
                yield call
            else:
                yield from call.functions()


def _kept(value: Any) -> Any:
    """Lists and mappings as they are now, because a network may change them later."""
    return tree_map(lambda leaf: leaf, value)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and mappings."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class _Written(TorchFunctionMode):
    """Appends the functions of torch that make or read tensors to the calls of the module that runs."""

    def __init__(self, root: Call) -> None:
        super().__init__()
        self.root = self.current = root
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if tensors(result):
            start, self.count = self.count, self.count + 1
            call = Call(None, func, _kept(tuple(args)), _kept(kwargs), start, self.current, result, self.count)
            self.current.calls.append(call)
        return result


def traced(model: nn.Module, shape: tuple[int, ...]) -> tuple[Call, dict[str, Tensor]]:
    """The call of a network that takes images (n, *shape), and its parameters and buffers in that run."""
    state = {name: value.detach().to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    x = torch.empty(SAMPLES, *shape, device="meta")
    root = Call("", None, (x,), {}, 0)
    mode = _Written(root)

    def begin(name: str) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(name, None, _kept(args), _kept(kwargs), mode.count, mode.current)
            mode.current.calls.append(call)
            mode.current = call

        return see

    def finish(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call, within = mode.current, mode.current.within
        assert within is not None
        call.result, call.end, mode.current = _kept(output), mode.count, within
        call.versions = tuple(t._version for t in tensors(output))

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(begin(name), with_kwargs=True))
            handles.append(module.register_forward_hook(finish, with_kwargs=True))
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.device("meta"), mode:  # versions tell changes in place
            root.result = functional_call(model, state, (x,))
    finally:
        for handle in handles:
            handle.remove()
    root.end = mode.count
    return root, state
