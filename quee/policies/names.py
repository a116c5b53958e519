"""Names of curves for everything that shows results: which are ours, and what they are compared with."""

from collections.abc import Iterable

from quee.policies.methods import Role
from quee.policies.registry import in_role, methods


def named(*roles: Role) -> tuple[str, ...]:
    """Names of the curves of all methods with one of the roles, role by role."""
    return tuple(method.shown for method in in_role(*roles))


OURS = named("ours")
(REFERENCE,) = named("reference")
(BOUND,) = named("bound")
RIVALS = named("reference", "rival", "control")
"""The methods that short comparisons name; `rivals` lists all."""
MAIN = named("reference", "rival", "ours", "control", "bound")
"""Methods in short tables and figures."""


def rivals(names: Iterable[str], ours: str = "") -> list[str]:
    """The methods over which a gain is reported, the main ones first; single thresholds and precisions are left out.

    A policy of role `ours` is also compared with policies of this role that are registered before it.
    """
    known = set(names)
    restricted = sorted(name for name in known if name.startswith(named("restricted")))
    earlier = OURS[: OURS.index(ours)] if ours else ()
    return [name for name in (*RIVALS, *named("baseline"), *restricted, *earlier) if name in known]


def shown(names: Iterable[str]) -> list[str]:
    """The given methods that short tables show, in the tables' order."""
    known = set(names)
    return [name for name in MAIN if name in known]


def single_techniques(names: Iterable[str]) -> list[str]:
    """The methods with one technique: exits at one precision, precisions without exits, and single static paths."""
    several = {method.shown for method in methods()}
    return sorted(name for name in set(names) - several)
