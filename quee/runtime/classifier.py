"""AdaptiveClassifier: routes images through the network under a budget, as the simulation does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quee.data.decode import decode
from quee.data.transforms import Preprocessing, to_unit
from quee.errors import UsageError
from quee.execution import MultiPrecisionBackbone
from quee.features import GateView
from quee.paths import PathTree
from quee.policies import EXIT, FittedQ, Plan
from quee.precision import Precision

Images = np.ndarray | Sequence[Any]


@dataclass(frozen=True)
class Point:
    """An operating point of the policy, as found on validation."""

    trade_off: float
    first: int
    """Index of the first segment's precision."""
    cost: float
    accuracy: float


@dataclass(frozen=True)
class Routed:
    """What became of n images."""

    label: np.ndarray
    """(n,) class indices."""
    probabilities: np.ndarray
    """(n, classes) of the exit head each sample left by."""
    node: np.ndarray
    """(n,) node each sample left at."""
    path: list[str]
    cost: np.ndarray
    """(n,) in units of the static w8a8 backbone, heads and predictors included."""
    budget_met: bool


class AdaptiveClassifier:
    """A classifier whose budget is chosen per call.

    `budget` is a mean cost over data like the validation data, `max_cost` a limit for every sample, `trade_off` the
    price λ of a unit of cost. A sample's prediction, path and cost do not depend on what it is batched with.
    """

    def __init__(
        self,
        view: GateView,
        policy: Plan | FittedQ,
        costs: np.ndarray,
        points: Sequence[Point],
        classes: Sequence[str],
        budget: float,
        description: dict[str, Any] | None = None,
    ) -> None:
        """`costs` (N,) are the routed costs by node, `points` rise in cost."""
        self.view, self.policy, self.costs = view, policy, costs
        self.points, self.classes, self.budget = list(points), list(classes), budget
        self.description = description or {}
        self.transform = Preprocessing.from_timm(self.backbone.models[Precision("fp32")].input)

    @property
    def backbone(self) -> MultiPrecisionBackbone:
        return self.view.backbone

    @property
    def tree(self) -> PathTree:
        return self.policy.tree

    def predict(self, images: Images, **options: float) -> np.ndarray:
        """Class indices (n,); options as in `route`."""
        return self.route(images, **options).label

    def predict_proba(self, images: Images, **options: float) -> np.ndarray:
        """Probabilities (n, classes); options as in `route`."""
        return self.route(images, **options).probabilities

    def route(
        self,
        images: Images,
        budget: float | None = None,
        trade_off: float | None = None,
        max_cost: float | None = None,
    ) -> Routed:
        """Route images: uint8 arrays (n, h, w) or (n, h, w, c), or a list of PIL images, file paths or encoded bytes.

        Give `budget` or `trade_off`, with or without `max_cost`, or `max_cost` alone, which spends up to it on every
        sample; none means the bundle's budget. What cannot be met is answered at the nearest, with `budget_met` false.
        Raises UsageError naming a bad value.
        """
        return self.route_tensor(self.prepare(images), budget, trade_off, max_cost)

    def prepare(self, images: Images) -> Tensor:
        """Images as in `route` to the backbone's input (n, c, h, w)."""
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim not in (3, 4):
                raise UsageError(
                    f"images have shape {images.shape} and dtype {images.dtype}; valid: uint8 (n, h, w) or (n, h, w, c)"
                )
            images = list(images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images)
        if not len(images):
            raise UsageError("no images given")
        channels = self.transform.channels
        opened = [_opened(image, i, channels) for i, image in enumerate(images)]
        fitted = [np.atleast_3d(np.asarray(self.transform.fit(image))) for image in opened]
        return self.transform.normalise(to_unit(self.transform.coloured(np.stack(fitted))))

    def operating(
        self, budget: float | None, trade_off: float | None, max_cost: float | None
    ) -> tuple[Point, Point, float, bool]:
        """Two neighbouring points, the share of the second, and whether the budget can be met."""
        given = {"budget": budget, "trade_off": trade_off, "max_cost": max_cost}
        named = {name: value for name, value in given.items() if value is not None}
        if budget is not None and trade_off is not None:
            raise UsageError("give one of budget and trade_off, not both")
        for name, value in named.items():
            if not np.isfinite(value) or value < 0 or (value == 0 and name != "trade_off"):
                raise UsageError(f"{name}={value!r}: give a finite number above 0")
        within = max_cost is None or bool(max_cost >= self.costs[self.tree.nodes_at(1)].min())
        if trade_off is not None:
            nearest = min(self.points, key=lambda p: abs(np.log1p(p.trade_off) - np.log1p(trade_off)))
            point = replace(nearest, trade_off=trade_off)
            return point, point, 0.0, within
        if max_cost is not None and budget is None:
            point = self.points[-1]
            return point, point, 0.0, within
        asked = self.budget if budget is None else budget
        costs = [point.cost for point in self.points]
        right = int(np.searchsorted(costs, asked))
        if right == 0:
            return self.points[0], self.points[0], 0.0, within and bool(costs[0] <= asked * (1 + 1e-9))
        if right == len(costs):
            return self.points[-1], self.points[-1], 0.0, within
        low, high = self.points[right - 1], self.points[right]
        return low, high, (asked - low.cost) / (high.cost - low.cost), within

    def route_tensor(
        self,
        x: Tensor,
        budget: float | None = None,
        trade_off: float | None = None,
        max_cost: float | None = None,
    ) -> Routed:
        """`route` for prepared images (n, c, h, w), float32."""
        low, high, share, met = self.operating(budget, trade_off, max_cost)
        # Which of the two points a sample is served at is drawn from the sample itself, never from its batch.
        draw = np.array([crc32(row.tobytes()) / 2**32 for row in x.numpy()])
        second = draw < share
        lambdas = np.unique([low.trade_off, high.trade_off])
        column = np.searchsorted(lambdas, np.where(second, high.trade_off, low.trade_off))
        policy = self.policy if max_cost is None else self._capped(max_cost)
        first = np.where(second, high.first, low.first)
        if max_cost is not None:
            allowed = [self._first_within(max_cost, point.first) for point in (low, high)]
            first = np.where(second, allowed[1], allowed[0])
        with torch.inference_mode():
            node, log_probs = self._run(x, policy, first, lambdas, column)
        names = [self.tree.name(int(n)) for n in node]
        return Routed(log_probs.argmax(axis=1), np.exp(log_probs), node, names, self.costs[node], met)

    def _run(
        self, x: Tensor, policy: Plan | FittedQ, first: np.ndarray, lambdas: np.ndarray, column: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        tree, count = self.tree, len(x)
        node, leaving = np.full(count, -1), np.full(count, -1)
        log_probs = np.zeros((count, self.backbone.classes))
        features = np.zeros((count, tree.segments, len(self.view.names)), np.float32)
        step, state = first, x
        active = np.arange(count)  # rows of `state` and `step`, as samples
        for gate in range(1, tree.segments + 1):
            after: Tensor | None = None
            for choice in np.unique(step):  # samples with the same next action run together, whatever their past
                rows = np.flatnonzero(step == choice)
                picked = torch.from_numpy(rows)
                precision = tree.precisions[choice]
                part = self.backbone.run(gate, precision, state[picked])
                samples = active[rows]
                log_probs[samples], features[samples, gate - 1] = self.view(gate, precision, part)
                after = part.new_empty(len(active), *part.shape[1:]) if after is None else after
                after[picked] = part
            assert after is not None
            node[active] = tree.children[node[active], step]
            step = np.full(len(active), EXIT, np.int64)
            if gate < tree.segments:
                for here in np.unique(node[active]):
                    rows = np.flatnonzero(node[active] == here)
                    samples = active[rows]
                    prefix = np.eye(len(tree.precisions), dtype=np.float32)[
                        tree.choice[tree.lineage(int(here))]
                    ].ravel()
                    seen = features[samples, :gate].reshape(len(rows), -1)
                    inputs = np.concatenate([seen, np.broadcast_to(prefix, (len(rows), len(prefix)))], axis=1)
                    steps = policy.step(int(here), inputs, lambdas)
                    step[rows] = steps[np.arange(len(rows)), column[samples]]
            stays = step != EXIT
            leaving[active[~stays]] = node[active[~stays]]
            active, step, state = active[stays], step[stays], after[torch.from_numpy(np.flatnonzero(stays))]
            if not len(active):
                break
        return leaving, log_probs

    def _capped(self, max_cost: float) -> Plan | FittedQ:
        within = self.costs <= max_cost
        if isinstance(self.policy, Plan):
            return replace(self.policy, restrict=within, _future={})
        return replace(self.policy, plan=replace(self.policy.plan, restrict=within, _future={}))

    def _first_within(self, max_cost: float, preferred: int) -> int:
        children = self.tree.children[-1]
        allowed = [b for b, node in enumerate(children) if node >= 0 and self.costs[node] <= max_cost]
        if preferred in allowed:
            return preferred
        considered = [b for b, node in enumerate(children) if node >= 0]
        return max(allowed) if allowed else min(considered, key=lambda b: float(self.costs[children[b]]))


def _opened(image: Any, index: int, channels: int) -> Image.Image:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB" if channels == 3 else "L")
    if isinstance(image, bytes):
        return decode(image, channels, f"image {index}")
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            raise UsageError(f"no such image file: {path}")
        return decode(path.read_bytes(), channels, str(path))
    raise UsageError(f"image {index} is a {type(image).__name__}; valid: array, PIL image, path, bytes")


__all__ = ["AdaptiveClassifier", "Images", "Point", "Routed"]
