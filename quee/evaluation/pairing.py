"""Two results on the test images that both have: how far apart they are, and what changes for which images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from quee.evaluation.curves import Floor, area_errors, errors_within
from quee.evaluation.draws import Draws, paired
from quee.evaluation.paths_taken import PathsTaken, paths_taken, policy_and_sweep
from quee.policies.methods import Method
from quee.policies.sweep import Setting

REPEATS = 1000
"""Replicates of the bootstrap."""


@dataclass(frozen=True)
class Outcome:
    """What one result's policy does with test images T."""

    taken: PathsTaken
    """At one budget."""
    overall: np.ndarray
    """(T,) expected error of every image, mean over the budgets of `auc`."""
    at_budgets: np.ndarray
    """(T, B) expected error at each budget."""
    groups: np.ndarray | None = None
    """(T,) images that belong together; None where the data set has no groups."""

    def of(self, rows: np.ndarray) -> "Outcome":
        """The images of these rows alone."""
        taken = self.taken
        own = {name: getattr(taken, name)[rows] for name in ("sample", "label", "node", "cost", "right", "sure")}
        groups = None if self.groups is None else self.groups[rows]
        answer = None if taken.answer is None else taken.answer[rows]
        return Outcome(replace(taken, **own, answer=answer), self.overall[rows], self.at_budgets[rows], groups)


def outcome_of(setting: Setting, method: Method, budget: float, budgets: Sequence[float]) -> Outcome | None:
    """The test images of a setting under a method's policy; None where it cannot be fitted there."""
    found = policy_and_sweep(setting, method)
    if found is None:
        return None
    (policy, sweep), floor = found, Floor.of(setting)
    return Outcome(
        paths_taken(setting, policy, sweep, budget),
        area_errors(sweep, floor),
        errors_within(sweep, np.array(budgets, float), floor),
        setting.caches["test"].group,
    )


@dataclass(frozen=True)
class ClassChange:
    """The shared images of one class."""

    label: int
    images: int
    right: tuple[int, int]
    """How many each result is right on."""
    gained: int
    """Images that only the second is right on."""
    lost: int
    """Images that only the first is right on."""
    cost: tuple[float, float]
    """Mean cost of each."""


def by_class(
    label: np.ndarray, right: tuple[np.ndarray, np.ndarray], cost: tuple[np.ndarray, np.ndarray]
) -> list[ClassChange]:
    """Every class that has images, by label; of images (S,) with their labels, whether each of two results is right on them,
    and what each spends on them."""
    found = []
    for own in np.unique(label):
        rows = label == own
        before, after = (one[rows] for one in right)
        spent = (float(cost[0][rows].mean()), float(cost[1][rows].mean()))
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        counts = (int(before.sum()), int(after.sum()))
        found.append(ClassChange(int(own), int(rows.sum()), counts, gained, lost, spent))
    return found


@dataclass(frozen=True)
class Pairing:
    """Two results, the first and the second, on the S images that both were tested on, in the same order."""

    first: Outcome
    second: Outcome

    @classmethod
    def of(cls, first: Outcome, second: Outcome) -> "Pairing | None":
        """The images that both have; None where there are none, or where they have other labels.

        Sample ids of both must be of the same data set.
        """
        _, ours, theirs = np.intersect1d(first.taken.sample, second.taken.sample, return_indices=True)
        if not len(ours) or (first.taken.label[ours] != second.taken.label[theirs]).any():
            return None
        return cls(first.of(ours), second.of(theirs))

    def __len__(self) -> int:
        return len(self.first.taken)

    def differences(self, seed: int = 0) -> list[dict[str, float]]:
        """`mean`, `low` and `high` of the second's accuracy less the first's: over the budgets of `auc`, then at each budget.

        Intervals are those of a paired bootstrap over images, or over their groups, at 95 %.
        """
        errors = [np.column_stack([one.overall, one.at_budgets]) for one in (self.first, self.second)]
        draws = Draws.of(len(self), 1, REPEATS, seed, self.first.groups)
        return paired((errors[0] - errors[1])[None], draws)

    def by_class(self) -> list[ClassChange]:
        """Every class that has images, by label."""
        one, other = self.first.taken, self.second.taken
        return by_class(one.label, (one.right, other.right), (one.cost, other.cost))

    def moved(self) -> np.ndarray:
        """(S,) bool: whether the image takes another path."""
        names = [
            np.array([one.tree.name(int(node)) for node in one.node]) for one in (self.first.taken, self.second.taken)
        ]
        found: np.ndarray = names[0] != names[1]
        return found

    def kinds(self) -> dict[str, np.ndarray]:
        """Rows of the images that take another path, by what that did; each by falling change of the cost, then by id.

        `became right`, `became wrong`, and of those whose answer is right or wrong in both `cheaper` and `dearer`.
        """
        one, other, moved = self.first.taken, self.second.taken, self.moved()
        change = (other.cost - one.cost).round(9)
        same = moved & (one.right == other.right)
        parts = {
            "became right": moved & other.right & ~one.right,
            "became wrong": moved & one.right & ~other.right,
            "cheaper": same & (change < 0),
            "dearer": same & (change >= 0),
        }
        order = np.lexsort((one.sample, -np.abs(change)))
        return {name: order[chosen[order]] for name, chosen in parts.items()}
