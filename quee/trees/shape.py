"""The largest tree that `paths.max_nodes` allows: number of precisions and rule of considered paths."""

from collections.abc import Sequence

from quee.errors import UsageError
from quee.paths import PathTree
from quee.settings.paths import Considered, Paths

RULES = (
    Considered(),
    Considered(max_switches=2),
    Considered(max_switches=1),
    Considered(max_switches=1, monotone="up"),
)
"""From the loosest on: the last is a cheap beginning that hard images leave."""


def most_precisions(paths: Paths, segments: int) -> int:
    """Number of precisions that the tree may have. Raises UsageError where not even one fits."""
    if paths.named:
        return len(paths.named)
    assert not isinstance(paths.precisions, tuple)
    for number in range(min(paths.precisions.auto, len(paths.candidates)), 0, -1):
        try:
            tree_of(paths, paths.candidates[-number:], segments)
        except UsageError:
            if number == 1:
                raise
        else:
            return number
    raise AssertionError


def tree_of(paths: Paths, precisions: Sequence[str], segments: int) -> PathTree:
    """The considered paths over these precisions; raises UsageError where `paths.max_nodes` allows no such tree.

    Rules are tried only where precisions are chosen by measurement and the settings name no rule.
    """
    rules: tuple[Considered, ...] = (paths.considered,)
    if not paths.named and paths.considered == Considered():
        rules = RULES
    for rule in rules:
        try:
            return PathTree(precisions, segments, rule, paths.max_nodes)
        except UsageError:
            if rule == rules[-1]:
                raise
    raise AssertionError


def largest(paths: Paths, segments: int) -> PathTree:
    """The tree of the settings; where precisions are chosen by measurement, one as large as it can become."""
    if paths.named:
        return tree_of(paths, paths.named, segments)
    return tree_of(paths, paths.candidates[-most_precisions(paths, segments) :], segments)
