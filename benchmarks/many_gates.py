"""Seven gates: does a subset of the paths suffice where the tree is large (claim 8), and what do more gates bring?

    python benchmarks/many_gates.py [EXPERIMENT] [--gates 1,2,…,7] [--sets 1,3,5,7:1,2,4,7] [--networks RESULTS]
                                    [--folder FOLDER] [--json FILE]

The pipeline runs on `SHARES` of the evaluation images with a gate behind every block. At three precisions that are 3,279 nodes,
so the cache holds a part of them: the paths with at most one switch, those whose precision never falls or never rises, a
uniform sample (`--nodes`), and all paths of the smaller sets of gates (`--sets`). Every row of the tables is a part of this one
cache, so that networks, heads, images and budgets are the same. Samples of fewer paths are drawn from the cached sample.

Each row: `auc` on test of policies `plan` and `fitted_q`, points chosen on validation, targets and predictors fitted anew for
each of `--seeds` seeds with predictor and validation images divided anew. Gains are over the first row, with 95 % intervals
over families of test images and seeds (`quee.evaluation.ablation.table`). Data: `make street-characters`.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from projects import ROOT, run_stages, write_project

from quee.cache.answers import with_ensembles
from quee.cache.build import build_cache, write_description
from quee.cache.read import FeatureCache, read_cache
from quee.cost import BitFlops, trace_cost
from quee.data.splits import split_groups
from quee.evaluation.ablation.fit import DIVISIONS, USED, Outcome, Prepared, Recipe, Study, evaluate, fit
from quee.evaluation.ablation.table import compare
from quee.evaluation.ablation.views import smaller, view
from quee.evaluation.resplits import redivide
from quee.network.files import load_backbone
from quee.paths import PathTree, path_name
from quee.settings.experiment import load_experiment, read_content
from quee.settings.paths import Considered
from quee.work.io import read_json, write_json, write_table
from quee.work.store import Store
from quee.work.threads import one_thread

SHARES = {"predictor": 0.075, "validation": 0.025, "certification": 0.0, "test": 0.05}
PRECISIONS = ("w3a3", "w4a4", "w8a8")
RULES = {
    "uniform": Considered(max_switches=0),
    "at most 1 switch": Considered(max_switches=1),
    "never falls": Considered(monotone="up"),
    "never rises": Considered(monotone="down"),
}
SIZES = (40, 120, 250)
POLICIES = ("plan", "fitted_q")
FEW: dict[str, dict[str, Any]] = {"exits": {"draws": 1, "max_samples": 4000, "pooling": "cls_mean", "head": "linear"}}


def content_of(experiment: str, gates: Sequence[int], epochs: int) -> dict[str, Any]:
    """The blocks of an experiment with other gates, on few images."""
    file = ROOT / "experiments" / f"{experiment}.yaml"
    content = read_content(file.read_text(), str(file))
    content["prepare"]["splits"] = {**content["prepare"]["splits"], **SHARES}
    content["backbone"]["gates"] = list(gates)
    content["paths"] = {"precisions": list(PRECISIONS), "references": [], "considered": {"max_switches": 1}}
    content["predictors"] = {"epochs": epochs}
    content["ablate"] = {"divide": "learning"}
    return {**content, **{name: {**content.get(name, {}), **own} for name, own in FEW.items()}}


def largest_sample(segments: int, nodes: int) -> PathTree:
    """The tree of the most sampled paths that has at most so many nodes."""
    found = PathTree(PRECISIONS, segments, Considered(max_switches=0))
    for count in range(1, len(PRECISIONS) ** segments):
        tree = PathTree(PRECISIONS, segments, Considered(sample=count))
        if len(tree) > nodes:
            break
        found = tree
    return found


def spread(path: Sequence[Any], gates: Sequence[int]) -> tuple[Any, ...]:
    """A path between some gates as one between all of them."""
    spans = np.diff((0, *gates))
    return tuple(precision for precision, span in zip(path, spans, strict=False) for _ in range(span))


def cached_paths(segments: int, sampled: PathTree, sets: Sequence[Sequence[int]]) -> list[str]:
    """Names of all paths of the cache, in the order of nodes."""
    found = {path for tree in (sampled, *(PathTree(PRECISIONS, segments, r) for r in RULES.values())) for path in tree}
    whole = {spread(path, gates) for gates in sets for path in PathTree(PRECISIONS, len(gates))}
    found |= {path[:length] for path in whole for length in range(1, len(path) + 1)}
    return [
        path_name(path)
        for path in sorted(found, key=lambda path: (len(path), [PRECISIONS.index(str(p)) for p in path]))
    ]


def adopt(artifacts: Path, out: Path, gates: Sequence[int]) -> None:
    """Take the networks of an experiment's results, with other gates; they were calibrated for its own."""
    for stage in ("backbone", "quantize"):
        if not (out / stage).is_dir():
            shutil.copytree(artifacts / stage, out / stage)
    write_json(
        out / "backbone" / "backbone.json", {**read_json(out / "backbone" / "backbone.json"), "gates": list(gates)}
    )
    described = read_json(out / "quantize" / "quantization.json")
    before = BitFlops.from_json(described["cost"])
    cost = trace_cost(load_backbone(out / "backbone"), stem=before.stem, head=before.head, layers=before.layers)
    write_json(out / "quantize" / "quantization.json", {**described, "cost": cost.to_json()})


