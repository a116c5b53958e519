"""Exit heads: a classifier on the state at every gate before the last, where the backbone's own head stands.

A head sees the pooled state: class token and mean patch token, each normalised to zero mean and unit variance, then
one linear layer, executed and counted at w8a8 behind quantized segments. The backbone stays as it is. (JEI-DNN puts
Linear(D, classes) on the class token behind the backbone's shared final LayerNorm; `pooling: cls` is closest to it.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from quee.cost import FLOAT_BITS, bitflops
from quee.errors import QueeError
from quee.execution import MultiPrecisionBackbone, draw_prefixes, padded
from quee.experiment import Exits
from quee.io import read_tensors, write_tensors
from quee.precision import Precision
from quee.progress import progress
from quee.quantization import AffineQuantizer, QuantizedLinear, quantize_weight
from quee.quantization.search import search_range

HEAD_PRECISION = Precision("w8a8")


def normalised(pooled: Tensor, parts: int) -> Tensor:
    """Each of the equal parts of a pooled state (n, parts·dim) at zero mean and unit variance."""
    dim = pooled.shape[1] // parts
    return torch.cat([functional.layer_norm(part, (dim,)) for part in pooled.split(dim, dim=1)], dim=1)


@dataclass
class ExitHead:
    """The head of one gate: linear in floating point and at w8a8, and the projection of the compressed embedding."""

    linear: nn.Linear | None
    """None at the last gate."""
    quantized: QuantizedLinear | None
    mean: np.ndarray
    """(D,) of the normalised pooled states."""
    components: np.ndarray
    """(embedding, D), scaled so that each component has unit variance."""

    def embed(self, pooled: np.ndarray) -> np.ndarray:
        """Normalised pooled states (n, D) to the compressed embedding (n, embedding)."""
        return (pooled.astype(np.float64) - self.mean) @ self.components.astype(np.float64).T


class ExitHeads:
    """The exit heads of all gates, gate L included (whose logits are the backbone's own)."""

    def __init__(self, pooling: str, heads: Sequence[ExitHead]) -> None:
        self.pooling, self.heads = pooling, list(heads)

    @property
    def parts(self) -> int:
        return 1 if self.pooling == "cls" else 2

    @property
    def embedding(self) -> int:
        return len(self.heads[0].components)

    def pooled(self, backbone: MultiPrecisionBackbone, state: Tensor) -> Tensor:
        """Normalised pooled state (n, D)."""
        return normalised(next(iter(backbone.models.values())).pool(state, self.pooling), self.parts)

    def logits(
        self, backbone: MultiPrecisionBackbone, gate: int, precision: Precision, state: Tensor, pooled: Tensor
    ) -> Tensor:
        """Logits (n, classes) at a gate behind a last segment of `precision`."""
        head = self.heads[gate - 1]
        if head.linear is None or head.quantized is None:
            return backbone.classify(precision, state)
        return padded(head.linear, pooled) if precision.is_float else head.quantized(pooled)

    def head_bitflops(self, gate: int, precision: Precision) -> float:
        """BitFLOPs of the linear layer at a gate before the last."""
        linear = self.heads[gate - 1].linear
        assert linear is not None
        bits = (precision.head.weight_bits, precision.head.activation_bits)
        return bitflops(linear.in_features * linear.out_features, bits)

    def embedding_bitflops(self, gate: int) -> float:
        """BitFLOPs of the projection to the compressed embedding, in floating point."""
        return bitflops(self.heads[gate - 1].components.size, (FLOAT_BITS, FLOAT_BITS))

    def save(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        for gate, head in enumerate(self.heads, 1):
            arrays[f"gate.{gate}.mean"], arrays[f"gate.{gate}.components"] = head.mean, head.components
            if head.linear is not None and head.quantized is not None:
                for kind, module in (("linear", head.linear), ("quantized", head.quantized)):
                    for name, value in module.state_dict().items():
                        arrays[f"gate.{gate}.{kind}.{name}"] = value.numpy()
        write_tensors(path, arrays, {"pooling": self.pooling})

    @classmethod
    def load(cls, path: Path) -> "ExitHeads":
        arrays = read_tensors(path)
        gates = max(int(name.split(".")[1]) for name in arrays)
        heads, width = [], 1
        for gate in range(1, gates + 1):
            own = {n.removeprefix(f"gate.{gate}."): v for n, v in arrays.items() if n.startswith(f"gate.{gate}.")}
            linear = quantized = None
            if "linear.weight" in own:
                classes, inputs = own["linear.weight"].shape
                linear = nn.Linear(inputs, classes).requires_grad_(False)
                quantized = QuantizedLinear(linear, HEAD_PRECISION)
                for kind, module in (("linear", linear), ("quantized", quantized)):
                    state = {n.removeprefix(f"{kind}."): v for n, v in own.items() if n.startswith(f"{kind}.")}
                    module.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()})
                quantized.finalize()
            heads.append(ExitHead(linear, quantized, own["mean"], own["components"]))
            width = len(own["mean"])
        return cls(_pooling_of(path), heads) if width else cls("cls", heads)


