"""Methods by the names of their curves, wherever results are shown: which are ours, and what they are held against."""

from collections.abc import Iterable

from quee.policies.methods import Role
from quee.policies.registry import in_role


def named(*roles: Role) -> tuple[str, ...]:
    """Names of the curves of all methods that have one of the roles, role by role."""
    return tuple(method.shown for method in in_role(*roles))


OURS = named("ours")
(REFERENCE,) = named("reference")
(BOUND,) = named("bound")
RIVALS = named("reference", "rival", "control")
"""What our policies are compared with in a few words; `rivals` has everything."""
MAIN = named("reference", "rival", "ours", "control", "bound")
"""Methods of short tables and figures."""


def rivals(names: Iterable[str], ours: str = "") -> list[str]:
    """Of the methods named, all that a gain is told over: the main ones first, single thresholds and precisions not.

    A policy of `ours` is also held against those of ours that are registered before it.
    """
    known = set(names)
    restricted = sorted(name for name in known if name.startswith(named("restricted")))
    earlier = OURS[: OURS.index(ours)] if ours else ()
    return [name for name in (*RIVALS, *named("baseline"), *restricted, *earlier) if name in known]


def shown(names: Iterable[str]) -> list[str]:
    """Of the methods named, those of short tables, in their order."""
    known = set(names)
    return [name for name in MAIN if name in known]
