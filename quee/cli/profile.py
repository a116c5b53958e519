"""`quee profile`: time a bundle on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quee.cli import AsJson, naming


def profile(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    engine: Annotated[str, typer.Option(help="auto, openvino, onnxruntime, torch or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads; by default as many as there are cores.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1,8,64",
    repeats: Annotated[int, typer.Option(help="Runs of each, of which the median counts.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Time every (segment, precision, batch) of a bundle here, and keep the times beside it as BUNDLE.profile.json.

    Then `quee predict --latency-ms` and `--images-per-second` use a policy that spends time instead of BitFLOPs.
    """
    import numpy as np

    from quee.errors import UsageError
    from quee.runtime import load_bundle
    from quee.runtime.profile import measure, profile_of, profile_path

    try:
        batches = sorted({int(part) for part in batch.split(",")})
    except ValueError:
        raise UsageError(f"--batch {batch!r}; valid: sizes with commas, as 1,8,64") from None
    if batches[0] < 1:
        raise UsageError(f"--batch {batch!r}; valid: sizes from 1")
    if repeats < 1:
        raise UsageError(f"--repeats {repeats}; valid: from 1")
    with naming(bundle):
        classifier = load_bundle(bundle, engine=engine, threads=threads, profiled=False).hold()
    channels, (height, width) = classifier.transform.channels, classifier.transform.size
    images = np.random.default_rng(0).standard_normal((max(batches), channels, height, width), dtype=np.float32)
    timings = measure(
        classifier.engine,
        classifier.policy,
        len(classifier.view.names),
        images,
        batches,
        repeats,
        classifier.executor.ensembles,
    )
    policies = list(dict.fromkeys(point.policy for point in classifier.points))
    found = profile_of(classifier.digest, classifier.engine, timings)
    found.write(profile_path(bundle))
    if as_json:
        said = {"path": str(profile_path(bundle)), "policies": policies, "timings": [vars(t) for t in timings]}
        typer.echo(json.dumps(said))
        return
    _table(found, batches, str(profile_path(bundle)))
    print(f"policy: {', '.join(policies)}{'; a decision is that of the slowest' if len(policies) > 1 else ''}")


def _table(found, batches: list[int], path: str) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"milliseconds per batch, engine {found.engine}, {found.threads} thread(s): {found.machine}")
    for name in ("segment", "precision", "executed", *map(str, batches)):
        table.add_column(name, justify="left" if name in ("precision", "executed") else "right")
    rows: dict[tuple[int, str, str], dict[int, float]] = {}
    for t in found.timings:
        rows.setdefault((t.segment, t.precision or "decision", t.executed), {})[t.batch] = t.milliseconds
    for (segment, precision, executed), times in sorted(rows.items()):
        table.add_row(str(segment), precision, executed, *(f"{times[b]:.3f}" for b in batches))
    Console().print(table)
    Console().print(f"kept in {path}")
