"""Settling a tree: as settings name it, with bits by layer where they are at least as good, or chosen by measurement."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.format_choice import with_format
from quee.quantization.mixed import with_mixed_bits
from quee.settings.paths import Paths
from quee.settings.quantize import QuantizationConfig, Quantize
from quee.trees.candidates import Found, costs_of, name_of
from quee.trees.choice import Exits, Sets, choose, prefer_by_layer
from quee.trees.settled import UNIT_PRECISION, Settled, configs_of
from quee.trees.shape import most_precisions, tree_of
from quee.work.threads import one_thread


@dataclass(frozen=True)
class Search:
    """What a tree is settled from."""

    backbone: SegmentedBackbone
    """The float network with its gates."""
    paths: Paths
    quantize: Quantize
    products: Mapping[str, Any]
    """Number format of the products that calibration does not quantize, under `format`; empty without any."""
    few: Callable[[], Tensor]
    """A few calibration images (n, c, h, w), by which bits are allotted to layers."""
    measure: Callable[[Mapping[str, QuantizationConfig]], dict[str, Found]]
    """Runs candidates, by name."""
    fitted: np.ndarray
    """Labels (n,) of the images that probes are fitted on."""
    judged: np.ndarray
    """Labels (S,) of the images that candidates are judged by."""
    seed: int = 0

    def settle(self) -> Settled:
        """The tree; raises UsageError where `paths.max_nodes` has no room for it."""
        most, auto = most_precisions(self.paths, self.backbone.segments), not self.paths.named
        undecided = self.layered if self.quantize.mixed == "auto" else {}
        if not auto and not undecided:
            return self._settled(self.paths.named, self.layered, {})
        names = self.paths.possible if auto else ()
        first = {*map(Precision, names), *(p for p in undecided if not auto or p in self._references)}
        found = self.run({(p, p in self.layered) for p in first})
        record: dict[str, Any] = {}
        chosen: Sequence[str] = self.paths.named
        if auto:
            own = {name_of(p, p in self.layered): p for p in map(Precision, names)}
            best, record = choose(self._sets(found), list(own), most)
            chosen = [str(own[name]) for name in best]
        asked = {p for p in undecided if str(p) in chosen or p in self._references}
        found |= self.run({(p, False) for p in asked})
        layers, rows = dict(self.layered), list[dict[str, Any]]()
        sets = self._sets(found)
        for precision in sorted(asked):
            kept, gain = prefer_by_layer(sets, name_of(precision, True), name_of(precision, False))
            rows.append({"kept": kept, "precision": str(precision), **gain})
            if not kept:
                del layers[precision]
        record |= {"by_layer": rows, "candidates": [self._row(sets, *key, found[key]) for key in sorted(found)]}
        return self._settled(chosen, layers, record)

    def _settled(
        self, names: Iterable[str], layered: Mapping[Precision, QuantizationConfig], record: Mapping[str, Any]
    ) -> Settled:
        tree = tree_of(self.paths, sorted(names, key=Precision), self.backbone.segments)
        references = tuple(p for p in self._references if p not in tree.precisions)
        used = {*tree.precisions, *references}
        layers = {p: {n: str(b) for n, b in c.layers.items()} for p, c in sorted(layered.items()) if p in used}
        return Settled(tree, references, self.backbone.gates, layers, self.products, record)

    @property
    def _references(self) -> tuple[Precision, ...]:
        return tuple(map(Precision, self.paths.references))

    @cached_property
    def uniform(self) -> dict[Precision, QuantizationConfig]:
        """Every integer precision that may be quantized, as the settings describe it."""
        names = {*map(Precision, self.paths.possible), *self._references, UNIT_PRECISION}
        found = configs_of(sorted(p for p in names if not p.is_float), self.quantize)
        return {p: with_format(c, self.products["format"]) for p, c in found.items()} if self.products else found

    @cached_property
    def layered(self) -> dict[Precision, QuantizationConfig]:
        """The precisions at which bits by layer differ from uniform ones; empty where `quantize.mixed` is off."""
        if not self.quantize.mixed:
            return {}
        with one_thread():  # the last bits of floating-point sums depend on the number of threads
            mixed = with_mixed_bits(self.backbone, list(self.uniform.values()), [self.few()])
        return {c.precision: c for c in mixed if not c.precision.plain and c != self.uniform[c.precision]}

    def run(self, wanted: set[tuple[Precision, bool]]) -> dict[tuple[Precision, bool], Exits]:
        """What candidates do, precisions with or without bits by layer."""
        configs = {key: (self.layered if key[1] else self.uniform)[key[0]] for key in sorted(wanted)}
        found = self.measure({name_of(*key): config for key, config in configs.items()})
        return {
            key: Exits(
                found[name_of(*key)].confidence,
                found[name_of(*key)].answer != self.judged[:, None],
                costs_of(self.backbone, config, self.quantize),
            )
            for key, config in configs.items()
        }

    def _sets(self, found: Mapping[tuple[Precision, bool], Exits]) -> Sets:
        floor = self.judged != np.bincount(self.fitted).argmax()
        return Sets({name_of(*key): exits for key, exits in found.items()}, floor, self.seed)

    def _row(self, sets: Sets, precision: Precision, by_layer: bool, exits: Exits) -> dict[str, Any]:
        return {
            "accuracy": [float(1 - wrong) for wrong in exits.wrong.mean(axis=0)],
            "auc": float(1 - sets.errors([name_of(precision, by_layer)]).mean()),
            "by_layer": by_layer,
            "cost": [float(cost) for cost in exits.cost],
            "precision": str(precision),
        }
