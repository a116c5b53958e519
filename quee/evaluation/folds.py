"""Cross-fitting: every held-out sample but those of validation is measured once, by what was fitted and chosen without it.

`prepare.splits.folds` cuts these samples into K folds. Rotation r tests fold r; targets, predictors and policies come from
the other folds, hulls and operating points from validation, which is the same in all. Measurements are joined over
rotations, so statistics see the samples of all folds. Without folds there is one rotation, whose measurements are left as
they are.

Rotations share the backbone, its quantizers and its heads, which no held-out sample decides, and the tree, which
validation chooses. What a bundle holds is fitted in the first rotation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from quee.evaluation.curves import Floor, area_errors, cost_at_drop
from quee.evaluation.measured import Measured, Yardstick, curve_of, float_errors, measure
from quee.evaluation.near import DROPS
from quee.policies.sweep import Setting, Sweep


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of the rotations, one after the other along the samples."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class Rotations:
    """The rotations' settings; each has its own test samples."""

    settings: Sequence[Setting]
    budgets: Sequence[float]

    def __len__(self) -> int:
        return len(self.settings)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of test samples by rotation."""
        return [len(setting.caches["test"]) for setting in self.settings]

    @cached_property
    def groups(self) -> np.ndarray | None:
        """(S,) groups of all test samples; None where the data set has none."""
        found = [setting.caches["test"].group for setting in self.settings]
        known = [groups for groups in found if groups is not None]
        return joined(known) if known else None

    @cached_property
    def float_errors(self) -> np.ndarray | None:
        """(S,) errors of the float network on all test samples; None where it was not evaluated."""
        found = [float_errors(setting) for setting in self.settings]
        known = [errors for errors in found if errors is not None]
        return joined(known) if known else None

    @cached_property
    def yardsticks(self) -> list[Yardstick]:
        """By rotation; the float accuracy is that on all test samples."""
        accuracy = None if self.float_errors is None else float(1 - self.float_errors.mean())
        own = [Yardstick.of(setting, self.budgets, Floor.of(setting)) for setting in self.settings]
        return [replace(yardstick, float_accuracy=accuracy) for yardstick in own]

    def measure(self, sweeps: Sequence[Sweep]) -> Measured:
        """One method, from its sweep in every rotation.

        λ and what is said of validation are those of the first rotation, whose policies a bundle holds.
        """
        parts = [measure(sweep, yardstick) for sweep, yardstick in zip(sweeps, self.yardsticks, strict=True)]
        first, whole = parts[0], self.whole(sweeps)
        if len(parts) == 1:
            return first
        mixed, share = joined([part.mixed for part in parts]), np.array(self.sizes) / sum(self.sizes)
        points = [
            replace(
                point,
                test_cost=float(share @ [part.points[index].test_cost for part in parts]),
                test_accuracy=float(1 - mixed[:, index].mean()),
                budget_met=all(part.points[index].budget_met for part in parts),
            )
            for index, point in enumerate(first.points)
        ]
        return replace(
            first,
            errors=joined([part.errors for part in parts]),
            band=joined([part.band for part in parts]),
            overall=joined([part.overall for part in parts]),
            mixed=mixed,
            points=points,
            cheapest=max(part.cheapest for part in parts),
            dearest_accuracy=float(share @ [part.dearest_accuracy for part in parts]),
            drops={drop: cost_at_drop(whole, self.yardsticks[0].float_accuracy, drop) for drop in DROPS},
            curve=curve_of(whole),
        )

    def whole(self, sweeps: Sequence[Sweep]) -> Sweep:
        """One sweep over the samples of all rotations; its points are budgets, from the cheapest to the dearest.

        Equal thresholds and the points of a hull mean something else in another rotation. So a point is what every
        rotation makes of a budget, as a mixture of points chosen on its own validation samples.
        """
        if len(sweeps) == 1:
            return sweeps[0]
        low, high = min(s.validation_cost[0] for s in sweeps), max(s.validation_cost[-1] for s in sweeps)
        budgets = np.geomspace(low, high, self.settings[0].points if high > low * (1 + 1e-9) else 1)
        mixes = [np.stack([sweep.spending(budget)[0] for budget in budgets], axis=1) for sweep in sweeps]

        def over_rotations(which: str) -> dict[str, np.ndarray]:
            return {
                split: joined([getattr(s, which)[split] @ mix for s, mix in zip(sweeps, mixes, strict=True)])
                for split in ("validation", "test")
            }

        values = np.full(len(budgets), np.nan)
        return Sweep(sweeps[0].name, sweeps[0].kind, values, over_rotations("errors"), over_rotations("costs"))

    @cached_property
    def exits(self) -> dict[str, list[float]]:
        """Test accuracy of the network cut off at each gate, from the first to the last, by uniform precision."""
        return {
            name: [
                float(1 - joined([s.own_errors("test", references)[:, node] for s in self.settings]).mean())
                for node in nodes
            ]
            for name, nodes, references in self.settings[0].uniform()
        }

    @cached_property
    def floor_accuracy(self) -> float:
        """Test accuracy of the method that costs nothing, over all test samples."""
        return float(1 - joined([yardstick.floor.errors["test"] for yardstick in self.yardsticks]).mean())

    def area(self, sweeps: Sequence[Sweep]) -> float:
        """`auc`: mean accuracy over its budgets and all test samples."""
        errors = [area_errors(s, y.floor) for s, y in zip(sweeps, self.yardsticks, strict=True)]
        return float(1 - joined(errors).mean())
