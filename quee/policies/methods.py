"""An entry of the registry is one `Method`; the rest of the project reads everything about a method from it.

Code is named by its place, `module:object`, and imported when it is used: names and roles are there without NumPy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from quee.work.registry import placed

if TYPE_CHECKING:
    from quee.policies.base import Router
    from quee.policies.sweep import Setting, Sweep

Role = Literal["reference", "rival", "ours", "control", "bound", "baseline", "restricted", "single"]
"""Role of a method in results.

`reference`: results give every method's difference to it. `rival` and `control`: short tables show them, and results
give our gains over them. `ours`: results give its gains. `bound`: short tables show it, but it does not compete.
`baseline` and `restricted`: results give our gains over them. `single`: one precision or threshold at a time, for figures.
"""


@dataclass(frozen=True)
class Method:
    """A policy, or a method that is only simulated."""

    name: str
    """Name in the registry, in settings and in a bundle."""
    role: Role
    curve: str = ""
    """Name of its curve; where it has several curves, the beginning of their names."""
    policy: str = ""
    """Place of its policy's class; empty for a method that is only simulated and cannot be deployed."""
    learned: bool = False
    """Whether stage `policies` fits the policy on the predictors; a seed then varies it."""
    sweeps: str = ""
    """Place of the function (setting) → sweeps that computes its curves, where they are not the policy's own."""
    beside: str = ""
    """Place of the function (setting, sweep) → sweep that makes its curve from the curve `like` of another method; the curve
    is shown before that."""
    like: str = ""
    seeded: bool = False
    """Whether `sweeps` use learned policies."""

    def __post_init__(self) -> None:
        if self.role not in (valid := get_args(Role)):
            raise ValueError(f"method {self.name!r}: role {self.role!r} is none of {', '.join(valid)}")
        if not (self.policy or self.sweeps or self.beside):
            raise ValueError(f"method {self.name!r} has neither a policy nor sweeps: it would have no curve")

    @property
    def deployable(self) -> bool:
        return bool(self.policy)

    @property
    def shown(self) -> str:
        return self.curve or self.name

    @property
    def kind(self) -> "type[Router]":
        """The class of its policy; only a deployable method has one."""
        assert self.policy, self.name
        found: type[Router] = placed(self.policy)
        return found

    def of(self, setting: "Setting") -> "Router | None":
        """The policy from the setting, or fitted on it; None where it cannot be fitted."""
        return setting.policies.get(self.name) or self.kind.fit(setting)

    def main(self, setting: "Setting") -> "Sweep":
        """The curve of the method's own name."""
        return next(sweep for sweep in self.curves(setting) if sweep.name == self.shown)

    def curves(self, setting: "Setting") -> "Iterator[Sweep]":
        """The method's operating points on a setting, curve by curve."""
        from quee.policies.sweep import routed_sweep  # names do not need NumPy

        if self.sweeps:
            yield from map(setting.grouped, placed(self.sweeps)(setting))
        elif self.policy and (policy := self.of(setting)) is not None:
            sweep = routed_sweep(self.shown, setting, policy)
            yield sweep if policy.priced else sweep.by_columns()

    def made_beside(self, setting: "Setting", sweep: "Sweep") -> "Sweep":
        """The curve that is made from a curve of the method `like`."""
        return setting.grouped(placed(self.beside)(setting, sweep))
