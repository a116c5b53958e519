"""Exit heads: a classifier on the state at every gate before the last; the last gate has the backbone's own head.

A head sees the pooled state, for a ViT its class token and mean patch token. Each part is normalised to zero mean and
unit variance; one linear layer follows. After quantized segments the layer is executed and counted at w8a8. The
projection to the compressed embedding, a part of the state features, is always executed at w8a8. The backbone is not
changed. (JEI-DNN puts Linear(D, classes) on the class token after the backbone's shared final LayerNorm; `pooling: cls`
is closest to it.)
"""

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quee._logistic import TOLERANCE, fit_logistic
from quee.cost import bitflops
from quee.errors import QueeError
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone, draw_prefixes
from quee.precision import Precision
from quee.quantization.layers import QuantizedLinear
from quee.quantization.weights import quantize_linear
from quee.settings.exits import Exits
from quee.work.io import read_metadata, read_tensors, write_tensors
from quee.work.progress import progress

HEAD_PRECISION = Precision("w8a8")


def behind(settings: Exits, precisions: Sequence[Precision]) -> tuple[Precision, ...]:
    """Precisions of the segments before the states that heads are fitted on; `precisions` are the tree's."""
    return tuple(precisions) if settings.prefixes == "mixed" else (Precision("fp32"),)


def seen(model: SegmentedBackbone, gate: int, state: Tensor, pooling: str) -> Tensor:
    """Input of a head at a gate (n, parts · width): each part of the pooled state at zero mean and unit variance."""
    width = model.width(gate)
    parts = model.pool(state, gate, pooling).split(width, dim=1)
    return torch.cat([functional.layer_norm(part, (width,)) for part in parts], dim=1)


@dataclass
class ExitHead:
    """The head of one gate: linear in floating point and at w8a8, and the projection to the compressed embedding."""

    linear: nn.Linear | None
    """None at the last gate."""
    quantized: QuantizedLinear | None
    projection: QuantizedLinear | None
    """Whitened principal components of the normalised pooled state; None without an embedding."""

    def embed(self, pooled: Tensor) -> np.ndarray:
        """Normalised pooled states (n, D) to the compressed embedding (n, embedding), float32."""
        if self.projection is None:
            return np.zeros((len(pooled), 0), np.float32)
        found: np.ndarray = self.projection(pooled).numpy()
        return found


