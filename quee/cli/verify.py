"""`quee verify BUNDLE`: whether a bundle is whole, and whether the engines here agree with the reference."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee.cli import AsJson, naming

if TYPE_CHECKING:
    from quee.runtime.bundle import Contents


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    execute: Annotated[
        bool, typer.Option("--execute", help="Also run the bundle's canary on engines and compare the results.")
    ] = False,
    engine: Annotated[
        list[str] | None, typer.Option(help="With --execute: an engine, or several; by default all that are installed.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="With --execute: threads of the engines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: format, names and digests of all files, and whether their contents fit together.

    Networks and exported graphs are opened with --execute alone, which also compares the graphs of the gates with NumPy
    where ONNX Runtime is installed.
    """
    from quee.errors import DisagreementError, UsageError
    from quee.runtime.bundle import read_bundle
    from quee.runtime.manifest import NAME
    from quee.work.io import read_json

    if (engine or threads is not None) and not execute:
        raise UsageError("--engine and --threads go with --execute")
    with naming(bundle):
        read = read_bundle(bundle)
    manifest, tree = read.manifest, read.policy.tree
    written = read_json(bundle / NAME)["format"]
    facts = {
        "canary": len(read.canary or ()),
        "classes": len(manifest.classes),
        "digest": manifest.digest,
        "experiment": manifest.experiment,
        "files": len(manifest.files),
        "format": written,
        "graphs": sum(map(len, manifest.graphs.values())),
        "guarantees": [asdict(guarantee) for guarantee in manifest.guarantees],
        "precisions": [str(p) for p in tree.precisions],
        "segments": tree.segments,
    }
    found = _executed(bundle, bool(manifest.graphs), engine or [], threads) if execute else {}
    gates = _gates(bundle, read) if execute else None
    if as_json:
        typer.echo(json.dumps({**facts, "engines": found, "gates": gates} if execute else facts))
    else:
        _say(bundle, facts, manifest.guarantees)
        for name, outcome in found.items():
            typer.echo(f"engine {name}: " + (f"agrees, {outcome['said']}" if outcome["agrees"] else "refused"))
        if gates is not None:
            typer.echo("gates: " + (f"agree, {gates['said']}" if gates["agrees"] else "refused"))
    refused = [
        str(outcome["said"]) for outcome in (*found.values(), gates or {"agrees": True}) if not outcome["agrees"]
    ]
    if refused:
        raise DisagreementError("\n".join(refused))


def _executed(bundle: Path, graphs: bool, engines: list[str], threads: int | None) -> dict[str, dict[str, Any]]:
    """The result of each engine by name, of all that are installed where none is named.

    Raises IntegrityError where the bundle has no canary, QueeError where no engine is installed.
    """
    from quee.errors import DisagreementError, IntegrityError
    from quee.runtime import load_bundle
    from quee.runtime.engines import installed_engines

    found: dict[str, dict[str, Any]] = {}
    for name in engines or installed_engines(graphs) or ["auto"]:
        classifier = load_bundle(bundle, name, threads, held=False)
        if (canary := classifier.canary) is None:
            raise IntegrityError(
                f"{bundle} has no canary to compare engines with: make the bundle anew with `quee run`"
            )
        try:
            report = canary.check(classifier.executor, classifier.policy)
        except DisagreementError as error:
            found[name] = {"agrees": False, "said": str(error)}
        else:
            found[name] = {"agrees": True, "said": str(report), **asdict(report)}
    return found


def _gates(bundle: Path, read: "Contents") -> dict[str, Any] | None:
    """Whether the graphs of the gates agree with NumPy; None where there are none, or ONNX Runtime is not installed."""
    from quee.errors import DisagreementError
    from quee.runtime.gate import check_gates

    manifest = read.manifest
    if not manifest.gates or read.canary is None or find_spec("onnxruntime") is None:
        return None
    try:
        count = check_gates(bundle, manifest.gates, read.policy, read.ensembles, read.points, read.canary)
    except DisagreementError as error:
        return {"agrees": False, "said": str(error)}
    return {"agrees": True, "said": f"{count} graphs with NumPy"}


def _say(bundle: Path, facts: dict[str, Any], guarantees: Sequence[Any]) -> None:
    typer.echo(
        f"{bundle}: good. Experiment {facts['experiment']}, format {facts['format']}, {facts['files']} files, {facts['graphs']} "
        f"graphs, {facts['classes']} classes, {facts['segments']} segments at {', '.join(facts['precisions'])}"
    )
    for guarantee in guarantees:
        if guarantee.method == "learn_then_test":
            typer.echo(
                f"certified: {guarantee.words} at --trade-off "
                f"{guarantee.trade_off:.5g}, with probability {1 - guarantee.delta:g} (cost {guarantee.cost:.3f} on validation)"
            )
    if not facts["canary"]:
        typer.echo(f"no canary in format {facts['format']}: engines are not compared with the reference; make it anew")
    if facts["digest"] is None:
        typer.echo(f"bundle.json has no digest in format {facts['format']}; make it anew")
    else:
        typer.echo(f"digest {facts['digest']}")
