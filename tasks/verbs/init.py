"""Verb `quee init`: a folder becomes a project."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from quee.cli import AsJson


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; made where it is not there.")] = Path(),
    git: Annotated[
        bool, typer.Option("--git/--no-git", help="Make a git repository where the folder is in none.")
    ] = True,
    json_: AsJson = False,
) -> None:
    """Make a project: git repository, DVC, dvc.yaml, params.yaml, and folders for data and experiments.

    What is there stays as it is, so the command can be repeated. Nothing is committed.
    """
    from tasks.dvc.project import make_project

    said: list[str] = []
    made = make_project(folder, git, said.append)
    following = "quee start IMAGES" if folder == Path() else f"cd {shlex.quote(str(folder))} && quee start IMAGES"
    if json_:
        typer.echo(
            json.dumps({"folder": str(folder.resolve()), "made": made, "notes": said, "next": following}, indent=1)
        )
        return
    typer.echo(f"{folder.resolve()}: {'made ' + ', '.join(made) if made else 'everything is there'}")
    for line in said:
        typer.echo(line)
    typer.echo(f"next: {following}")
