"""The verb `quee gc`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what of DVC's cache, unfinished work and MLflow no current or tracked result needs; --yes removes it."""
    from tasks.verbs.waste import waste

    with waste(Path.cwd()) as found:
        if yes:
            for place in found:
                place.remove()
    total = sum(place.bytes for place in found)
    if json_:
        places = [{"place": p.place, "count": p.count, "bytes": p.bytes, "note": p.note} for p in found]
        typer.echo(json.dumps({"removed": yes, "bytes": total, "places": places}, indent=1))
        return
    for place in found:
        what = place.note or (f"{place.what}" if place.count else "nothing that is not needed")
        typer.echo(f"{place.place:<16} {place.count:6,}  {place.bytes / 1e6:10,.1f} MB  {what}")
    typer.echo(
        f"{total / 1e6:,.1f} MB {'removed' if yes else 'can go: `quee gc --yes` removes it' if total else 'can go'}"
    )
