"""Exit heads and the projection to the compressed embedding: execution, cost, and their file.

The projection reads the plain pooling over all positions, whatever the heads read, and is always executed at w8a8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quee.cost import Product, bitflops
from quee.errors import IntegrityError
from quee.exits.seen import seen_part
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.network.pooling import Part
from quee.precision import Precision
from quee.quantization.layers import QuantizedLinear
from quee.work.io import read_metadata, read_tensors, write_tensors

HEAD_PRECISION = Precision("w8a8")
ANY = "any"
"""Name of a classifier that serves every precision of the segment before the gate."""
WITHOUT_CLASS_TOKEN = {"cls": "mean", "cls_mean": "mean_max"}
"""What files of before named poolings of backbones without a class token."""


class Seen:
    """States at a gate as heads and embedding read them; a part of a pooling that both read is computed once."""

    def __init__(self, model: SegmentedBackbone, gate: int, state: Tensor) -> None:
        self.model, self.gate, self.state = model, gate, state
        self._parts: dict[Part, Tensor] = {}

    def __call__(self, pooling: str) -> Tensor:
        """(n, vectors · width): each part of the pooled state at zero mean and unit variance."""
        parts = self.model.pooling_parts(pooling)
        for part in parts:
            if part not in self._parts:
                self._parts[part] = seen_part(self.model, self.gate, self.state, part)
        return torch.cat([self._parts[part] for part in parts], dim=1)


class Standardised(nn.Module):
    """Inputs (n, D) at the mean and scale of the training states, in floating point."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


@dataclass
class Classifier:
    """The layers from a normalised pooled state (n, D) to logits (n, classes), in floating point and at w8a8.

    Either is one linear layer, or `Standardised`, a linear layer, ReLU and a linear layer.
    """

    floating: nn.Sequential
    quantized: nn.Sequential

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, hidden units if there are any, and outputs."""
        return sizes(self.floating)


def sizes(layers: nn.Sequential) -> tuple[int, ...]:
    """Inputs, hidden units if there are any, and outputs of a classifier's layers."""
    shapes = [module.weight.shape for module in layers if isinstance(module, nn.Linear | QuantizedLinear)]
    return (shapes[0][1], *(shape[0] for shape in shapes))


@dataclass
class ExitHead:
    """The head of one gate, and the projection to the compressed embedding there."""

    pooling: str
    """Pooling that the classifiers read; empty at the last gate."""
    classifiers: Mapping[str, Classifier]
    """By precision of the segment before the gate, or one for `ANY`; empty at the last gate."""
    projection: QuantizedLinear | None
    """Whitened principal components of the normalised pooled state; None without an embedding."""

    def classifier(self, precision: Precision) -> Classifier | None:
        """The classifier behind a segment of `precision`; None at the last gate.

        Behind a precision that has no classifier of its own, it is that of the highest precision that has one.
        """
        if not self.classifiers:
            return None
        found = self.classifiers.get(str(precision), self.classifiers.get(ANY))
        return found if found is not None else self.classifiers[str(max(map(Precision, self.classifiers)))]


def head_products(gate: int, widths: Sequence[int]) -> list[Product]:
    """The matrix products of a classifier with these inputs, hidden units and outputs."""
    names = ("output",) if len(widths) == 2 else ("hidden", "output")
    pairs = zip(names, widths[:-1], widths[1:], strict=True)
    return [Product(f"exit {gate}.{name}", gate, "weight", a * b, a, "head") for name, a, b in pairs]


