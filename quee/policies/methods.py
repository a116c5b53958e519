"""What the registry holds: one `Method` per entry, with all that the rest of the project asks of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from quee.policies.base import Policy
from quee.policies.sweep import Setting, Sweep, routed_sweep

Role = Literal["reference", "rival", "ours", "control", "bound", "baseline", "restricted", "single"]
"""How results show a method.

`reference`: every method's difference to it is told. `rival` and `control`: short tables show them, and gains are told
over them. `ours`: gains of it are told. `bound`: short tables show it, and nothing competes with it. `baseline` and
`restricted`: gains are told over them. `single`: one precision or threshold at a time, for figures.
"""


@dataclass(frozen=True)
class Method:
    """A policy, or a way to spend computation that is only simulated."""

    name: str
    """In the registry, in settings and in a bundle."""
    role: Role
    curve: str = ""
    """Its name on curves; how the names of its curves begin where there are several."""
    policy: type[Policy] | None = None
    """None where it is only simulated, and cannot be deployed."""
    learned: bool = False
    """Whether stage `policies` fits the policy, on the predictors, and a seed varies it."""
    sweeps: Callable[[Setting], Iterator[Sweep]] | None = None
    """Its curves, where they are not the policy's own."""
    beside: Callable[[Setting, Sweep], Sweep] | None = None
    """A curve made from the curve `like` of another method, and shown before it."""
    like: str = ""
    seeded: bool = False
    """Whether `sweeps` use learned policies."""

    @property
    def deployable(self) -> bool:
        return self.policy is not None

    @property
    def shown(self) -> str:
        return self.curve or self.name

    def of(self, setting: Setting) -> Policy | None:
        """The policy, fitted unless the setting has it; None where it cannot be fitted there."""
        assert self.policy is not None
        return setting.policies.get(self.name) or self.policy.fit(setting)

    def main(self, setting: Setting) -> Sweep:
        """The curve that bears its name."""
        return next(sweep for sweep in self.curves(setting) if sweep.name == self.shown)

    def curves(self, setting: Setting) -> Iterator[Sweep]:
        """Its operating points on a setting, curve by curve."""
        if self.sweeps is not None:
            yield from self.sweeps(setting)
        elif self.policy is not None and (policy := self.of(setting)) is not None:
            sweep = routed_sweep(self.shown, setting, policy)
            yield sweep if policy.priced else sweep.by_columns()
