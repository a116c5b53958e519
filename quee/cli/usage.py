"""What a wrong command line is told: the value that was given, and where an option is found that a verb does not have."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from quee.work.decimals import comma_hint

PER_REQUEST = (
    "under `quee serve` every request chooses its own, as in "
    "`curl -F image=@x.png -F max_cost=0.2 http://127.0.0.1:8000/v1/classify`; --budget and --accuracy-loss hold for the others"
)
NO_NUMBER, NO_INTEGER = "is no number", "is no whole number"
KINDS = {"float_parsing": NO_NUMBER, "int_parsing": NO_INTEGER, "int_from_float": NO_INTEGER}
"""Kinds of pydantic's refusals, by which typer reads values, and what is said of them here."""


def explain_usage(error: Any, commands: Mapping[str, Any]) -> None:
    """Complete the message of typer's error: by the value that it does not name, or by the verbs that have the option."""
    if (told := getattr(error.__cause__, "errors", None)) is not None:
        first = told()[0]
        given, why = first["input"], KINDS.get(first["type"])
        hint = comma_hint(given) if why == NO_NUMBER else ""
        error.message = f"{given!r} {why}{hint}" if why else f"{first['msg']}, not {given!r}"
        return
    option, context = getattr(error, "option_name", None), error.ctx
    if option is not None and context is not None and (more := _elsewhere(option, context.command.name, commands)):
        error.message, error.possibilities = f"{error.message}. {more}", None


def _elsewhere(option: str, verb: str, commands: Mapping[str, Any]) -> str:
    """Where an option is found that a verb does not have; empty where no command has it."""
    from quee.runtime.operating import OF_TIME, Options

    having = [name for name, command in commands.items() if any(option in param.opts for param in command.params)]
    if not having:
        return ""
    has = f"{' and '.join(f'`quee {name}`' for name in having)} {'has' if len(having) == 1 else 'have'} it"
    of_requests = {field.name for field in fields(Options)} - {*OF_TIME}
    chosen = verb == "serve" and option.removeprefix("--").replace("-", "_") in of_requests
    return f"{has}; {PER_REQUEST}" if chosen else has