class ExitHeads:
    """The exit heads of all gates, including gate L, whose logits are the backbone's own."""

    def __init__(self, heads: Sequence[ExitHead]) -> None:
        self.heads = list(heads)

    def to(self, device: torch.device) -> "ExitHeads":
        """Moves the heads in place."""
        for head in self.heads:
            for module in (head.projection, *(m for c in head.classifiers.values() for m in (c.floating, c.quantized))):
                if module is not None:
                    module.to(device)
        return self

    @property
    def embedding(self) -> int:
        projection = self.heads[0].projection
        return 0 if projection is None else len(projection.weight)

    def seen(self, backbone: MultiPrecisionBackbone, gate: int, state: Tensor) -> Seen:
        """States at a gate, for `logits` and `embed`."""
        return Seen(backbone.first, gate, state)

    def logits(self, backbone: MultiPrecisionBackbone, precision: Precision, seen: Seen) -> Tensor:
        """Logits (n, classes) of states at a gate after a last segment of `precision`."""
        head = self.heads[seen.gate - 1]
        classifier = head.classifier(precision)
        if classifier is None:
            return backbone.classify(precision, seen.state)
        pooled = seen(head.pooling)
        if precision.is_float:
            return backbone.padded(classifier.floating, pooled)
        found: Tensor = classifier.quantized(pooled)
        return found

    def embed(self, seen: Seen) -> np.ndarray:
        """The compressed embedding (n, embedding) of states at a gate, float32."""
        projection = self.heads[seen.gate - 1].projection
        if projection is None:
            return np.zeros((len(seen.state), 0), np.float32)
        found: np.ndarray = projection(seen(seen.model.global_pooling)).cpu().numpy()
        return found

    def head_bitflops(self, gate: int, precision: Precision) -> float:
        """BitFLOPs of the classifier at a gate before the last, after a last segment of `precision`."""
        classifier = self.heads[gate - 1].classifier(precision)
        assert classifier is not None
        return sum(bitflops(p.macs, p.bits(precision.head)) for p in head_products(gate, classifier.sizes))

    def embedding_bitflops(self, gate: int) -> float:
        """BitFLOPs of the projection to the compressed embedding."""
        projection = self.heads[gate - 1].projection
        bits = (HEAD_PRECISION.weight_bits, HEAD_PRECISION.activation_bits)
        return 0.0 if projection is None else bitflops(projection.weight.numel(), bits)

    def save(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        for gate, head in enumerate(self.heads, 1):
            modules: dict[str, nn.Module | None] = {"projection": head.projection}
            for name, classifier in head.classifiers.items():
                modules |= {f"{name}.float": classifier.floating, f"{name}.quantized": classifier.quantized}
            for name, module in modules.items():
                for key, value in module.state_dict().items() if module is not None else ():
                    arrays[f"gate.{gate}.{name}.{key}"] = value.numpy()
        poolings = ",".join(head.pooling for head in self.heads)
        write_tensors(path, arrays, {"gates": str(len(self.heads)), "poolings": poolings})

    @classmethod
    def load(cls, path: Path, model: SegmentedBackbone) -> "ExitHeads":
        """Read the heads of a backbone, also from files of before heads were chosen by measurement.

        Raises IntegrityError where the file is not one of heads, and UsageError for a pooling that the backbone lacks.
        """
        arrays, facts = read_tensors(path), read_metadata(path)
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        if not facts.get("gates", "").isdecimal():
            raise IntegrityError(f"{path}: not a file of exit heads")
        gates = int(facts["gates"])
        if "pooling" in facts:
            state = {_renamed(name): value for name, value in state.items()}
            own = facts["pooling"] if model.has_class_token else WITHOUT_CLASS_TOKEN.get(facts["pooling"], "")
            poolings = [own] * (gates - 1) + [""]
        else:
            poolings = facts.get("poolings", "").split(",")
        if len(poolings) != gates:
            raise IntegrityError(f"{path}: {len(poolings)} poolings of {gates} gates")
        try:
            return cls([_head(state, gate, pooling) for gate, pooling in enumerate(poolings, 1)])
        except (IntegrityError, KeyError, RuntimeError, ValueError) as error:
            what = error if isinstance(error, IntegrityError) else "the tensors of a layer do not fit together"
            raise IntegrityError(f"{path}: {what}") from None


def _head(state: Mapping[str, Tensor], gate: int, pooling: str) -> ExitHead:
    """The head of one gate from the tensors of a file."""
    prefix = f"gate.{gate}."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    names = sorted({name.partition(".")[0] for name in own} - {"projection"})
    classifiers = {
        name: Classifier(_layers(own, f"{name}.float."), _layers(own, f"{name}.quantized.")) for name in names
    }
    projection = {key.removeprefix("projection."): value for key, value in own.items() if key.startswith("projection.")}
    return ExitHead(pooling, classifiers, _quantized(projection) if projection else None)


def _renamed(name: str) -> str:
    """A tensor's name in a file with one linear layer per gate."""
    for old, new in ((".linear.", f".{ANY}.float.0."), (".quantized.", f".{ANY}.quantized.0.")):
        name = name.replace(old, new, 1)
    return name


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> nn.Sequential:
    """The layers whose tensors' names begin with the prefix and a digit, in the order of digits; a digit left out is a ReLU."""
    own: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            digit, _, key = name.removeprefix(prefix).partition(".")
            own.setdefault(digit, {})[key] = value
    if not own or not all(digit in "0123" for digit in own):
        raise IntegrityError(f"no layers, or unknown layers, of {prefix}")
    layers = nn.Sequential(*(_layer(own.get(str(number), {})) for number in range(int(max(own)) + 1)))
    width = -1
    for layer in layers:
        if isinstance(layer, Standardised | nn.Linear | QuantizedLinear):
            takes, gives = (layer.mean.shape * 2) if isinstance(layer, Standardised) else reversed(layer.weight.shape)
            if width not in (-1, takes):
                raise IntegrityError(f"{prefix} has a layer of {takes} inputs after {width} outputs")
            width = gives
    return layers


def _layer(own: dict[str, Tensor]) -> nn.Module:
    if not own:
        return nn.ReLU()
    if "weight_scale" in own:
        return _quantized(own)
    if "mean" in own:
        layer: nn.Module = Standardised(len(own["mean"]))
    else:
        layer = _linear(own)
    layer.load_state_dict(own)
    return layer


def _linear(own: dict[str, Tensor]) -> nn.Linear:
    """An empty layer for the weights (outputs, inputs)."""
    outputs, inputs = own["weight"].shape
    return nn.Linear(inputs, outputs).requires_grad_(False)


def _quantized(own: dict[str, Tensor]) -> QuantizedLinear:
    quantized = QuantizedLinear(_linear(own), HEAD_PRECISION)
    quantized.load_state_dict(own)
    quantized.finalize()
    return quantized
