"""The tree that stage `tree` chooses, against trees named by hand, each through the whole method.

    python benchmarks/trees.py EXPERIMENT [--trees "w3a3,w4a4,w8a8 w2a4,w4a4,w8a8"] [--folder FOLDER] [--json FILE]
    python benchmarks/trees.py EXPERIMENT --estimates

Needs the experiment's stages `prepare` and `backbone`, which all trees share. Each tree is an experiment of its own below
FOLDER, with everything else as the experiment says; stages `tree` to `evaluate` run one after the other, and what is
finished stays. Shown are the precisions, `auc` of plan and fitted_q with the interval over seeds or, where there are, over
re-divisions (`evaluate.resplits`), their costs at 0.5 points of accuracy below the float network, and the seconds that
stage `tree` and all stages took. Hand-made trees have uniform bits; `+` before a tree gives it bits by layer.

With `--estimates` nothing but candidates runs, which takes minutes: the set that is chosen on split validation is judged on
split test by the same estimate, over budgets from 1/16 to 1, and so are the trees named by hand, with uniform bits and by
layer. Shown are the area in % and the chosen set's gain with its paired 95 % interval over test images.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from quee.network.execution import MICRO_BATCH
from quee.precision import Precision
from quee.settings.experiment import load_experiment, read_content
from quee.settings.paths import Searched
from quee.settings.quantize import QuantizationConfig
from quee.trees.candidates import JUDGED, Found, candidate, name_of, rows_of, spread
from quee.trees.choice import LOWEST, Sets, choose, difference
from quee.trees.search import Search
from quee.trees.shape import most_precisions
from quee.work.io import read_json, write_json
from tasks.stage import Stage
from tasks.tree import Inputs, formats

HAND_MADE = "w3a3,w4a4,w8a8 w2a4,w4a4,w8a8 w2a3,w3a3,w4a4 w3a3,w4a4,w6a6 w4a4,w6a6,w8a8"
STAGES = ("settings", "tree", "quantize", "exits", "features", "targets", "predictors", "policies", "evaluate")
METHODS = ("quee_plan", "quee_fitted_q")
LINKED = ("data", "dvc.yaml", "quee", "tasks")
SHARED = ("prepare", "backbone")


def blocks_of(content: dict[str, Any], tree: str) -> dict[str, Any]:
    """The experiment's blocks with another tree; `auto` leaves precisions and bits to stage `tree`."""
    named: Any = tree if tree == "auto" else tree.removeprefix("+").split(",")
    paths = {**(content.get("paths") or {}), "precisions": named}
    if tree != "auto":
        paths["references"] = [name for name in paths.get("references", ["fp32"]) if name not in named]
    mixed: bool | str = "auto" if tree == "auto" else tree.startswith("+")
    without = {name: block for name, block in content.items() if name != "ablate"}
    return {**without, "paths": paths, "quantize": {**(content.get("quantize") or {}), "mixed": mixed}}


def project(folder: Path, experiment: str, tree: str) -> Path:
    """A project of one experiment with one tree; `prepare` and `backbone` are copied from the checkout's."""
    root = folder / tree.replace(",", "-")
    artifacts = root / "artifacts" / experiment
    artifacts.mkdir(parents=True, exist_ok=True)
    (root / "experiments").mkdir(exist_ok=True)
    for name in LINKED:
        if not (root / name).exists():
            (root / name).symlink_to(Path(name).resolve())
    for stage in SHARED:
        if not (artifacts / stage).exists():
            shutil.copytree(Path("artifacts") / experiment / stage, artifacts / stage)
    text = (Path("experiments") / f"{experiment}.yaml").read_text(encoding="utf-8")
    blocks = blocks_of(read_content(text, experiment), tree)
    (root / "experiments" / f"{experiment}.yaml").write_text(yaml.safe_dump(blocks), encoding="utf-8")
    return root


