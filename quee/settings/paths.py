"""Block `paths`: precisions of the tree and which paths of it are considered. Stage `tree` settles both."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

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
    """Seed of the draw."""


MOST = 6


class Searched(Block):
    """Precisions that stage `tree` chooses (`quee.trees`)."""

    auto: Annotated[int, Field(ge=1, le=MOST)] = 3
    """Most precisions of the tree; fewer where `max_nodes` leaves no room."""


def _precisions(value: Any, listed: ValidatorFunctionWrapHandler) -> Any:
    """A list of precisions as a tuple; `auto` and {auto: N} as `Searched`. Raises ValueError for anything else."""
    if isinstance(value, Searched):
        return value
    if value == "auto":
        return Searched()
    if isinstance(value, dict) and set(value) == {"auto"}:
        number = value["auto"]
        if type(number) is int and 1 <= number <= MOST:
            return Searched(auto=number)
        raise ValueError(f"auto: {number!r} is not a number of precisions from 1 to {MOST}, as {{auto: 3}}")
    if isinstance(value, str | dict):
        raise ValueError(
            "give precisions, as [w2a4, w4a4, w8a8], or have them chosen by measurement: auto, or {auto: 3}"
        )
    return listed(value)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Searched) else list(value)


if TYPE_CHECKING:
    Names = tuple[str, ...] | Searched
else:  # the wrapped validator takes lists, so that a refusal names the entry at fault
    Names = Annotated[
        tuple[PrecisionName, ...],
        Listed,
        Field(min_length=1),
        WrapValidator(_precisions),
        PlainSerializer(_plain, when_used="json"),
    ]


class Paths(Block):
    """Precisions of the tree, and which of its paths are considered."""

    precisions: Names = Searched()
    """In any order; the tree sorts them by bits, the fewest first. `auto`, or `{auto: N}` for at most N instead of three, has
    stage `tree` choose them among the candidates by what each does with exits on the validation split."""
    candidates: Annotated[tuple[PrecisionName, ...], Listed, Field(min_length=1)] = (
        "w2a3", "w2a4", "w3a3", "w3a4", "w4a4", "w5a5", "w6a6", "w8a8",
    )  # fmt: skip
    """Integer precisions among which `auto` chooses."""
    references: Annotated[tuple[PrecisionName, ...], Listed] = ("w8a8", "fp32")
    """Precisions of uniform paths that are evaluated beside the tree. Of these defaults, and where `auto` chooses the tree,
    one that the tree has is no reference then. The float accuracy is reported where `fp32` is among these or among
    `precisions`; the network that costs 1 is `w8a8`."""
    max_nodes: Count = 500
    """Most nodes of the considered tree; more are refused."""
    considered: Considered = Considered()
    """With `precisions: auto` and no rule, the loosest of a few rules whose paths fit into `max_nodes`."""

    @field_validator("precisions", "candidates", "references")
    @classmethod
    def _rising(cls, names: Any) -> Any:
        return names if isinstance(names, Searched) else tuple(sorted(names, key=Precision))

    @model_validator(mode="after")
    def _distinct(self) -> "Paths":
        if "references" not in self.model_fields_set:
            beside = tuple(name for name in self.references if name not in self.named)
            object.__setattr__(self, "references", beside)
        for what, names in (
            ("precisions and references", (*self.named, *self.references)),
            ("candidates", self.candidates),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"a precision is named twice among {what}: {', '.join(names)}")
        if floats := [name for name in self.candidates if Precision(name).is_float]:
            raise ValueError(f"candidates: {floats[0]} is no integer precision; name it in precisions, beside others")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """The precisions that the settings name; empty where they are chosen by measurement."""
        return () if isinstance(self.precisions, Searched) else self.precisions

    @property
    def possible(self) -> tuple[str, ...]:
        """Every precision that the tree may have."""
        return self.named or self.candidates
