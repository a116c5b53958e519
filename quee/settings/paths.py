"""Block `paths`: precisions of the tree and which paths of it are considered."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from quee.precision import Precision
from quee.settings.block import Block, Count, Listed, PrecisionName, Seed


class Considered(Block):
    """Which paths of the tree are considered; uniform paths always are."""

    max_switches: Annotated[int, Field(ge=0)] | None = None
    """Keep paths with at most this many changes of precision."""
    monotone: Literal["up", "down"] | None = None
    """Keep paths whose precision never falls (`up`) or never rises (`down`)."""
    sample: Count | None = None
    """Keep this many full-length paths, drawn at random, and their prefixes."""
    seed: Seed = 0


class Paths(Block):
    precisions: Annotated[tuple[PrecisionName, ...], Listed, Field(min_length=1)] = ("w3a3", "w4a4", "w8a8")
    """In any order; the tree sorts them by bits, the fewest first."""
    references: Annotated[tuple[PrecisionName, ...], Listed] = ("fp32",)
    """Precisions of uniform paths that are evaluated beside the tree. The float accuracy is reported where `fp32` is among
    these or among `precisions`."""
    max_nodes: Count = 500
    considered: Considered = Considered()

    @field_validator("precisions", "references")
    @classmethod
    def _rising(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(names, key=Precision))

    @model_validator(mode="after")
    def _distinct(self) -> "Paths":
        names = self.precisions + self.references
        if len(set(names)) < len(names):
            raise ValueError(f"a precision is named twice among precisions and references: {', '.join(names)}")
        return self
