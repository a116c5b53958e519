"""The `quee` command. Verbs are imported when called: `quee --help` lists them all without importing any.

Project verbs join through the entry-point group `quee.commands`. Each entry is a dict of name to (`module:object`, help
line); the object is a function, a Typer app or a command. The dict's module may have a function `before(verb)`. It is
called before any of its verbs runs, and raises UsageError where the verb cannot run, such as outside of a project.
"""

import errno
import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from quee.cli import PLAIN

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

LIBRARY = {
    "profile": ("quee.cli.profile:profile", "Time a bundle's segments on this machine."),
    "cost": ("quee.cli.cost:cost", "Show the BitFLOPs behind the costs of an experiment, weights or a backbone."),
    "predict": ("quee.cli.predict:predict", "Classify images with a bundle, under a budget."),
    "verify": ("quee.cli.verify:verify", "Check a bundle: digests, format, shapes; --execute: that engines agree."),
    "serve": ("quee.cli.serve:serve", "Serve a bundle over HTTP, with a budget per request and a page to try it."),
}
INTERRUPTED = 130
USAGE: type[Any] = typer.BadParameter.__bases__[0]
"""The error of a wrong command line: click's, or that of typer's own copy of click."""


@cache
def _entries() -> "tuple[EntryPoint, ...]":
    """Entries of other packages; looking for them reads the metadata of all that are installed."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group="quee.commands"))


def verbs() -> dict[str, tuple[str, str]]:
    """Every verb: name to (`module:object`, help line)."""
    found = dict(LIBRARY)
    for entry in _entries():
        found.update(entry.load())
    return found


def check_place(arguments: list[str]) -> None:
    """Ask a verb's module whether the verb can run here; help works anywhere. Raises UsageError."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb is None or verb in LIBRARY or "--help" in arguments:
        return
    for entry in _entries():
        before = getattr(import_module(entry.module), "before", None)
        if before is not None and verb in entry.load():
            before(verb)


def refuse_empty(arguments: list[str]) -> None:
    """Raises UsageError for an empty argument: as a path it would be the working directory, as a token none."""
    if "" in arguments:
        from quee.errors import UsageError

        before = arguments[arguments.index("") - 1] if arguments[0] else "quee"
        raise UsageError(
            f"an empty argument behind {before!r}: a shell's variable without a value? Give one, or leave it out"
        )


class _Lazy(TyperGroup):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(verbs())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = LIBRARY.get(cmd_name) or verbs().get(cmd_name)
        if found is None:
            from quee.errors import UsageError
            from quee.work.registry import unknown

            raise UsageError(unknown("verb", cmd_name, list(verbs())))
        where, _ = found
        return resolve(cmd_name, where)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except USAGE as error:
            from quee.cli.usage import explain_usage

            explain_usage(error, {name: resolve(name, where) for name, (where, _) in LIBRARY.items()})
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in verbs().items()])


def resolve(name: str, where: str) -> Any:
    """The command at `module:object`."""
    module, _, attribute = where.partition(":")
    if find_spec(module) is None:
        from quee.errors import QueeError

        raise QueeError(f"`quee {name}` is not part of this installation (no module {module})")
    target = getattr(import_module(module), attribute)
    if callable(target) and not isinstance(target, typer.Typer) and not hasattr(target, "main"):
        wrapper = typer.Typer(**PLAIN)
        wrapper.command(name)(target)
        target = wrapper
    command: Any = get_command(target) if isinstance(target, typer.Typer) else target
    command.name = name
    return command


app = typer.Typer(cls=_Lazy, no_args_is_help=True, **PLAIN)


@app.callback()
def quee(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a failure."),
    version: bool = typer.Option(False, "--version", help="Show the version."),
) -> None:
    """Make pretrained image classifiers cheaper to run: learned routing over quantization and early exits."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments == ["--version"]:
        from quee import __version__

        print(f"quee {__version__}")
        sys.exit(0)
    if os.environ.get("COLUMNS") == "0":  # some terminals say so before they know; tables would be empty
        del os.environ["COLUMNS"]
    try:
        refuse_empty(arguments)
        check_place(arguments)
        status = app(args=arguments, prog_name="quee", standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(_explained(error, arguments)))
    sys.exit(status or 0)


def _explained(error: Exception, arguments: list[str]) -> Exception:
    """The error that names the extra to install, if an import failed for want of one."""
    if not isinstance(error, ModuleNotFoundError):
        return error
    from quee.work.extras import missing_extra

    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    of_project = verb not in LIBRARY
    return missing_extra(error, f"`quee {verb}`", "pipeline" if of_project else None) or error


def _report(error: Exception) -> int:
    from quee.errors import PLACES, QueeError

    if isinstance(error, QueeError):
        print(f"quee: {error}", file=sys.stderr)
        return error.exit_status
    if isinstance(error, OSError) and error.errno in (*PLACES, errno.ENOTDIR) and error.filename:
        advice = "quee keeps locks and its own files in the project's .quee, for verbs that only show, too"
        print(f"quee: {error.strerror}: {error.filename} ({advice})", file=sys.stderr)
        return 1
    detail = " ".join(str(error).split()) or "no message"
    print(f"quee: failed: {type(error).__name__}: {detail} (run with --debug for the traceback)", file=sys.stderr)
    return 1
