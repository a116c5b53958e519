"""Execution of the predictors h_j: at each gate a small network gives error probabilities from the features so far.

Inputs are the state features at the gates visited, side by side, and the prefix's precisions one-hot. Outputs are
suffixes, "exit here" first, through a sigmoid. Products are of integers (w8a8) and exact in float32, so that the bits
depend neither on the batch nor on the order of summation; all other operations round once per element. Simulation and
runtime both execute this implementation, without PyTorch. `quee.predictors` fits the networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from quee.cost import FLOAT_BITS, bitflops
from quee.paths import PathTree
from quee.precision import Precision
from quee.work.lookup import looked_up

PRECISION = Precision("w8a8")
CLIP = 8.0
"""Standardised inputs are clipped to ± this value."""
FINEST = 2.0**-25
"""Probabilities nearer to 0 or 1 are taken for this near; it is half the distance of float32's last number below 1."""
EXACT = 2.0**24
"""Integers up to here are exact in float32."""


def prefixes(tree: PathTree, gate: int) -> np.ndarray:
    """The one-hot precisions of the prefix of every node at a gate: (nodes, gate · B), float32."""
    lineages = np.array([tree.lineage(int(node)) for node in tree.nodes_at(gate)])
    return np.eye(len(tree.precisions), dtype=np.float32)[tree.choice[lineages]].reshape(len(lineages), -1)


