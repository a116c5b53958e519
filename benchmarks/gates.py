"""Gates chosen by measurement against evenly spaced ones, on training images that the choice did not see.

    python benchmarks/gates.py BACKBONE WEIGHTS.safetensors DATASET [--kwargs JSON] [--gates 2,3,4,6] [--images 6000]

Of the images, half fit probes, a sixth choose gates, a third judge: `auc` of a confidence cascade of the float network over
budgets from 1/4 to 1, 1 being the whole network. The last columns are the gain over evenly spaced gates, with its paired
95 % interval over the judging images. No test image is used.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from quee.data.source import open_dataset
from quee.data.splits import thinned
from quee.exits import gates as chooser
from quee.network.architectures import create_backbone
from quee.network.base import equal_gates
from quee.network.files import save_backbone
from quee.network.predictions import Networks
from quee.work.io import file_digest
from quee.work.store import Store
from quee.work.workers import Inline, Workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone")
    parser.add_argument("weights", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--kwargs", type=json.loads, default={})
    parser.add_argument("--gates", default="2,3,4,6")
    parser.add_argument("--images", type=int, default=chooser.FITTED + chooser.JUDGED)
    parser.add_argument(
        "--states", type=Path, help="keeps the states in this folder, and reads them there the next time"
    )
    options = parser.parse_args()
    folder = Path("data") / options.dataset
    images = open_dataset(folder, options.dataset)
    backbone = create_backbone(options.backbone, None, **options.kwargs)
    backbone.load_state_dict({name: value.float() for name, value in load_file(options.weights).items()})
    ids = thinned(np.arange(images.train_samples), options.images, 0)
    labels = images.labels[ids]
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        out = Path(temporary)
        save_backbone(out, backbone, options.kwargs)
        networks = Networks.at(folder, options.dataset, {f.name: file_digest(f) for f in folder.glob("*.parquet")}, out)
        began = time.perf_counter()
        lanes = Inline(Workers())
        states, confidence, answer = chooser.pooled_states(
            networks, ids, Store(str((options.states or out / "states").resolve())), lanes
        )
        passed = time.perf_counter() - began
        order = np.random.default_rng(1).permutation(len(ids))
        fitted, choose = order[: len(ids) // 2], order[len(ids) // 2 : len(ids) * 2 // 3]
        held = np.ones(len(ids), bool)
        held[fitted] = False
        began = time.perf_counter()
        exits = chooser.probed(backbone, states, confidence, answer, labels, held)
        print(f"{passed:.0f} s for the states, {time.perf_counter() - began:.0f} s for the probes")
    of_choice = np.isin(np.flatnonzero(held), choose)
    seen, unseen = exits.take(np.flatnonzero(of_choice)), exits.take(np.flatnonzero(~of_choice))
    rows = zip(exits.cost, unseen.wrong.mean(axis=0), strict=True)
    print(
        "block:cost:accuracy", *(f"{block}:{cost:.3f}:{1 - wrong:.3f}" for block, (cost, wrong) in enumerate(rows, 1))
    )
    judge = chooser.Curves(unseen)
    for number in map(int, options.gates.split(",")):
        even = equal_gates(np.diff(exits.cost, prepend=0.0).tolist(), number)
        began = time.perf_counter()
        record = chooser.chosen_of(seen, even).record
        seconds = time.perf_counter() - began
        for name in ("evenly_spaced", "best", "runner_up", "chosen"):
            gates = tuple(record[name]["gates"])
            gain = judge.errors(even) - judge.errors(gates)
            half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
            low, high = 100 * (gain.mean() - half), 100 * (gain.mean() + half)
            found = f"choice {record[name]['auc']:.4f} judged {judge.auc(gates):.4f}"
            print(
                f"{number} {name:14} {list(gates)!s:40} {found} gain {100 * gain.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
            )
        print(f"  {record['tried']} sets in {seconds:.1f} s: {record['reason']}", flush=True)


if __name__ == "__main__":
    main()
