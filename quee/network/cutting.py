"""Where a network can be cut, found from one run of it (`quee/network/trace.py`).

A block is a module with two or more layers with weights, which stands in a list or beside others of its class. Behind it
one tensor must be all that the rest of the network reads, so that a gate there cuts nothing. Everything between two cuts is a
piece: the calls of modules and functions that lead from one tensor to the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from quee.errors import UsageError
from quee.network.convolution import is_plain
from quee.network.products import ATTENTION, ATTENTION_VALUE, MATMULS, QUERY_KEY, linear_arguments
from quee.network.trace import SAMPLES, Call, tensors, traced

MANY = 4
"""So many blocks in a list that cannot be cut are a stage; fewer are parts of a block, such as the convolutions of Xception's."""
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
STEMS = ("stem", "patch_embed", "conv_stem", "conv1", "layer0")
"""Beginnings of the names of stems, which are no blocks."""
SUMS = frozenset((torch.add, Tensor.add, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__, Tensor.add_))
SOFTMAX = frozenset((functional.softmax, torch.softmax, Tensor.softmax))
LAYERS = frozenset((functional.linear, functional.conv2d))
"""Products that linear layers and convolutions alone may compute, because quantization replaces these."""
UNKNOWN = frozenset(
    (
        *(functional.conv1d, functional.conv3d, functional.conv_transpose1d, functional.conv_transpose2d),
        *(functional.bilinear, functional.multi_head_attention_forward, torch.einsum, torch.tensordot),
        *(torch.mm, torch.mv, torch.addmm, torch.baddbmm, torch.addbmm, torch.chain_matmul, torch.conv1d),
    )
)
"""Products that nothing quantizes."""


@dataclass(frozen=True)
class Value:
    """A tensor of the run, by its number."""

    number: int


@dataclass(frozen=True)
class Named:
    """A parameter or buffer of the network, by its name."""

    name: str


@dataclass(frozen=True)
class Samples:
    """A multiple of the number of samples."""

    times: int


@dataclass(frozen=True)
class Device:
    """The device of the state."""


@dataclass(frozen=True)
class Training:
    """Whether the network is in training mode."""


@dataclass(frozen=True)
class Step:
    """A call that can be made again: of a module, by its name, or of a function."""

    module: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    written: tuple[tuple[int, Value], ...]
    """Places among the results, and the values there."""

    def __deepcopy__(self, _: Any) -> "Step":
        return self


@dataclass(frozen=True)
class Piece:
    """The steps from one tensor to another."""

    before: Value
    steps: tuple[Step, ...]
    after: Value
    shape: tuple[int, ...]
    """Shape of the tensor after it, without the axis of samples."""
    macs: int
    """Multiply-adds per sample."""

    def run(self, model: nn.Module, x: Tensor) -> Tensor:
        """The tensor after the piece, from the one before it (n, …)."""
        values: dict[Value, Tensor] = {self.before: x}

        def fill(given: Any) -> Any:
            if isinstance(given, Value):
                return values[given]
            if isinstance(given, Named):
                owner, _, name = given.name.rpartition(".")
                return getattr(model.get_submodule(owner), name)
            if isinstance(given, Samples):
                return given.times * x.shape[0]
            if isinstance(given, Training):
                return model.training
            return x.device if isinstance(given, Device) else given

        for step in self.steps:
            function = model.get_submodule(step.module) if step.function is None else step.function
            leaves = tree_leaves(function(*replaced(step.args, fill), **replaced(step.kwargs, fill)))
            for place, value in step.written:
                values[value] = leaves[place]
        return values[self.after]


