"""`quee cost NAME`: the table behind any cost of an experiment, of weights or of an architecture."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quee.cli import AsJson
from quee.errors import UsageError
from quee.work.extras import require_package

if TYPE_CHECKING:
    from quee.cost import BitFlops, Product
    from quee.network.base import SegmentedBackbone
    from quee.precision import Precision
    from quee.settings.experiment import Experiment
    from quee.trees.settled import Settled


def cost(
    name: Annotated[
        str,
        typer.Argument(
            help="An experiment (experiments/NAME.yaml), weights (data/weights/NAME.safetensors) or a backbone."
        ),
    ],
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
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A keyword of the backbone, where NAME is no experiment; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what each segment costs at each precision, in units of the static w8a8 backbone.

    An experiment is shown with the precisions, bits by layer and number formats of its tree once stage `tree` has run. Before,
    and for weights and backbones, the precisions are all that the tree may have, with uniform bits, and products that
    calibration does not quantize count in bf16. --explain takes any path. A path that ends early is shown with the layers of
    its exit head, once stage `exits` has chosen them.
    """
    if formula not in ("product", "baskin"):
        raise UsageError(f"unknown formula {formula!r}; valid: product, baskin")
    require_package("pyarrow", "`quee cost`", "train")
    if explain is None and not set_ and (counted := _counted(name, formula, elementwise)):
        _show(*counted, as_json)
        return
    require_package("torch", "`quee cost`", "train")
    from quee.cli.keywords import settings_of
    from quee.cost import explain as explain_path
    from quee.cost import float_work, trace_cost
    from quee.paths import parse_path
    from quee.precision import Precision
    from quee.quantization.folding import folded
    from quee.quantization.format_choice import with_format
    from quee.quantization.formats import float_products
    from quee.quantization.layers import own_layers
    from quee.trees.settled import UNIT_PRECISION, configs_of

    backbone, settings, of_experiment = _named(name, settings_of(set_ or []))
    own = {name: str(getattr(settings.quantize, name) or "") for name in ("stem", "head")}
    path = () if explain is None else parse_path(explain)
    settled = _settled(name, settings) if of_experiment else None
    if settled is None:
        shown = [Precision(name) for name in (*settings.paths.possible, *settings.paths.references)]
        products = str(settings.quantize.float_products) if float_products(backbone) else ""
        if products == "auto":
            products = ASSUMED
            where = f": quee run {name}" if of_experiment else " in an experiment"
            typer.echo(
                f"quantize.float_products: auto is counted as {ASSUMED}; stage tree measures it{where}", err=True
            )
        found = configs_of(sorted(p for p in {*shown, *path, UNIT_PRECISION} if not p.is_float), settings.quantize)
        configs = [with_format(config, products) if products else config for config in found.values()]
    else:
        shown = [*settled.tree.precisions, *settled.references]
        configs = list(settled.configs(settings.quantize, path).values())
    layers = own_layers(backbone, configs)
    model = trace_cost(backbone, formula=formula, include_elementwise=elementwise, layers=layers, **own)
    if explain is None:
        _show(backbone.name, model, sorted({*shown}), as_json)
        return
    if len(path) > model.segments:
        raise UsageError(f"path {explain!r} has {len(path)} segments; the backbone has {model.segments}")
    columns = ("product", "segment", "kind", "macs", "bits", "bitflops")
    early = len(path) < model.segments
    head = _exit_products(name if of_experiment else "", settings, backbone, len(path)) if early else []
    lines = [*explain_path(model, path, head)]
    rows: list[dict[str, object]] = [dict(zip(columns, line, strict=True)) for line in lines]
    work = [asdict(each) for each in float_work(*_along(len(path), folded(backbone), model))]
    if as_json:
        typer.echo(json.dumps({"rows": rows, "floating_point": work, "unit_bitflops": model.unit}))
        return
    _table(rows, _title(backbone.name, model))
    total = sum(line[-1] for line in lines)
    typer.echo(f"these products: {total:,.0f} BitFLOPs, {total / model.unit:.4f} of the unit")
    if work:
        typer.echo("\nIn floating point at every precision; elements per sample are counted with --elementwise only:")
        _table(work)


