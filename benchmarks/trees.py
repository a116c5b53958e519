"""The tree that stage `tree` chooses, against trees named by hand, each through the whole method.

    python benchmarks/trees.py EXPERIMENT [--trees "w3a3,w4a4,w8a8 w2a4,w4a4,w8a8"] [--folder FOLDER] [--json FILE]

Needs the experiment's stages `prepare` and `backbone`, which all trees share. Each tree is an experiment of its own below
FOLDER, with everything else as the experiment says; stages `tree` to `evaluate` run one after the other, and what is
finished stays. Shown are the precisions, `auc` of plan and fitted_q with the interval over seeds or, where there are, over
re-divisions (`evaluate.resplits`), their costs at 0.5 points of accuracy below the float network, and the seconds that
stage `tree` and all stages took. Hand-made trees have uniform bits; `+` before a tree gives it bits by layer.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from quee.settings.experiment import read_content
from quee.work.io import read_json, write_json

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--trees", default=HAND_MADE)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
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