def _pooling_of(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {})["pooling"]


def fit_exits(
    backbone: MultiPrecisionBackbone,
    precisions: Sequence[Precision],
    draws: Iterable[tuple[Tensor, Tensor]],
    settings: Exits,
    total: int,
) -> tuple[ExitHeads, list[dict[str, float]]]:
    """Train the heads on states whose prefix precisions are drawn uniformly per sample.

    `draws` gives batches of (images, labels); `total` is their number. Returns the heads and their history: gate, epoch,
    loss. Raises QueeError when a class is absent from the samples.
    """
    random = np.random.default_rng(settings.seed)
    pooled: list[list[Tensor]] = [[] for _ in range(backbone.segments)]
    labels: list[Tensor] = []
    helper = ExitHeads(settings.pooling, [])
    with progress("states for the exit heads", total) as bar:
        for images, y in draws:
            labels.append(y)
            for gate, state, _ in draw_prefixes(backbone, precisions, images, random):
                pooled[gate - 1].append(helper.pooled(backbone, state))
            bar.advance()
    y = torch.cat(labels)
    absent = sorted(set(range(backbone.classes)) - set(y.unique().tolist()))
    if absent:
        raise QueeError(f"no training sample of class {absent[0]} for the exit heads")
    heads, history = [], []
    with progress("training exit heads", backbone.segments) as bar:
        for gate, parts in enumerate(pooled, 1):
            x = torch.cat(parts)
            mean, components = _principal(x.numpy(), settings.embedding, settings.seed)
            if gate == backbone.segments:
                heads.append(ExitHead(None, None, mean, components))
                continue
            linear, losses = _fit_linear(x, y, backbone.classes, settings)
            heads.append(ExitHead(linear, _quantize_head(linear, x, gate), mean, components))
            history += [{"gate": gate, "epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses)]
            bar.advance()
    return ExitHeads(settings.pooling, heads), history


def _principal(x: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and whitened principal directions (components, D) of the rows of x."""
    if not components:
        return x.mean(axis=0, dtype=np.float64).astype(np.float32), np.zeros((0, x.shape[1]), np.float32)
    pca = PCA(components, svd_solver="covariance_eigh", random_state=seed).fit(x.astype(np.float64))
    scale = np.sqrt(np.maximum(pca.explained_variance_, 1e-12))
    return pca.mean_.astype(np.float32), np.ascontiguousarray(
        pca.components_ / scale[:, None], dtype=np.float32
    )  # as it is read back


def _fit_linear(x: Tensor, y: Tensor, classes: int, settings: Exits) -> tuple[nn.Linear, list[float]]:
    """Multinomial logistic regression by seeded minibatches."""
    linear = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.AdamW(linear.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    batch = 256
    steps = settings.epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(settings.seed)
    losses = []
    for _ in range(settings.epochs):
        total = 0.0
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            loss = functional.cross_entropy(linear(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        losses.append(total / len(x))
    return linear.requires_grad_(False), losses


def _quantize_head(linear: nn.Linear, x: Tensor, gate: int) -> QuantizedLinear:
    quantized = QuantizedLinear(linear, HEAD_PRECISION)
    bits = HEAD_PRECISION.activation_bits
    low, high = search_range(x[:: max(1, len(x) // 1024)].numpy(), bits, "mse", f"exit head {gate}")
    quantized.input = AffineQuantizer(bits).set_range(low, high)
    integers, scale = quantize_weight(linear.weight, HEAD_PRECISION.weight_bits)
    quantized.set_weight(integers, scale, linear.bias)
    quantized.finalize()
    return quantized
