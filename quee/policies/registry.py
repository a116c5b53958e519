"""Every method by name. A new method is a file in this folder and a line here; nothing else in the project names it.

Importing this module imports no policy: whatever needs names alone has them at once.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from quee.policies.methods import Method, Role
from quee.work.registry import Registry

if TYPE_CHECKING:
    from quee.policies.base import Router
    from quee.policies.sweep import Setting, Sweep

METHODS: Registry[Method] = Registry("policy")
for _method in (
    Method("oracle", "bound", sweeps="quee.policies.oracle:oracle"),
    Method("confidence_hull", "rival", policy="quee.policies.confidence:Confidence"),
    Method("early_exits", "single", sweeps="quee.policies.confidence:early_exits"),
    Method("confidence_by_gate", "baseline", policy="quee.policies.confidence_by_gate:ConfidenceByGate"),
    Method("entropy_hull", "baseline", policy="quee.policies.confidence:Entropy"),
    Method("eero", "baseline", policy="quee.policies.eero:Eero"),
    Method("jei_gate", "baseline", policy="quee.policies.jei_gate:JeiGate"),
    Method("patience", "baseline", policy="quee.policies.patience:Patience"),
    Method("ztw", "baseline", policy="quee.policies.ztw:Ztw"),
    Method("ztw_each", "single", "ztw_", sweeps="quee.policies.ztw:each_precision"),
    Method("small_static", "baseline", sweeps="quee.policies.static:small_static"),
    Method("static_mixture", "baseline", policy="quee.policies.static:Paths"),
    Method("static", "single", sweeps="quee.policies.static:static_paths"),
    Method("static_hull", "reference", sweeps="quee.policies.static:static_hull"),
    Method("random_routing", "control", beside="quee.policies.random_routing:random_routing", like="quee_plan"),
    Method("plan", "ours", "quee_plan", "quee.policies.plan:Plan", True, "quee.policies.plan:plan_sweeps"),
    Method("fitted_q", "ours", "quee_fitted_q", "quee.policies.fitted_q:FittedQ", learned=True),
    Method("auto", "ours", "quee_auto", "quee.policies.auto:Auto", learned=True),
    Method("plan_restricted", "restricted", "quee_plan_", sweeps="quee.policies.plan:restricted_sweeps", seeded=True),
):
    METHODS.register(_method.name)(_method)


def methods() -> list[Method]:
    """All methods in the order of the lines above, which is also the order of tables."""
    return METHODS.entries()


def in_role(*roles: Role) -> list[Method]:
    """Methods with one of the roles, role by role."""
    return [method for role in roles for method in methods() if method.role == role]


def learned() -> list[Method]:
    """Methods that stage `policies` fits."""
    return [method for method in methods() if method.learned]


def fit_learned(setting: "Setting", only: Collection[str] | None = None) -> "dict[str, Router]":
    """The learned policies by name, all or those in `only`; each can use those before it."""
    found: dict[str, Router] = {}
    for method in learned():
        if only is not None and method.name not in only:
            continue
        policy = method.of(replace(setting, policies=found))
        assert policy is not None, method.name
        found[method.name] = policy
    return found


def deployable() -> dict[str, Method]:
    """Methods that a bundle can hold, by name."""
    return {method.name: method for method in methods() if method.deployable}


def fixed_sweeps(setting: "Setting") -> "Iterator[Sweep]":
    """Curves that do not depend on a seed."""
    for method in methods():
        if not (method.learned or method.seeded or method.like):
            yield from method.curves(setting)


def fitted_sweeps(setting: "Setting") -> "Iterator[Sweep]":
    """Curves that depend on the setting's learned policies."""
    for method in methods():
        if method.learned or method.seeded:
            for sweep in method.curves(setting):
                yield from (m.made_beside(setting, sweep) for m in methods() if m.beside and m.like == sweep.name)
                yield sweep


def all_sweeps(setting: "Setting") -> "Iterator[Sweep]":
    """Every curve, those of learned policies last."""
    yield from fixed_sweeps(setting)
    yield from fitted_sweeps(setting)