class ExitHeads:
    """The exit heads of all gates, including gate L, whose logits are the backbone's own."""

    def __init__(self, pooling: str, heads: Sequence[ExitHead]) -> None:
        self.pooling, self.heads = pooling, list(heads)

    @property
    def embedding(self) -> int:
        projection = self.heads[0].projection
        return 0 if projection is None else len(projection.weight)

    def pooled(self, backbone: MultiPrecisionBackbone, gate: int, state: Tensor) -> Tensor:
        """Normalised pooled state (n, D) at a gate."""
        return seen(backbone.first, gate, state, self.pooling)

    def logits(
        self, backbone: MultiPrecisionBackbone, gate: int, precision: Precision, state: Tensor, pooled: Tensor
    ) -> Tensor:
        """Logits (n, classes) at a gate after a last segment of `precision`."""
        head = self.heads[gate - 1]
        if head.linear is None or head.quantized is None:
            return backbone.classify(precision, state)
        return backbone.padded(head.linear, pooled) if precision.is_float else head.quantized(pooled)

    def head_bitflops(self, gate: int, precision: Precision) -> float:
        """BitFLOPs of the linear layer at a gate before the last."""
        linear = self.heads[gate - 1].linear
        assert linear is not None
        bits = (precision.head.weight_bits, precision.head.activation_bits)
        return bitflops(linear.in_features * linear.out_features, bits)

    def embedding_bitflops(self, gate: int) -> float:
        """BitFLOPs of the projection to the compressed embedding."""
        projection = self.heads[gate - 1].projection
        bits = (HEAD_PRECISION.weight_bits, HEAD_PRECISION.activation_bits)
        return 0.0 if projection is None else bitflops(projection.weight.numel(), bits)

    def save(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        for gate, head in enumerate(self.heads, 1):
            for kind in ("linear", "quantized", "projection"):
                module: nn.Module | None = getattr(head, kind)
                for name, value in module.state_dict().items() if module is not None else ():
                    arrays[f"gate.{gate}.{kind}.{name}"] = value.numpy()
        write_tensors(path, arrays, {"gates": str(len(self.heads)), "pooling": self.pooling})

    @classmethod
    def load(cls, path: Path) -> "ExitHeads":
        state = {name: torch.from_numpy(value) for name, value in read_tensors(path).items()}
        facts = read_metadata(path)

        def layer(gate: int, kind: str) -> nn.Linear | QuantizedLinear | None:
            own = {
                n.rpartition(".")[2] if kind == "linear" else n.partition(f".{kind}.")[2]: v
                for n, v in state.items()
                if n.startswith(f"gate.{gate}.{kind}.")
            }
            if not own:
                return None
            outputs, inputs = own["weight"].shape
            module: nn.Linear | QuantizedLinear = nn.Linear(inputs, outputs).requires_grad_(False)
            if kind != "linear":
                module = QuantizedLinear(module, HEAD_PRECISION)  # type: ignore[arg-type]
            module.load_state_dict(own)
            if isinstance(module, QuantizedLinear):
                module.finalize()
            return module

        gates = range(1, int(facts["gates"]) + 1)
        kinds = ("linear", "quantized", "projection")
        return cls(facts["pooling"], [ExitHead(*(layer(gate, kind) for kind in kinds)) for gate in gates])  # type: ignore[arg-type]


def fit_exits(
    backbone: MultiPrecisionBackbone,
    precisions: Sequence[Precision],
    draws: Iterable[tuple[Tensor, Tensor]],
    settings: Exits,
    total: int,
    left_out: Collection[int] = (),
) -> tuple[ExitHeads, list[dict[str, float]]]:
    """Fit the heads to states whose prefix precisions are drawn uniformly per sample.

    `draws` gives batches of (images, labels); `total` is their number. Each head is the multinomial logistic regression
    that minimises mean cross-entropy plus `settings.weight_decay` / (2 n) · Σ weight² over all n states. Returns the
    heads and their history: gate, iteration, loss (mean cross-entropy in nats). Raises QueeError where a class that is
    not `left_out` has no sample.
    """
    random = np.random.default_rng(settings.seed)
    pooled: list[list[Tensor]] = [[] for _ in range(backbone.segments)]
    labels: list[Tensor] = []
    helper = ExitHeads(settings.pooling, [])
    with progress("states for the exit heads", total) as bar:
        for images, y in draws:
            labels.append(y)
            for gate, state, _ in draw_prefixes(backbone, precisions, images, random):
                pooled[gate - 1].append(helper.pooled(backbone, gate, state))
            bar.advance()
    y = torch.cat(labels)
    components = min(settings.embedding, *(part.shape[1] for (part, *_) in pooled))
    absent = sorted(set(range(backbone.classes)) - set(y.unique().tolist()) - set(left_out))
    if absent:
        raise QueeError(f"no training sample of class {absent[0]} for the exit heads")
    heads, history = [], []
    with progress("fitting exit heads", backbone.segments) as bar:
        for gate in range(1, backbone.segments + 1):
            x = torch.cat(pooled[gate - 1])
            pooled[gate - 1].clear()
            projection = _principal(x, components, settings.seed, gate) if components else None
            if gate == backbone.segments:
                heads.append(ExitHead(None, None, projection))
                continue

            def said(iteration: int, loss: float, gate: int = gate) -> None:
                bar.advance(0, f"gate {gate} iteration {iteration} loss {loss:.4f}")

            linear, losses = _fit_linear(x, y, backbone.classes, settings.weight_decay, said, f"exit head {gate}")
            heads.append(ExitHead(linear, quantize_linear(linear, x, HEAD_PRECISION, f"exit head {gate}"), projection))
            history += [{"gate": gate, "iteration": step, "loss": loss} for step, loss in enumerate(losses)]
            bar.advance()
    return ExitHeads(settings.pooling, heads), history


def _principal(x: Tensor, components: int, seed: int, gate: int) -> QuantizedLinear:
    """Whitened principal directions of x (n, D) as a layer (n, D) → (n, components); at most n components for few rows."""
    from sklearn.decomposition import PCA  # importing it takes a second, and most stages do not need it

    components = min(components, *x.shape)
    pca = PCA(components, svd_solver="covariance_eigh", random_state=seed).fit(x.double().numpy())
    directions = pca.components_ / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))[:, None]
    linear = nn.Linear(x.shape[1], components).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(directions))
    linear.bias.copy_(torch.from_numpy(-directions @ pca.mean_))
    return quantize_linear(linear, x, HEAD_PRECISION, f"embedding {gate}")


def _fit_linear(
    x: Tensor, y: Tensor, classes: int, weight_decay: float, said: Callable[[int, float], None], name: str
) -> tuple[nn.Linear, list[float]]:
    """The linear layer that minimises the regularised loss on rows x (n, D) of classes y (n,), and the loss by iteration."""
    found = fit_logistic(x.numpy(), y.numpy(), classes, weight_decay / len(x), said)
    if found.gradient > TOLERANCE:
        print(
            f"{name}: stopped before the optimum, after {len(found.losses) - 1} iterations at a gradient of "
            f"{found.gradient:.1e}; {TOLERANCE:.0e} is wanted; a larger exits.weight_decay helps",
            file=sys.stderr,
        )
    linear = nn.Linear(x.shape[1], classes).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(found.weight))
    linear.bias.copy_(torch.from_numpy(found.bias))
    return linear, found.losses
