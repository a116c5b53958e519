"""Baselines: what QuEE has to beat, on the same splits and with the same cost. One file each, one registry line.

A baseline takes a `Setting` and yields sweeps.
"""

from collections.abc import Callable, Iterator

from quee.evaluation.sweep import Setting, Sweep
from quee.policies.confidence import confidence_hull, early_exits
from quee.policies.eero import eero
from quee.policies.jei_gate import jei_gate
from quee.policies.patience import patience
from quee.policies.random_routing import random_routing
from quee.policies.static import small_static, static_hull, static_paths
from quee.work.registry import Registry

Baseline = Callable[[Setting], Iterator[Sweep]]

BASELINES: Registry[Baseline] = Registry("baseline")
BASELINES.register("static")(static_paths)
BASELINES.register("static_hull")(static_hull)
BASELINES.register("early_exits")(early_exits)
BASELINES.register("confidence_hull")(confidence_hull)
BASELINES.register("eero")(eero)
BASELINES.register("jei_gate")(jei_gate)
BASELINES.register("patience")(patience)
BASELINES.register("small_static")(small_static)

__all__ = ["BASELINES", "Baseline", "random_routing"]
