"""`quee cost EXPERIMENT`: the table behind any cost."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from quee.cli import AsJson


def cost(
    experiment: Annotated[str, typer.Argument(help="Name of a file experiments/NAME.yaml.")],
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="PATH",
            help="Show every product of a path such as w3a3-w4a4-w8a8-w8a8, and what stays in floating point.",
        ),
    ] = None,
    elementwise: Annotated[bool, typer.Option("--elementwise", help="Count elementwise work at 32×32 too.")] = False,
    formula: Annotated[str, typer.Option(help="`product`, or `baskin`, which counts accumulation too.")] = "product",
    as_json: AsJson = False,
) -> None:
    """Show what each segment costs at each precision, in units of the static w8a8 backbone.

    With `quantize.mixed` the bits of layers are chosen on the calibration samples. Their cost is in
    artifacts/EXPERIMENT/quantize/metrics.json; it is at most the cost shown here.
    """
    from quee.cost import explain as explain_path
    from quee.cost import float_work, trace_cost
    from quee.data.weights import built_with
    from quee.errors import UsageError
    from quee.network.architectures import create_backbone
    from quee.paths import parse_path
    from quee.precision import FLOATS, Precision
    from quee.quantization.folding import folded
    from quee.quantization.layers import own_layers
    from quee.settings.experiment import load_experiment
    from quee.settings.quantize import QuantizationConfig

    if formula not in ("product", "baskin"):
        raise UsageError(f"unknown formula {formula!r}; valid: product, baskin")
    settings = load_experiment(experiment, Path("experiments"))
    backbone = create_backbone(settings.backbone.name, settings.backbone.gates, **built_with(settings.backbone))
    own = {name: str(getattr(settings.quantize, name) or "") for name in ("stem", "head")}
    names = {*settings.paths.precisions, *settings.paths.references, "w8a8"}
    configs = [QuantizationConfig(name, layers=settings.quantize.layers) for name in names if name not in FLOATS]
    layers = own_layers(backbone, configs)
    model = trace_cost(backbone, formula=formula, include_elementwise=elementwise, layers=layers, **own)
    if explain is not None:
        path = parse_path(explain)
        if len(path) > model.segments:
            raise UsageError(f"path {explain!r} has {len(path)} segments; the backbone has {model.segments}")
        columns = ("product", "segment", "kind", "macs", "bits", "bitflops")
        rows = [dict(zip(columns, row, strict=True)) for row in explain_path(model, path)]
    else:
        precisions = [Precision(name) for name in (*settings.paths.precisions, *settings.paths.references)]
        rows = [
            {
                "segment": "head" if segment == 0 else str(segment),
                **{str(p): model.cost(segment, p) for p in precisions},
            }
            for segment in (*range(1, model.segments + 1), 0)
        ]
        rows.append(
            {"segment": "whole", **{str(p): model.static((p,) * model.segments) / model.unit for p in precisions}}
        )
    work = [] if explain is None else [asdict(each) for each in float_work(folded(backbone), model)]
    if as_json:
        said = {} if explain is None else {"floating_point": work}
        typer.echo(json.dumps({"rows": rows, **said, "unit_bitflops": model.unit}))
        return
    _table(rows, f"{settings.backbone.name}: unit {model.unit:,.0f} BitFLOPs (static w8a8), {model.macs:,} MACs")
    if work:
        _table(work, "In floating point at every precision; elements per sample are counted with --elementwise only")


def _table(rows: list[dict[str, object]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("product", "kind", "segment") else "right")
    for row in rows:
        table.add_row(
            *(
                f"{v:.4f}"
                if isinstance(v, float) and v < 1000
                else f"{v:,.0f}"
                if isinstance(v, float)
                else f"{v:,}"
                if isinstance(v, int)
                else str(v)
                for v in row.values()
            )
        )
    Console().print(table)
