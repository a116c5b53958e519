"""Base of all blocks of settings: strict values, common types, and the message of a refusal."""

from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
)
from pydantic.fields import FieldInfo

from quee.budgets import LARGEST, TOO_LARGE
from quee.errors import UsageError
from quee.precision import Precision
from quee.work.counts import counted
from quee.work.decimals import comma_hint
from quee.work.registry import unknown


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _precision(value: Any) -> Any:
    try:
        return Precision(value) if isinstance(value, str) else value
    except UsageError as error:
        raise ValueError(str(error)) from None


PrecisionValue = Annotated[InstanceOf[Precision], BeforeValidator(_precision), PlainSerializer(str, when_used="json")]
PrecisionName = Annotated[
    str, BeforeValidator(lambda value: str(_precision(value)) if isinstance(value, str) else value)
]
Listed = BeforeValidator(_listed)
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _within(value: float) -> float:
    if value > LARGEST:
        raise ValueError(TOO_LARGE)
    return value


Budget = Annotated[Positive, AfterValidator(_within)]
"""Mean cost, in units of the static w8a8 network."""
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


NUMBER, WHOLE = "give a number", "give a whole number"
WORDS = {
    "bool_type": "give true or false",
    "dict_type": "give keys with values",
    "finite_number": "give a finite number",
    "float_type": NUMBER,
    "int_from_float": WHOLE,
    "int_type": WHOLE,
    "missing": "give a value; it has no default",
    "model_type": "give keys with values",
    "string_type": "give a text",
    "tuple_type": "give a list",
}
"""What is said of pydantic's refusals whose own words are about Python, by their kind."""


class Block(BaseModel):
    """Settings of one stage or a part of them; unknown keys, wrong types and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def refusal(error: ValidationError, model: type[BaseModel]) -> str:
    """One line on the first fault of values given to `model`: the dotted key, the valid values, and the value."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    where = f"{key}: " if key else ""
    message = WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "too_short":
        least = fault["ctx"]["min_length"]
        message = f"give at least {counted(least, 'entry', 'entries')}"
    if fault["type"] == "extra_forbidden":
        *parents, last = fault["loc"]
        valid = [name for name in _fields(model, parents) if name != "name"]
        return f"{where}{unknown('key', str(last), valid)}"
    if fault["type"] == "missing" or isinstance(fault["input"], dict):
        return f"{where}{message}"
    return f"{where}{message}; got {fault['input']!r}{comma_hint(fault['input'])}"


def _fields(model: type[BaseModel], parents: list[Any]) -> dict[str, FieldInfo]:
    for part in parents:
        if isinstance(part, int):  # a place in a list, whose entries' block was found with its key
            continue
        annotation = model.model_fields[str(part)].annotation
        found = next(iter(get_args(annotation)), annotation)
        assert isinstance(found, type)
        model = found
    return model.model_fields