def measured(root: Path, experiment: str, tree: str) -> dict[str, Any]:
    """Run what is not finished, and read what came out."""
    artifacts, seconds = root / "artifacts" / experiment, dict[str, float]()
    kept = root / "seconds.json"
    if kept.is_file():
        seconds = read_json(kept)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    for stage in STAGES:
        if not (artifacts / stage).is_dir():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", f"tasks.{stage}", experiment], cwd=root, env=environment, check=True)
            seconds[stage] = time.perf_counter() - began
            write_json(kept, seconds)
    settled, found = read_json(artifacts / "tree" / "tree.json"), read_json(artifacts / "evaluate" / "metrics.json")
    rows: dict[str, Any] = {}
    for method in METHODS:
        own, again = found["methods"][method], found.get("resplits") or {}
        by_seed = {"mean": own["auc"], "low": min(own["auc_by_seed"]), "high": max(own["auc_by_seed"])}
        spread = again.get(f"auc.{method}") or by_seed
        rows[method] = {**spread, "cost_at_drop_0.5": own.get("cost_at_drop_0.5")}
    names = [name + (" by layer" if name in settled["layers"] else "") for name in settled["precisions"]]
    times = {"tree": seconds.get("tree"), "all": sum(seconds.values())}
    return {"tree": tree, "precisions": names, "methods": rows, "seconds": times}


def estimates(experiment: str, trees: Sequence[str]) -> None:
    """Choose on split validation, judge on split test."""
    inputs = Inputs.of(Stage("tree", load_experiment(experiment), Path(), Path("artifacts") / experiment))
    settings, labels, backbone = inputs.stage.experiment, inputs.images.labels, inputs.backbone
    rows = rows_of(inputs.ids, settings.quantize.seed)
    both = replace(rows, judged=np.concatenate([rows.judged, spread(inputs.ids["test"], JUDGED)]))

    def images(ids: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        for _, x, y in inputs.images.batches(ids, backbone.input, MICRO_BATCH):
            yield x, y.numpy()

    def run(configs: Mapping[str, QuantizationConfig]) -> dict[str, Found]:
        return {name: candidate(backbone, config, images, both) for name, config in configs.items()}

    paths = settings.paths.model_copy(update={"precisions": Searched()})
    both_labels = labels[rows.fitted], labels[both.judged]
    quantize = settings.quantize.model_copy(update={"mixed": True})
    search = Search(backbone, paths, quantize, formats(inputs), inputs.few, run, *both_labels)
    found = search.run({(p, by) for p in map(Precision, paths.candidates) for by in {p in search.layered, False}})
    seen = len(rows.judged)
    names = {by: {str(p): name_of(p, by and p in search.layered) for p, _ in found} for by in (True, False)}
    judged = {}
    for split, part, lowest in (("validation", slice(seen), LOWEST), ("test", slice(seen, None), 1 / 16)):
        exits = {
            name_of(*key): replace(e, confidence=e.confidence[part], wrong=e.wrong[part]) for key, e in found.items()
        }
        floor = both_labels[1][part] != np.bincount(both_labels[0]).argmax()
        judged[split] = Sets(exits, floor, search.seed, lowest)
    best, _ = choose(judged["validation"], list(names[True].values()), most_precisions(paths, backbone.segments))
    errors = judged["test"].errors(best)
    print(f"chosen: {', '.join(best)}: {100 * (1 - errors.mean()):.2f} on {len(errors)} test images")
    for tree in trees:
        for by in (False, True):
            others = judged["test"].errors([names[by][name] for name in tree.split(",")])
            gain = {end: round(100 * value, 2) for end, value in difference(errors, others).items()}
            print(f"{tree}{' by layer' if by else ''}: {100 * (1 - others.mean()):.2f}, gain {gain}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--trees", default=HAND_MADE)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--estimates", action="store_true")
    options = parser.parse_args()
    if options.estimates:
        estimates(options.experiment, options.trees.split())
        return
    folder = options.folder or Path(".quee") / "trees" / options.experiment
    rows = []
    for tree in ("auto", *options.trees.split()):
        rows.append(measured(project(folder, options.experiment, tree), options.experiment, tree))
        figures = "  ".join(
            f"{method} {100 * row['mean']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}] cost {row['cost_at_drop_0.5']}"
            for method, row in rows[-1]["methods"].items()
        )
        print(f"{tree}: {', '.join(rows[-1]['precisions'])}  {figures}  {json.dumps(rows[-1]['seconds'])}", flush=True)
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
