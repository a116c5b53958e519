"""What is known of a bundle's networks before they are loaded, which takes PyTorch and only engine torch needs."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from quee.data.preprocessing import Preprocessing
from quee.features import GateView
from quee.precision import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from quee.exits.heads import ExitHeads
    from quee.network.execution import MultiPrecisionBackbone


class View(Protocol):
    """The facts of gates and networks that a classifier and its engine need, and the networks themselves."""

    embedding: bool

    @property
    def names(self) -> list[str]: ...
    @property
    def segments(self) -> int: ...
    @property
    def input(self) -> Preprocessing: ...
    @property
    def backbone(self) -> "MultiPrecisionBackbone": ...
    @property
    def heads(self) -> "ExitHeads": ...
    def __call__(self, gate: int, precision: Precision, state: "Tensor") -> tuple[np.ndarray, np.ndarray]: ...
    def outputs(self, gate: int, precision: Precision, state: "Tensor") -> tuple[np.ndarray, np.ndarray | None]: ...


class BundleView:
    """The view of a bundle: its facts come from the description, its networks are loaded when they are first asked for."""

    def __init__(
        self,
        names: list[str],
        segments: int,
        preprocessing: Preprocessing | None,
        embedding: bool,
        load: Callable[[], GateView],
    ) -> None:
        """Without `preprocessing`, which bundles of format 1 lack, the backbone's own counts."""
        self.names, self.segments, self.embedding = names, segments, embedding
        self._preprocessing, self._load = preprocessing, load

    @cached_property
    def loaded(self) -> GateView:
        """Raises IntegrityError where the networks do not fit the bundle, QueeError where PyTorch is not installed."""
        return self._load()

    @property
    def input(self) -> Preprocessing:
        return self._preprocessing or self.loaded.input

    @property
    def backbone(self) -> "MultiPrecisionBackbone":
        return self.loaded.backbone

    @property
    def heads(self) -> "ExitHeads":
        return self.loaded.heads

    def __call__(self, gate: int, precision: Precision, state: "Tensor") -> tuple[np.ndarray, np.ndarray]:
        return self.loaded(gate, precision, state)

    def outputs(self, gate: int, precision: Precision, state: "Tensor") -> tuple[np.ndarray, np.ndarray | None]:
        return self.loaded.outputs(gate, precision, state)
