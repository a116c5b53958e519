"""An entry of the registry is one `Method`; the rest of the project reads everything about a method from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from quee.policies.base import Router
from quee.policies.sweep import Setting, Sweep, routed_sweep

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
    policy: type[Router] | None = None
    """Class of its policy; None for a method that is only simulated and cannot be deployed."""
    learned: bool = False
    """Whether stage `policies` fits the policy on the predictors; a seed then varies it."""
    sweeps: Callable[[Setting], Iterator[Sweep]] | None = None
    """Computes its curves, where they are not the policy's own."""
    beside: Callable[[Setting, Sweep], Sweep] | None = None
    """A curve that is made from the curve `like` of another method and shown before that."""
    like: str = ""
    seeded: bool = False
    """Whether `sweeps` use learned policies."""

    def __post_init__(self) -> None:
        if self.role not in (valid := get_args(Role)):
            raise ValueError(f"method {self.name!r}: role {self.role!r} is none of {', '.join(valid)}")
        if self.policy is None and self.sweeps is None and self.beside is None:
            raise ValueError(f"method {self.name!r} has neither a policy nor sweeps: it would have no curve")

    @property
    def deployable(self) -> bool:
        return self.policy is not None

    @property
    def shown(self) -> str:
        return self.curve or self.name

    def of(self, setting: Setting) -> Router | None:
        """The policy from the setting, or fitted on it; None where it cannot be fitted."""
        assert self.policy is not None
        return setting.policies.get(self.name) or self.policy.fit(setting)

    def main(self, setting: Setting) -> Sweep:
        """The curve of the method's own name."""
        return next(sweep for sweep in self.curves(setting) if sweep.name == self.shown)

    def curves(self, setting: Setting) -> Iterator[Sweep]:
        """The method's operating points on a setting, curve by curve."""
        if self.sweeps is not None:
            yield from map(setting.grouped, self.sweeps(setting))
        elif self.policy is not None and (policy := self.of(setting)) is not None:
            sweep = routed_sweep(self.shown, setting, policy)
            yield sweep if policy.priced else sweep.by_columns()