@dataclass(frozen=True)
class Chain:
    """A network cut into a stem, blocks and a head."""

    blocks: tuple[str, ...]
    """Names of the blocks' modules."""
    pieces: tuple[Piece, ...]
    """The stem, every block with what stands before it, and the head."""
    products: Mapping[str, tuple[dict[str, str], tuple[str, ...]]]
    """By module that computes products of activations: what `hand_over` takes."""
    fixed: tuple[str, ...]
    """Layers whose input does not depend on the images, such as those of position biases."""
    residuals: tuple[int, ...]
    """By block, the sums of two states."""

    def owners(self) -> dict[str, int]:
        """By name of a module or parameter, the number of the first piece that names it."""
        owners: dict[str, int] = {}
        for number, piece in enumerate(self.pieces):
            for step in piece.steps:
                given = tree_leaves((step.args, step.kwargs))
                for name in (step.module, *(leaf.name for leaf in given if isinstance(leaf, Named))):
                    owners.setdefault(name, number)
        return owners

    def __deepcopy__(self, _: Any) -> "Chain":
        return self


def replaced(given: Any, by: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists, mappings and slices with their leaves replaced."""
    if isinstance(given, slice):
        return slice(by(given.start), by(given.stop), by(given.step))
    if isinstance(given, tuple):
        return tuple(replaced(item, by) for item in given)
    if isinstance(given, list):
        return [replaced(item, by) for item in given]
    if isinstance(given, dict):
        return {key: replaced(item, by) for key, item in given.items()}
    return by(given)


def chain_of(model: nn.Module, shape: tuple[int, ...]) -> Chain:
    """The chain of a network in evaluation mode that takes images (n, *shape).

    Raises UsageError with the reason where it has none, or where it has products that nothing quantizes.
    """
    try:
        run, state = traced(model, shape)
    except (NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"its forward cannot be followed at images of {shape}: {reason}") from None
    if not isinstance(run.result, Tensor) or run.result.dim() != 2:
        raise UsageError("it does not return logits (n, classes)")
    return _Cutter(model, run, state).chain()


class _Cutter:
    def __init__(self, model: nn.Module, run: Call, state: Mapping[str, Tensor]) -> None:
        self.run = run
        self.modules = dict(model.named_modules())
        self.owned = {id(t): name for name, t in state.items()}
        self.functions = list(run.functions())
        self.calls = [call for call in run.modules() if call.name]
        named = [call.name for call in self.calls]
        self.times = {name: named.count(name) for name in set(named)}
        self.weighted = {name: sum(map(_has_weight, module.modules())) for name, module in self.modules.items()}
        everything = [self.run, *self.functions, *self.calls]
        self.made = {id(t): t for call in everything for t in tensors((call.args, call.kwargs, call.result))}
        self.numbers = {number: Value(place) for place, number in enumerate(self.made)}
        self.least = 2
        """Layers with weights in a block."""
        self._follow()

    def _follow(self) -> None:
        """Find which tensors depend on the images, and which of these are still to be read at every point of the run."""
        born = {id(self.run.args[0]): 0}
        last = dict(born)
        for call in self.functions:
            used = [id(t) for t in tensors((call.args, call.kwargs)) if id(t) in born]
            last |= dict.fromkeys(used, call.end)
            for t in tensors(call.result) if used else []:
                born.setdefault(id(t), call.end)
                last.setdefault(id(t), 0)
        last[id(self.run.result)] = self.run.end + 1
        self.derived = set(born)
        self.alive: list[set[int]] = [set() for _ in range(self.run.end + 1)]
        for number, start in born.items():
            for time in range(start, min(last[number], self.run.end + 1)):
                self.alive[time].add(number)

    def chain(self) -> Chain:
        blocks = self._blocks(self.run)
        lists = self._lists()
        self._refuse_lists(blocks, lists)
        if len(blocks) < MANY and not lists:  # networks such as VGG are lists of single layers
            self.least = 1
            blocks = self._blocks(self.run)
        if len(blocks) < 2:
            raise UsageError(self._reason(self.calls))
        opened = {self.run}
        for call in blocks:
            while (within := call.within) is not None:
                opened.add(within)
                call = within
        products = self._products()
        for call in opened:
            if call.name in products:
                raise UsageError(
                    f"{call.name or 'the network'} computes a product between its blocks; nothing quantizes it"
                )
        steps = list(self._steps(self.run, opened))
        ends = [0, *(call.end for call in steps if call.end <= blocks[0].start)]
        cuts = [max(end for end in ends if self._state(end) is not None), *(call.end for call in blocks), self.run.end]
        values = [self.run.args[0], *(self._state(cut) for cut in cuts[:-1]), self.run.result]
        pieces = []
        for index, end in enumerate(cuts):
            begin = cuts[index - 1] if index else -1
            own = [call for call in steps if (call.end > begin if call.start == begin else call.start > begin)]
            own = [call for call in own if call.end <= end]
            constant = [call for call in steps if call.end <= begin and not self._depends(call)]
            pieces.append(self._piece(values[index], [*constant, *own], values[index + 1]))
        for call in blocks:
            if [t._version for t in tensors(call.result)] != list(call.versions):
                raise UsageError(f"what comes after {call.name} changes its output in place, so no gate cuts it")
        names = tuple(call.name for call in blocks if call.name)
        return Chain(names, tuple(pieces), products, self._fixed(), tuple(map(self._residuals, blocks)))

    def _residuals(self, block: Call) -> int:
        size = tensors(block.result)[0].numel()
        sums = [call for call in block.functions() if call.function in SUMS]
        both = [call for call in sums if sum(id(t) in self.derived for t in tensors(call.args)) == 2]
        return sum(tensors(call.result)[0].numel() == size for call in both)

    def _blocks(self, within: Call, in_element: bool = False) -> list[Call]:
        """The blocks within a call: the deepest that stand in lists, or else beside others of their class."""
        calls = [call for call in within.calls if call.name]
        kinds = [type(self.modules[call.name or ""]) for call in calls]
        found: list[Call] = []
        for call, kind in zip(calls, kinds, strict=True):
            listed = self._is_listed(call)
            inner = self._blocks(call, in_element or (listed and not issubclass(kind, LISTS)))
            stands = listed or (not in_element and (within is self.run or kinds.count(kind) > 1))
            if not (stands and self._is_block(call)) or (inner and (len(inner) > 1 or inner[-1].end == call.end)):
                found += inner
            else:
                found.append(call)
        return found

    def _is_listed(self, call: Call) -> bool:
        parent = (call.name or "").rpartition(".")[0]
        return parent != "" and isinstance(self.modules[parent], LISTS)

    def _is_candidate(self, call: Call) -> bool:
        """Whether a call is of a module that could be a block."""
        name = call.name or ""
        return self.times[name] == 1 and self.weighted[name] >= self.least and not name.startswith(STEMS)

    def _is_block(self, call: Call) -> bool:
        state = self._state(call.end)
        passed = [t for t in tensors(call.result) if id(t) in self.derived]
        return self._is_candidate(call) and len(passed) == 1 and passed[0] is state

    def _state(self, time: int) -> Tensor | None:
        """The one tensor (n, …) of three or more axes that is read after a point of the run, if there is such a one."""
        if len(self.alive[time]) != 1:
            return None
        tensor = self.made[next(iter(self.alive[time]))]
        return tensor if tensor.dim() > 2 and tensor.shape[0] == SAMPLES else None

    def _stands(self, call: Call) -> bool:
        """Whether a call is of a module that could be a block and stands where blocks do."""
        return self._is_candidate(call) and (self._is_listed(call) or call.within is self.run)

    def _reason(self, calls: Sequence[Call]) -> str:
        """Why no gate can stand behind the blocks among calls."""
        for call in filter(self._stands, self.calls):
            passed = [t for t in tensors(call.result) if id(t) in self.derived]
            if len(passed) > 1:
                return f"{call.name} passes on {len(passed)} tensors, and a gate holds one, so no gate cuts it"
        stands = [call for call in calls if self._stands(call)]
        counts = [len(self.alive[call.end]) for call in stands]
        if len(counts) > 2 and 1 < counts[1] < counts[2]:
            return f"its blocks ({stands[0].name} …) read the outputs of all earlier blocks, so no gate cuts it"
        if any(count > 1 for count in counts):
            call, count = next((call, count) for call, count in zip(stands, counts, strict=True) if count > 1)
            return (
                f"behind {call.name} the network still reads {count} tensors, because connections go past this block, "
                "so no gate cuts it"
            )
        return "it has no list of blocks behind which a gate could stand"

    def _lists(self) -> dict[str, list[Call]]:
        """By the name of a list, the calls in it that could be of blocks."""
        lists: dict[str, list[Call]] = {}
        for call in self.calls:
            if self._is_listed(call) and self._is_candidate(call):
                lists.setdefault((call.name or "").rpartition(".")[0] + ".", []).append(call)
        return {name: calls for name, calls in lists.items() if len(calls) > 1}

    def _refuse_lists(self, blocks: Sequence[Call], lists: Mapping[str, list[Call]]) -> None:
        """Raises UsageError where most blocks are in lists that can be cut behind the whole list alone."""
        names = [call.name or "" for call in blocks]
        whole = [calls for of, calls in lists.items() if not any(name.startswith(of) for name in names)]
        beside = [call for call in self.calls if call.within is self.run and self._is_candidate(call)]
        whole.append([c for c in beside if not any(f"{name}.".startswith(f"{c.name}.") for name in names)])
        stages = [calls for calls in whole if len(calls) >= MANY]
        if sum(map(len, stages)) > len(blocks):
            raise UsageError(self._reason(max(stages, key=len)))

    def _products(self) -> dict[str, tuple[dict[str, str], tuple[str, ...]]]:
        """The modules that compute products of activations, and these products."""
        found: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {}
        for call in (self.run, *self.calls):
            name, names, linears = call.name or "", dict[str, str](), list[str]()
            roles = _roles(call)
            for own in call.calls:
                if own.function in MATMULS:
                    names[_free(roles.get(own, "product"), names)] = self._kind(own)
                elif own.function is ATTENTION:
                    if own.kwargs.get("is_causal") or own.kwargs.get("enable_gqa"):
                        raise UsageError(f"{name} has causal or grouped attention, which is not run")
                    names |= {_free(role, names): "attention" for role in (QUERY_KEY, ATTENTION_VALUE)}
                elif own.function in LAYERS and not self._is_plain(call, own):
                    linears.append(self._layer(name, own))
                elif own.function in UNKNOWN:
                    what = getattr(own.function, "__name__", str(own.function))
                    raise UsageError(f"{name}: nothing quantizes the {what} of a {type(self.modules[name]).__name__}")
            module, times = self.modules[name], self.times.get(name, 1)
            if _has_weight(module) and not isinstance(module, nn.Linear | nn.Conv2d):
                raise UsageError(f"{name}: nothing quantizes a {type(module).__name__}")
            if times > 1 and (names or linears or _has_weight(module)):
                raise UsageError(f"{name} runs {times} times when the network does; layers that run once are quantized")
            if names or linears:
                found[name] = (names, tuple(linears))
        return found

    def _fixed(self) -> tuple[str, ...]:
        layers = [call for call in self.calls if isinstance(self.modules[call.name or ""], (nn.Linear, nn.Conv2d))]
        return tuple(call.name or "" for call in layers if not self._depends(call))

    def _kind(self, product: Call) -> str:
        operands = [id(t) in self.derived for t in tensors((product.args, product.kwargs))]
        return "attention" if any(operands) else "float"

    def _is_plain(self, layer: Call, own: Call) -> bool:
        """Whether a layer does nothing but multiply what it is given by its weight."""
        module = self.modules[layer.name or ""]
        if isinstance(module, nn.Conv2d):
            return is_plain(module)
        x, weight, _ = linear_arguments(own.args, own.kwargs)
        alone = len(layer.calls) == 1
        given = bool(layer.args) and layer.args[0] is x
        own_weight = self.owned.get(id(weight)) == f"{layer.name}.weight"
        return alone and given and own_weight and isinstance(module, nn.Linear)

    def _layer(self, name: str, call: Call) -> str:
        """The linear layer below a module whose weight the module uses by itself, by its name there."""
        if call.function is functional.linear:
            weight = self.owned.get(id(linear_arguments(call.args, call.kwargs)[1]), "")
            layer = weight.removesuffix(".weight")
            plain = type(self.modules.get(layer)) is nn.Linear and self.modules[layer].bias is None
            if plain and layer.startswith(f"{name}.") and layer not in self.times:
                return layer.removeprefix(f"{name}.")
        raise UsageError(f"{name}: nothing quantizes a {type(self.modules[name]).__name__}")

    def _steps(self, within: Call, opened: set[Call]) -> "list[Call]":
        found: list[Call] = []
        for call in within.calls:
            found += self._steps(call, opened) if call in opened else [call]
        return found

    def _depends(self, call: Call) -> bool:
        return any(id(t) in self.derived for t in tensors(call.result))

    def _piece(self, before: Tensor, calls: Sequence[Call], after: Tensor) -> Piece:
        """The calls that lead from one tensor to another."""
        needed, kept = {id(after)}, list[Call]()
        for call in reversed(calls):
            written = {id(t) for t in tensors(call.result)}
            if written & needed:
                kept.append(call)
                needed -= written
                needed |= {id(t) for t in tensors((call.args, call.kwargs)) if id(t) not in self.owned}
        if odd := needed - {id(before)}:
            shape = ["n" if size == SAMPLES else str(size) for size in self.made[min(odd)].shape]
            raise UsageError(
                f"its forward reads a tensor ({', '.join(shape)}) that is no parameter and that nothing in it makes"
            )
        steps = tuple(self._step(call) for call in reversed(kept))
        macs = sum(_macs(own) for call in kept for own in ([call] if call.name is None else call.functions()))
        return Piece(self.numbers[id(before)], steps, self.numbers[id(after)], tuple(after.shape[1:]), macs)

    def _step(self, call: Call) -> Step:
        places = enumerate(tree_leaves(call.result))
        written = tuple((place, self.numbers[id(t)]) for place, t in places if isinstance(t, Tensor))
        args, kwargs = replaced(call.args, self._referred), replaced(call.kwargs, self._referred)
        if call.function is functional.dropout and "training" in kwargs:
            kwargs["training"] = Training()
        return Step(call.name or "", call.function, args, kwargs, written)

    def _referred(self, given: Any) -> Any:
        if isinstance(given, Tensor):
            name = self.owned.get(id(given))
            return self.numbers[id(given)] if name is None else Named(name)
        if type(given) is int and given and given % SAMPLES == 0:
            return Samples(given // SAMPLES)
        return Device() if isinstance(given, torch.device) else given


def _macs(call: Call) -> int:
    """Multiply-adds per sample of a function; 0 for functions that are no products."""
    if call.function in LAYERS:
        _, weight, _ = linear_arguments(call.args, call.kwargs)
        return tensors(call.result)[0].numel() // SAMPLES * weight[0].numel()
    given = tensors((call.args, call.kwargs))
    if call.function in MATMULS:
        return tensors(call.result)[0].numel() // SAMPLES * given[0].shape[-1]
    if call.function is ATTENTION:
        return 2 * given[0].numel() // SAMPLES * given[1].shape[-2]
    return 0


def _has_weight(module: nn.Module) -> bool:
    return any(value.dim() > 1 for key, value in module.named_parameters(recurse=False) if "weight" in key)


def _roles(owner: Call) -> dict[Call, str]:
    """The products before and after every softmax within a call."""
    roles: dict[Call, str] = {}
    product, expected = None, False
    for call in owner.functions():
        if call.function in MATMULS and call.within is owner:
            if expected:
                roles[call], expected = ATTENTION_VALUE, False
            product = call
        elif call.function in SOFTMAX and product is not None:
            roles.setdefault(product, QUERY_KEY)
            expected = True
    return roles


def _free(role: str, taken: Mapping[str, str]) -> str:
    """A name that ends with the role and is not taken."""
    return role if role not in taken else f"part{len(taken)}_{role}"