def _along(gates: int, backbone: "SegmentedBackbone", model: "BitFlops") -> "tuple[SegmentedBackbone, BitFlops]":
    """What a path over so many segments executes of a backbone and of its cost model; the backbone loses the rest."""
    from torch import nn

    from quee.network import HEAD

    def executed(segment: int) -> bool:
        return segment <= gates and (segment != HEAD or gates == model.segments)

    for name, module in [*backbone.named_modules()]:
        if not list(module.children()) and not executed(backbone.segment_of(name)):
            backbone.set_submodule(name, nn.Identity())
    products = tuple(product for product in model.products if executed(product.segment))
    elementwise = tuple(part for part in model.elementwise if executed(part.segment))
    return backbone, replace(model, products=products, elementwise=elementwise)


def _show(backbone: str, model: "BitFlops", precisions: "list[Precision]", as_json: bool) -> None:
    """Print the cost of each segment at each precision."""
    rows: list[dict[str, object]] = [
        {"segment": "head" if segment == 0 else str(segment), **{str(p): model.cost(segment, p) for p in precisions}}
        for segment in (*range(1, model.segments + 1), 0)
    ]
    whole = {str(p): model.static((p,) * model.segments) / model.unit for p in precisions}
    rows.append({"segment": "whole", **whole})
    if as_json:
        typer.echo(json.dumps({"rows": rows, "unit_bitflops": model.unit}))
        return
    _table(rows, _title(backbone, model))


def _title(backbone: str, model: "BitFlops") -> str:
    return f"{backbone}: unit {model.unit:,.0f} BitFLOPs (static w8a8), {model.macs:,} MACs"


def _counted(name: str, formula: str, elementwise: bool) -> "tuple[str, BitFlops, list[Precision]] | None":
    """An experiment's backbone, cost model and precisions, as stage `quantize` counted them; no network is made.

    None where it has not run, or ran with another network, tree or configs than the settings say now.
    """
    from quee.cost import BitFlops
    from quee.data.weights_facts import built_with
    from quee.settings.experiment import load_experiment
    from quee.settings.names import experiment_names
    from quee.trees.settled import NAME, read_settled
    from quee.work.io import read_json

    folder = Path("artifacts") / name
    files = [folder / "tree" / NAME, folder / "backbone" / "backbone.json", folder / "quantize" / "quantization.json"]
    if not all(file.is_file() for file in files) or name not in experiment_names():
        return None
    settings, settled = load_experiment(name, Path("experiments")), read_settled(folder / "tree")
    own, used, counted = settings.backbone, read_json(files[1]), read_json(files[2])
    stated, parts = json.loads(json.dumps(built_with(own))), {part: counted["cost"][part] for part in ("head", "stem")}
    configs = {str(p): config.to_json() for p, config in settled.configs(settings.quantize).items()}
    same = (
        used["name"] == own.name
        and tuple(used["gates"]) == settled.gates
        and own.fixed_gates in (None, settled.gates)
        and all(used["kwargs"].get(key) == value for key, value in stated.items())
        and counted["configs"] == json.loads(json.dumps(configs))
        and parts == {part: str(getattr(settings.quantize, part) or "") for part in parts}
    )
    if not same:
        return None
    model = replace(BitFlops.from_json(counted["cost"]), formula=formula, include_elementwise=elementwise)
    return own.name, model, sorted({*settled.tree.precisions, *settled.references})


def _measured_gates(experiment: str, backbone: "SegmentedBackbone", gates: int) -> tuple[int, ...]:
    """The gates that stage `backbone` chose; evenly spaced ones, which is said, before it has run."""
    from quee.exits.gates import evenly_spaced
    from quee.work.io import read_json

    file = Path("artifacts") / experiment / "backbone" / "backbone.json"
    if file.is_file():
        return tuple(read_json(file)["gates"])
    found = evenly_spaced(backbone, gates)
    print(
        f"backbone.gates: auto: stage backbone chooses them; shown for evenly spaced ones, {list(found)}",
        file=sys.stderr,
    )
    return found


def _classes(experiment: str, dataset: str) -> dict[str, int]:
    """Keyword for the number of classes: what stage `backbone` used, or the data set's; empty, with a note, for neither."""
    from quee.data import dataset_called
    from quee.work.io import read_json

    file = Path("artifacts") / experiment / "backbone" / "backbone.json"
    if file.is_file():
        used = read_json(file)["kwargs"].get("num_classes")
        return {} if used is None else {"num_classes": used}
    if count := len(dataset_called(dataset).classes):
        return {"num_classes": count}
    print(
        f"counted with the backbone's own number of classes; {dataset}'s is known once stage backbone has run",
        file=sys.stderr,
    )
    return {}