def features(folder: Path, name: str, paths: Sequence[str]) -> FeatureCache:
    """The cache of these paths, computed by stage `features`' own functions."""
    from tasks.features import described, held_out, multiply_adds, recipe_of
    from tasks.scale import read_scale
    from tasks.stage import Stage

    out = folder / "artifacts" / name / "features"
    if not (out / "tree.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        stage = Stage("features", load_experiment(name, folder / "experiments"), out, folder / "artifacts" / name)
        scale = read_scale()
        recipe = replace(
            recipe_of(stage, scale.device),
            paths=tuple(paths),
            data=str((folder / "data" / stage.data.name).resolve()),
        )
        samples, splits = held_out(stage)
        began = time.perf_counter()
        store = Store(str((folder / "shards").resolve()))
        build_cache(
            recipe,
            samples,
            splits,
            store,
            out,
            scale.shard_size,
            scale.lanes(multiply_adds(stage, recipe, len(samples))),
        )
        groups = split_groups(stage.input("prepare") / "splits.parquet", samples)
        if groups is not None:
            write_table(out / "groups.parquet", pa.table({"sample_id": samples, "group": groups}))
        write_description(out, described(stage, recipe))
        print(f"features: {len(samples)} images, {len(paths)} nodes, {time.perf_counter() - began:.0f} s", flush=True)
    return read_cache(out, heads=True)


@dataclass(frozen=True)
class Row:
    """A part of the cache: the gates, and the considered paths between them."""

    name: str
    gates: tuple[int, ...]
    paths: tuple[str, ...] | None = None
    """Full-length paths between these gates; None for all that are cached."""


def rows_of(segments: int, sampled: PathTree, cached: PathTree, sets: Sequence[Sequence[int]], draws: int) -> list[Row]:
    """The rows of the table; the first is the sample of the most paths, with which all are compared."""
    every = tuple(range(1, segments + 1))

    def full(tree: PathTree) -> tuple[str, ...]:
        return tuple(tree.name(node) for node in tree.nodes_at(segments))

    found = [Row(f"sample, {len(sampled)} nodes", every, full(sampled)), Row("all cached", every)]
    found += [Row(name, every, full(PathTree(PRECISIONS, segments, rule))) for name, rule in RULES.items()]
    uniform = [name for name in full(sampled) if len(set(name.split("-"))) == 1]
    others = [name for name in full(sampled) if name not in uniform]
    for size in (size for size in SIZES if size < len(sampled)):
        for draw in range(draws):
            order = [others[i] for i in np.random.default_rng([7, draw]).permutation(len(others))]
            count = next(c for c in range(len(order) + 1, 0, -1) if nodes_of([*uniform, *order[: c - 1]]) <= size)
            found.append(Row(f"sample, {size} nodes, draw {draw}", every, (*uniform, *order[: count - 1])))
    found += [Row("gates " + " ".join(map(str, gates)), tuple(gates)) for gates in sets]
    return found


def nodes_of(paths: Sequence[str]) -> int:
    """Number of nodes of full-length paths and their prefixes."""
    split = [tuple(path.split("-")) for path in paths]
    return len({path[:length] for path in split for length in range(1, len(path) + 1)})


def part(cache: FeatureCache, row: Row) -> FeatureCache:
    """The cache of a row's tree."""
    small, nodes = smaller(cache.tree, PRECISIONS, row.gates, Considered())
    if row.paths is not None:
        kept = {
            path[:length] for path in (tuple(p.split("-")) for p in row.paths) for length in range(1, len(path) + 1)
        }
        chosen = [i for i, path in enumerate(small.paths) if tuple(map(str, path)) in kept]
        small, nodes = PathTree.from_names(PRECISIONS, small.segments, [small.name(i) for i in chosen]), nodes[chosen]
    own = view(cache.select(np.isin(cache.split, USED)), small, nodes)
    return with_ensembles(own)


def outcomes(study: Study, row: Row, seeds: int) -> dict[str, list[Outcome]]:
    """Outcomes of every policy by seed."""
    e, found = study.experiment, {policy: list[Outcome]() for policy in POLICIES}
    gates = tuple(range(1, len(row.gates) + 1))
    for seed in range(seeds):
        own = part(replace(study.cache, **_divided(study, seed)), row)
        recipe = Recipe(
            precisions=PRECISIONS, gates=gates, clusters=e.targets.clusters, hidden=e.predictors.hidden,
            first_step=e.policies.first_step,
        )  # fmt: skip
        parts = [own.of(split) for split in USED]
        predictors = fit(study, Prepared(recipe, seed, *parts))
        for policy in POLICIES:
            prepared = Prepared(recipe.model_copy(update={"policy": policy}), seed, *parts)
            found[policy].append(evaluate(study, prepared, predictors))
    return found


def _divided(study: Study, seed: int) -> dict[str, Any]:
    return {"split": redivide(study.cache, seed, DIVISIONS["learning"]).split}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="street_characters")
    parser.add_argument("--gates", default="1,2,3,4,5,6,7")
    parser.add_argument(
        "--sets",
        default="1,3,5,7:1,2,4,7:1,2,5,7",
        help="smaller sets of gates, counted from 1, all of whose paths are cached",
    )
    parser.add_argument("--nodes", type=int, default=500, help="most nodes of the sampled tree")
    parser.add_argument("--draws", type=int, default=2, help="samples of each smaller size")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=200, help="most epochs of a predictor")
    parser.add_argument(
        "--rows", help="only rows whose name has one of these words, and the first; separated by commas"
    )
    parser.add_argument(
        "--networks", type=Path, help="an experiment's results, whose networks are used instead of new ones"
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    gates = [int(gate) for gate in options.gates.split(",")]
    sets = [[int(gate) for gate in own.split(",")] for own in options.sets.split(":")] if options.sets else []
    name = f"{options.experiment}_gates"
    with tempfile.TemporaryDirectory() as temporary, one_thread():
        folder: Path = options.folder or Path(temporary)
        content = content_of(options.experiment, gates, options.epochs)
        write_project(folder, name, content, content["backbone"]["weights"])
        if options.networks is not None:
            adopt(options.networks, folder / "artifacts" / name, gates)
        run_stages(("prepare", "backbone", "quantize", "exits"), folder, name)
        segments = len(gates)
        sampled = largest_sample(segments, options.nodes)
        cache = features(folder, name, cached_paths(segments, sampled, sets))
        rows = rows_of(segments, sampled, cache.tree, sets, options.draws)
        if options.rows:
            rows = rows[:1] + [row for row in rows[1:] if any(word in row.name for word in options.rows.split(","))]
        study = Study(cache, load_experiment(name, folder / "experiments"), "")
        found: dict[str, list[list[Outcome]]] = {policy: [] for policy in POLICIES}
        for row in rows:
            began = time.perf_counter()
            for policy, own in outcomes(study, row, options.seeds).items():
                found[policy].append(own)
                auc = [round(outcome.facts["auc"], 4) for outcome in own]
                print(
                    row.name,
                    f"{own[0].facts['nodes']:.0f} nodes",
                    policy,
                    auc,
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )
    groups, table = cache.of("test").group, list[dict[str, Any]]()
    for policy, all_rows in found.items():
        area, _ = compare(all_rows, None, 2000, 0, groups)
        gains = [(0.0, 0.0), *zip(area.mean.tolist(), area.single.tolist(), strict=True)]
        for row, own, (gain, half) in zip(rows, all_rows, gains, strict=True):
            auc = float(np.mean([outcome.facts["auc"] for outcome in own]))
            table.append(
                {
                    "row": row.name,
                    "policy": policy,
                    "nodes": int(own[0].facts["nodes"]),
                    "auc": auc,
                    "gain": gain,
                    "half_width": half,
                }
            )
            print(
                f"| {row.name} | {int(own[0].facts['nodes'])} | {policy} | {100 * auc:.2f} "
                f"| {100 * gain:+.2f} ± {100 * half:.2f} |"
            )
    counts = {split: int((cache.split == split).sum()) for split in USED}
    if options.json is not None:
        options.json.write_text(json.dumps({"images": counts, "rows": table, "seeds": options.seeds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
