"""Every method by name. A new method is a file in this folder and a line here; nothing else in the project names it."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib import import_module

from quee.policies.base import Router
from quee.policies.methods import Method, Role
from quee.policies.sweep import Setting, Sweep
from quee.work.registry import Registry

METHODS: Registry[Method] = Registry("policy")
for _line in (
    "quee.policies.oracle:METHOD",
    "quee.policies.confidence:HULL",
    "quee.policies.confidence:EARLY_EXITS",
    "quee.policies.confidence_by_gate:METHOD",
    "quee.policies.confidence:ENTROPY",
    "quee.policies.eero:METHOD",
    "quee.policies.jei_gate:METHOD",
    "quee.policies.patience:METHOD",
    "quee.policies.ztw:METHOD",
    "quee.policies.ztw:EACH",
    "quee.policies.static:SMALL",
    "quee.policies.static:MIXTURE",
    "quee.policies.static:PATHS",
    "quee.policies.static:HULL",
    "quee.policies.random_routing:METHOD",
    "quee.policies.plan:METHOD",
    "quee.policies.fitted_q:METHOD",
    "quee.policies.auto:METHOD",
    "quee.policies.plan:RESTRICTED",
):
    _module, _, _name = _line.partition(":")
    _method: Method = getattr(import_module(_module), _name)
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


def fit_learned(setting: Setting, only: Collection[str] | None = None) -> dict[str, Router]:
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


def fixed_sweeps(setting: Setting) -> Iterator[Sweep]:
    """Curves that do not depend on a seed."""
    for method in methods():
        if not (method.learned or method.seeded or method.like):
            yield from method.curves(setting)


def fitted_sweeps(setting: Setting) -> Iterator[Sweep]:
    """Curves that depend on the setting's learned policies."""
    for method in methods():
        if method.learned or method.seeded:
            for sweep in method.curves(setting):
                yield from (
                    setting.grouped(m.beside(setting, sweep)) for m in methods() if m.beside and m.like == sweep.name
                )
                yield sweep


def all_sweeps(setting: Setting) -> Iterator[Sweep]:
    """Every curve, those of learned policies last."""
    yield from fixed_sweeps(setting)
    yield from fitted_sweeps(setting)