ASSUMED = "bf16"
"""Number format of products that calibration does not quantize, until it is chosen."""


def _settled(name: str, settings: "Experiment") -> "Settled | None":
    """The tree that stage `tree` settled; None, and a note where it chooses anything, before it has run."""
    from quee.trees.settled import NAME, read_settled

    folder = Path("artifacts") / name / "tree"
    if (folder / NAME).is_file():
        return read_settled(folder)
    if not settings.paths.named:
        typer.echo(f"paths.precisions: auto: stage tree chooses among those shown: quee run {name}", err=True)
    if settings.quantize.mixed:
        typer.echo(
            "quantize.mixed: shown for uniform bits; those by layer, of stage tree, cost at most as much", err=True
        )
    return None


def _named(name: str, given: dict[str, Any]) -> "tuple[SegmentedBackbone, Experiment, bool]":
    """The backbone of a name with the settings of its costs, and whether these are an experiment's.

    An experiment of that name comes before weights, and these before a backbone. Raises UsageError for any other name.
    """
    from quee.data.weights import head_classes
    from quee.data.weights_facts import NAME, WEIGHTS, built_with, weights_facts, weights_path
    from quee.network.architectures import create_backbone, is_headless, refuse_unknown
    from quee.settings.experiment import checked_experiment, load_experiment
    from quee.settings.names import experiment_names
    from quee.work.registry import listed

    experiments = experiment_names()
    if name in experiments:
        if given:
            raise UsageError(
                f"--set {min(given)}: {name!r} is an experiment; its keywords are in experiments/{name}.yaml"
            )
        settings = load_experiment(name, Path("experiments"))
        own = settings.backbone
        kwargs: dict[str, Any] = {**_classes(name, settings.prepare.dataset), **built_with(own)}
        made = create_backbone(own.name, own.fixed_gates, **kwargs)
        if own.fixed_gates is None:
            made.set_gates(_measured_gates(name, made, own.segments))
        return made, settings, True
    backbone, kwargs = name, given
    if NAME.fullmatch(name) and weights_path(name).is_file():
        facts = weights_facts(weights_path(name))
        classes = head_classes(weights_path(name))
        backbone = facts.backbone
        kwargs = {**(facts.kwargs or {}), **({} if classes is None else {"num_classes": classes}), **given}
    else:
        here = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
        known = listed(name, experiments, "`quee experiments list`")
        stored = listed(name, here, "`quee weights list`")
        refuse_unknown(name, f"{name!r} is no experiment (there are: {known}) and no weights (there are: {stored}); ")
    if is_headless(backbone) and "num_classes" not in kwargs:
        raise UsageError(f"{name!r} has no head, whose cost counts: give --set num_classes=N")
    made = create_backbone(backbone, **kwargs)
    blocks = {"prepare": {"dataset": "none"}, "backbone": {"name": backbone, "gates": list(made.gates)}}
    return made, checked_experiment("quee cost", name="cost", **blocks), False


def _exit_products(name: str, settings: "Experiment", backbone: "SegmentedBackbone", gate: int) -> "list[Product]":
    """The layers of the exit head at a gate: as an experiment chose or named them; a note where neither tells.

    `name` is empty where there is no experiment.
    """
    from quee.exits.heads import head_products
    from quee.work.io import read_json

    chosen = Path("artifacts") / name / "exits" / "metrics.json"
    exits = settings.exits
    if name and chosen.exists() and (found := read_json(chosen).get("heads", {}).get(str(gate))):
        return head_products(gate, found["sizes"])
    if "auto" in (exits.pooling, exits.head):
        stage = f"stage exits chooses: quee run {name}" if name else "stage exits of an experiment chooses"
        typer.echo(f"without exit head {gate}, which {stage}", err=True)
        return []
    hidden = [exits.hidden] if exits.head == "hidden" else []
    return head_products(gate, [backbone.pooled_width(gate, exits.pooling), *hidden, backbone.num_classes])


def _table(rows: list[dict[str, object]], title: str | None = None) -> None:
    """Print rows whose first entry names them; columns for which there is no room follow below."""
    from rich.console import Console

    from quee.work.columns import tables

    console = Console()
    if title:
        console.print(title, soft_wrap=True, highlight=False)
    cells = [[_cell(value) for value in row.values()] for row in rows]
    for table in tables(list(rows[0]), cells, console.width, gap=2, left=("kind", "segment")):
        console.print(table, highlight=False)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