def views(tree: PathTree, gate: int, features: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
    """State features (S, N, F) to the features so far at nodes of a gate, by default all: (S, nodes, gate · F)."""
    nodes = tree.nodes_at(gate) if nodes is None else nodes
    lineages = np.array([tree.lineage(int(node)) for node in nodes], np.int64).reshape(len(nodes), gate)
    return features[:, lineages].reshape(len(features), len(lineages), -1)


def gate_inputs(tree: PathTree, gate: int, features: np.ndarray, some: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Predictor inputs (S, nodes, D) from cached features (S, N, F): features of the way, then the prefix.

    `some` selects among the gate's nodes.
    """
    seen, prefix = views(tree, gate, features, tree.nodes_at(gate)[some]), prefixes(tree, gate)[some]
    return np.concatenate([seen, np.broadcast_to(prefix, (len(features), *prefix.shape))], axis=2)


class Layer:
    """A linear layer of integers: inputs are rounded to a grid, multiplied exactly, and rescaled."""

    def __init__(
        self, weight: np.ndarray, weight_scale: np.ndarray, bias: np.ndarray, scale: np.ndarray, zero_point: np.ndarray
    ) -> None:
        """`weight` (out, in) int8; `weight_scale`, `bias` (out,) and `scale` () float32; `zero_point` () int32."""
        self.weight, self.weight_scale, self.bias = weight, weight_scale, bias
        self.scale, self.zero_point = scale, zero_point
        self._step = np.float32(scale)
        self.low = np.float32(-int(zero_point))
        self.high = np.float32(2**PRECISION.activation_bits - 1 - int(zero_point))
        self._out = (self._step * weight_scale).astype(np.float32)
        largest = np.abs(weight.astype(np.int64)).sum(axis=1).max(initial=0) * float(max(-self.low, self.high))
        kind = np.float32 if largest <= EXACT else np.float64  # double precision is exact for any practical width
        self._transposed = np.ascontiguousarray(weight.T, kind)  # (in, out)

    def grid(self, clip: float | None) -> tuple[np.float32, np.float32]:
        """Least and largest integer of inputs clipped to ± `clip`; with None, of inputs of at least 0."""
        if clip is None:
            return max(self.low, np.float32(0)), self.high
        end = np.rint(np.float32(clip) / self._step)  # rounding keeps the order of values
        return max(self.low, -end), min(self.high, end)

    def integers(self, x: np.ndarray, limits: tuple[np.float32, np.float32]) -> np.ndarray:
        """Integers of inputs (…, in), float32, within limits."""
        x = x / self._step
        np.rint(x, out=x)
        np.maximum(x, limits[0], out=x)
        np.minimum(x, limits[1], out=x)
        return x

    def product(self, integers: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """Exact sums (…, out) for integers (…, in), or the share of some columns in them."""
        weight = self._transposed[columns]
        return integers.astype(weight.dtype, copy=False) @ weight

    def rescaled(self, sums: np.ndarray) -> np.ndarray:
        """Outputs (…, out), float32, from sums of integer products."""
        found = sums.astype(np.float32)
        found *= self._out
        found += self.bias
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by the names of `quee.quantization.QuantizedLinear`."""
        return {
            "bias": self.bias,
            "input.scale": self.scale,
            "input.zero_point": self.zero_point,
            "weight": self.weight,
            "weight_scale": self.weight_scale,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Layer":
        return cls(*(arrays[name] for name in ("weight", "weight_scale", "bias", "input.scale", "input.zero_point")))


Read = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps views (n, D - p) and rows (n,) of known prefixes to units (n, U) and outputs (n, suffixes), float32."""


def certainty(probability: np.ndarray) -> np.ndarray:
    """The logit of largest probabilities (…,), float32. Between the ends of float32 it ranks exactly as they do."""
    p = np.minimum(np.maximum(probability.astype(np.float64), FINEST), 1 - FINEST)
    found: np.ndarray = np.log(p / (1 - p)).astype(np.float32)
    return found


@dataclass(frozen=True)
class Skip:
    """A way past the hidden layer: every output also has a multiple of the logit of the gate's own largest probability.

    That logit tells an error better than most features, and a predictor that starts from it need only learn the rest.
    """

    column: int
    """The input with the largest probability."""
    weight: np.ndarray
    """(outputs,) float32."""


@dataclass
class Network:
    """Standardisation, one hidden layer of rectified units, a linear output, and the skip if there is one."""

    mean: np.ndarray
    """(D,), float64"""
    scale: np.ndarray
    first: Layer
    """(…, D) to (…, H)."""
    last: Layer
    """(…, H) to (…, outputs)."""
    skip: Skip | None = None
    """None in networks of before."""

    @property
    def units(self) -> int:
        """Number of values U that the outputs are linear in: hidden units, and what skips them."""
        return len(self.first.weight) + (self.skip is not None)

    def hidden(self, x: np.ndarray) -> np.ndarray:
        """(…, D) to (…, U), float32."""
        z = ((x - self.mean) / self.scale).astype(np.float32)
        first = self.first
        found = first.rescaled(first.product(first.integers(z, first.grid(CLIP))))
        return self._units(np.maximum(found, np.float32(0)), x)

    def _units(self, hidden: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Hidden units (…, H) and inputs (…, at least the column of the skip) to (…, U)."""
        if self.skip is None:
            return hidden
        return np.concatenate([hidden, certainty(x[..., self.skip.column])[..., None]], axis=-1)

    def outputs(self, units: np.ndarray) -> np.ndarray:
        """Logits (…, outputs), float32, of units (…, U)."""
        last = self.last
        if self.skip is None:
            return last.rescaled(last.product(last.integers(units, last.grid(None))))
        found = last.rescaled(last.product(last.integers(units[..., :-1], last.grid(None))))
        found += units[..., -1:] * self.skip.weight
        return found

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Logits (…, outputs), float32."""
        return self.outputs(self.hidden(x))

    def reader(self, known: np.ndarray) -> Read:
        """The network for views whose prefix is one of the `known` prefixes (P, p), float32.

        A prefix adds the same term to the first product of all its samples, so the term is computed once. The number of
        NumPy calls is small, because calls take most of the time for few samples.
        """
        before = len(self.mean) - known.shape[1]
        first, limits = self.first, self.first.grid(CLIP)
        z = ((known - self.mean[before:]) / self.scale[before:]).astype(np.float32)
        added = first.product(first.integers(z, limits), slice(before, None))  # (P, H)
        mean, scale, seen = self.mean[:before], self.scale[:before], slice(0, before)

        def read(view: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            z = view - mean
            z /= scale
            sums = first.product(first.integers(z.astype(np.float32), limits), seen)
            sums += looked_up(added, rows)
            hidden = first.rescaled(sums)
            np.maximum(hidden, np.float32(0), out=hidden)
            units = self._units(hidden, view)
            return units, self.outputs(units)

        return read

    @property
    def bitflops(self) -> float:
        """Both layers at w8a8, and the skip's products in floating point."""
        products = self.first.weight.size + self.last.weight.size
        skipped = 0 if self.skip is None else self.skip.weight.size
        own = bitflops(products, (PRECISION.weight_bits, PRECISION.activation_bits))
        return own + bitflops(skipped, (FLOAT_BITS, FLOAT_BITS))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        found = {f"{prefix}.mean": self.mean, f"{prefix}.scale": self.scale}
        if self.skip is not None:
            found |= {f"{prefix}.skip.column": np.array(self.skip.column), f"{prefix}.skip.weight": self.skip.weight}
        for name, layer in (("first", self.first), ("last", self.last)):
            found |= {f"{prefix}.{name}.{key}": value for key, value in layer.arrays().items()}
        return found

    @classmethod
    def from_arrays(cls, prefix: str, arrays: dict[str, np.ndarray]) -> "Network":
        def layer(name: str) -> Layer:
            start = f"{prefix}.{name}."
            return Layer.from_arrays({key.removeprefix(start): v for key, v in arrays.items() if key.startswith(start)})

        skip = None
        if (column := arrays.get(f"{prefix}.skip.column")) is not None:
            skip = Skip(int(column), arrays[f"{prefix}.skip.weight"])
        return cls(arrays[f"{prefix}.mean"], arrays[f"{prefix}.scale"], layer("first"), layer("last"), skip)


class Predictors:
    """One network per gate before the last, by gate: `networks[gate - 1]`."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = list(networks)

    def predict(self, gate: int, inputs: np.ndarray) -> np.ndarray:
        """Inputs (…, D) to error probabilities (…, suffixes)."""
        return logistic(self.networks[gate - 1](inputs))

    def reader(self, gate: int, known: np.ndarray) -> Read:
        """`Network.reader` of a gate, with error probabilities for outputs."""
        read = self.networks[gate - 1].reader(known)

        def predicted(view: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            hidden, logits = read(view, rows)
            return hidden, logistic(logits)

        return predicted

    def bitflops(self, gate: int) -> float:
        return self.networks[gate - 1].bitflops

    def arrays(self) -> dict[str, np.ndarray]:
        return {k: v for gate, net in enumerate(self.networks, 1) for k, v in net.arrays(f"gate.{gate}").items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Predictors":
        gates = sorted({int(name.split(".")[1]) for name in arrays})
        return cls([Network.from_arrays(f"gate.{gate}", arrays) for gate in gates])


def logistic(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) of logits of any shape; deciding needs no SciPy."""
    with np.errstate(over="ignore"):  # 1 / inf is the 0 that is meant
        found = np.exp(-z)
    found += 1
    return np.reciprocal(found, out=found)


def rows_of(values: np.ndarray) -> np.ndarray:
    """(S, nodes, D) to (S·nodes, D)."""
    return values.reshape(-1, values.shape[-1])
