"""Methods by name, wherever they are shown: which are ours, and what they are held against."""

from collections.abc import Iterable

OURS = ("quee_plan", "quee_fitted_q")
REFERENCE = "static_hull"
BOUND = "oracle"
RIVALS = (REFERENCE, "confidence_hull", "random_routing")
"""What our policies are compared with in a few words; `rivals` has everything."""
BASELINES = ("eero", "jei_gate", "patience", "small_static")
RESTRICTED = "quee_plan_"
"""How the names begin of the plan kept to exits, or to precisions, alone."""
MAIN = (REFERENCE, "confidence_hull", *OURS, "random_routing", BOUND)
"""Methods of short tables and figures."""


def rivals(names: Iterable[str]) -> list[str]:
    """Of the methods named, all that a gain is told over: the main ones first, single thresholds and precisions not."""
    known = set(names)
    restricted = sorted(name for name in known if name.startswith(RESTRICTED))
    return [name for name in (*RIVALS, *BASELINES, *restricted) if name in known]


def shown(names: Iterable[str]) -> list[str]:
    """Of the methods named, those of short tables, in their order."""
    known = set(names)
    return [name for name in MAIN if name in known]
