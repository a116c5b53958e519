"""Exits behind a frozen network of maps: the ideas of SDN and ZTW on the same network, at shares of its multiply-adds.

    python benchmarks/exits_behind_frozen.py [WEIGHTS] [--dataset cifar10] [--gates 4,8,12,16,20,24] [--heads NAMES]
                                             [--passes 2] [--seeds 3] [--epochs N] [--states FOLDER] [--csv FILE]
                                             [--experiment NAME] [--extract GATES]

WEIGHTS is a name of `quee weights add`; by default the public ResNet-56 for CIFAR-10. The float network is run once over
the training images, flipped and shifted anew in each pass, and over the test images. Its maps at the gates are kept in
FOLDER as means and maxima over a 4×4 grid. Heads are fitted on the training images alone:

    linear    SDN (arXiv 1810.07052): a learned mixture of means and maxima, one linear layer
    cascade   ZTW (arXiv 2106.05409): the same, and the logits of the head before it are inputs
    hidden    means and maxima side by side, standardised, and one hidden layer of 128 rectified units
    hidden-cascade

A sample leaves at the first gate whose confidence reaches a threshold (`alone`), or whose geometric ensemble with the
heads before it does (`ensemble`: weights fitted on training images, as ZTW does; `ensemble-held-out`: on the other half
of the test images). The two halves of the test images choose thresholds for each other, by mean cost alone. Costs are
multiply-adds of the network and of all heads visited. Intervals are 95 %, from a bootstrap over test images and seeds.
With --experiment, the curves of that experiment's stage `evaluate` follow: float exits at the same shares, and all
precisions at shares of the w8a8 network's BitFLOPs. Fitted heads are kept in FOLDER too, so an interrupted run goes on.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peers.states import extract, load
from torch import Tensor, nn
from torch.nn import functional

from quee import create_backbone
from quee.cost import trace_cost
from quee.data.source import ImageSource, open_dataset
from quee.data.weights import load_weights
from quee.data.weights_facts import weights_facts, weights_path
from quee.ensembles import Ensemble
from quee.errors import QueeError
from quee.evaluation.draws import Draws
from quee.intervals import interval
from quee.network.base import SegmentedBackbone
from quee.policies.sweep import Sweep
from quee.policies.thresholds import first_exit
from quee.policies.ztw import RIDGE
from quee.quantization.folding import folded
from quee.work.io import read_table, read_tensors, write_tensors
from quee.work.progress import progress

SHARES = (0.25, 0.5, 0.75, 1.0)
ANSWERS = ("alone", "ensemble", "ensemble-held-out")
THRESHOLDS = 400
HIDDEN = 128
SCORED = 20_000
"""Training images on which ensembles are fitted."""
FLOAT, W8A8 = 16.0, 1.0
"""Costs of the static float network and of the static w8a8 network."""


@dataclass(frozen=True)
class Kind:
    """How heads read a gate, and how they are trained."""

    hidden: bool
    cascade: bool

    @property
    def batch(self) -> int:
        return 512 if self.hidden else 128

    @property
    def rate(self) -> float:
        return 0.002 if self.hidden else 0.001

    @property
    def epochs(self) -> int:
        return 12 if self.hidden else 25


KINDS = {
    "linear": Kind(hidden=False, cascade=False),
    "cascade": Kind(hidden=False, cascade=True),
    "hidden": Kind(hidden=True, cascade=False),
    "hidden-cascade": Kind(hidden=True, cascade=True),
}


class Head(nn.Module):
    """States (n, 2, D), means and maxima, and earlier logits (n, classes) to logits."""

    def __init__(self, kind: Kind, sample: Tensor, classes: int, earlier: bool) -> None:
        super().__init__()
        self.kind, self.earlier = kind, earlier
        width = sample.shape[2]
        inputs = (2 * width if kind.hidden else width) + classes * earlier
        self.mixture = nn.Parameter(torch.rand(1))
        self.layers = nn.Linear(inputs, classes)
        if kind.hidden:
            self.layers = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
            flat = sample.float().flatten(1)
            self.register_buffer("mean", flat.mean(dim=0))
            self.register_buffer("scale", flat.std(dim=0).clamp_min(1e-3))

    def forward(self, state: Tensor, earlier: Tensor | None) -> Tensor:
        if self.kind.hidden:
            seen = (state.flatten(1) - self.mean) / self.scale
        else:
            seen = torch.lerp(state[:, 0], state[:, 1], self.mixture)
        if self.earlier and earlier is not None:
            seen = torch.cat([seen, earlier.detach()], dim=1)
        found: Tensor = self.layers(seen)
        return found

    @property
    def macs(self) -> int:
        linear = sum(m.in_features * m.out_features for m in self.modules() if isinstance(m, nn.Linear))
        return linear + (
            0 if self.kind.hidden else 2 * (self.layers.in_features - self.layers.out_features * self.earlier)
        )


class Heads(nn.Module):
    """A head at every gate before the last."""

    def __init__(self, kind: Kind, samples: Sequence[Tensor], classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            Head(kind, sample, classes, kind.cascade and gate > 0) for gate, sample in enumerate(samples)
        )

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        for head, state in zip(self.heads, states, strict=True):
            found.append(head(state, found[-1] if found else None))
        return found

    def log_probs(self, states: Sequence[np.ndarray], last: np.ndarray) -> np.ndarray:
        """(n, gates, classes) float32, the network's own logits last."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(last), 1000):
                rows = slice(start, start + 1000)
                logits = [*self([torch.from_numpy(s[rows]).float() for s in states]), torch.from_numpy(last[rows])]
                parts.append(torch.stack(logits, dim=1).log_softmax(dim=2).numpy())
        return np.concatenate(parts)


def fitted(kind: Kind, passes: Sequence[Sequence[np.ndarray]], labels: np.ndarray, epochs: int, seed: int) -> Heads:
    """Heads trained by Adam with weight decay 1e-4; the rate falls to a tenth after three fifths of the epochs."""
    torch.manual_seed(seed)
    known = [[torch.from_numpy(state) for state in states] for states in passes]
    y = torch.from_numpy(labels.astype(np.int64))
    heads = Heads(kind, [state[:5000] for state in known[0]], int(y.max()) + 1)
    adam = torch.optim.Adam(heads.parameters(), lr=kind.rate, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.MultiStepLR(adam, [round(0.6 * epochs)], 0.1)
    with progress(f"heads of seed {seed}", epochs) as bar:
        for epoch in range(epochs):
            states = known[epoch % len(known)]
            for rows in torch.randperm(len(y)).split(kind.batch):
                losses = [
                    functional.cross_entropy(z, y[rows]) for z in heads([state[rows].float() for state in states])
                ]
                adam.zero_grad()
                torch.stack(losses).sum().backward()
                adam.step()
            falling.step()
            bar.advance(1, f"epoch {epoch + 1} loss {sum(losses).item() / len(losses):.3f}")
    return heads


class Trial:
    """A frozen network, its states at some gates, and the costs of leaving there."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.states) / options.weights
        self.gates: tuple[int, ...] = options.gates
        path = weights_path(options.weights)
        facts = weights_facts(path)
        backbone = create_backbone(facts.backbone, **dict(facts.kwargs or {}))
        load_weights(backbone, path, False)
        depth = len(backbone.block_names)
        backbone.set_gates((*self.gates, depth))
        cost = trace_cost(backbone)
        macs = [sum(p.macs for p in cost.products if p.segment == segment) for segment in range(backbone.segments + 1)]
        backbone.set_gates((*sorted({*self.gates, *options.extract}), depth))
        self.whole, self.before, self.own = cost.macs, np.cumsum(macs[1:]), macs[0]
        self.folder.mkdir(parents=True, exist_ok=True)
        source = open_dataset(Path("data") / options.dataset, options.dataset)
        self.labels = source.labels[: source.train_samples].astype(np.int64)
        self.wanted = source.labels[source.train_samples :].astype(np.int64)
        self._read(folded(backbone.eval()), source)

    def _read(self, backbone: SegmentedBackbone, source: ImageSource) -> None:
        ids, names = np.arange(len(source)), [str(gate) for gate in self.gates]
        train, test = ids[: source.train_samples], ids[source.train_samples :]
        self.test = load(extract(backbone, source, test, None, self.folder, "test"), names)
        self.passes = [
            load(extract(backbone, source, train, seed, self.folder, f"train{seed}"), names)
            for seed in range(self.options.passes)
        ]
        self.names = names

    def heads(self, name: str, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Log-probabilities `train` and `test` (n, gates, classes) of fitted heads, and their multiply-adds (gates,)."""
        kind = KINDS[name]
        epochs = self.options.epochs or kind.epochs
        title = f"heads-{name}-{'-'.join(self.names)}-{self.options.passes}-{epochs}-{seed}.safetensors"
        if not (self.folder / title).is_file():
            start = time.process_time()
            by_pass = [[own[gate] for gate in self.names] for own in self.passes]
            heads = fitted(kind, by_pass, self.labels, epochs, seed)
            print(f"{name} seed {seed}: {time.process_time() - start:.0f} CPU s", file=sys.stderr)
            scored = [state[:SCORED] for state in by_pass[0]]
            write_tensors(
                self.folder / title,
                {
                    "macs": np.array([*(head.macs for head in heads.heads), self.own]),
                    "test": heads.log_probs([self.test[gate] for gate in self.names], self.test["logits"]),
                    "train": heads.log_probs(scored, self.passes[0]["logits"][:SCORED]),
                },
            )
        tensors = read_tensors(self.folder / title)
        return tensors, tensors["macs"]

    def measured(self, name: str, answer: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Errors (S, shares + 1) of test images at each share and without a limit, their mean costs, and errors (S, gates)."""
        tensors, macs = self.heads(name, seed)
        gates = np.arange(1, tensors["test"].shape[1] + 1)
        mixing = 0 if answer == "alone" else np.cumsum(gates * tensors["test"].shape[2])
        spent = (self.before + np.cumsum(macs) + mixing) / self.whole
        halves = [np.arange(len(self.wanted)) % 2 == half for half in (0, 1)]
        errors = np.zeros((len(self.wanted), len(SHARES) + 1))
        costs = np.zeros_like(errors)
        alone = np.zeros((len(self.wanted), len(gates)))
        for chooses, measures in (halves, halves[::-1]):
            q = self._answers(tensors, answer, chooses)
            wrong, score = q.argmax(axis=2) != self.wanted[:, None], np.exp(q.max(axis=2))
            values = np.append(np.quantile(score[chooses][:, :-1], np.linspace(0, 1, THRESHOLDS - 1)), np.inf)
            exits = first_exit(score[:, None, :-1] >= values[:, None])
            taken = np.take_along_axis(wrong, exits, axis=1)
            parts = {"validation": chooses, "test": measures}
            sweep = Sweep(
                name,
                "threshold",
                values,
                {split: taken[rows] for split, rows in parts.items()},
                {split: spent[exits[rows]] for split, rows in parts.items()},
            )
            mix = np.stack([sweep.spending(share)[0] for share in (*SHARES, np.inf)], axis=1)
            errors[measures], costs[measures] = sweep.errors["test"] @ mix, sweep.costs["test"] @ mix
            alone[measures] = wrong[measures]
        return errors, costs.mean(axis=0), alone

    def _answers(self, tensors: dict[str, np.ndarray], answer: str, chooses: np.ndarray) -> np.ndarray:
        """Log-probabilities (S, gates, classes) of the test images' answers."""
        test = tensors["test"].astype(np.float64)
        if answer == "alone":
            return test
        known, labels = tensors["train"].astype(np.float64), self.labels[:SCORED]
        if answer == "ensemble-held-out":
            known, labels = test[chooses], self.wanted[chooses]
        gates = range(1, test.shape[1] + 1)
        fits = [Ensemble.fit(known[:, :gate], labels, np.full(gate, 1 / gate), RIDGE) for gate in gates]
        return np.stack([fit(test[:, :gate]) for gate, fit in zip(gates, fits, strict=True)], axis=1)


def tabulate(trial: Trial, names: Sequence[str], seeds: int) -> list[dict[str, str]]:
    """Print and return accuracies at every share, and their differences to `linear` heads alone and to the same heads alone."""
    draws = Draws.of(len(trial.wanted), seeds, 1000, 0)
    columns = [f"{share:.0%}" for share in SHARES] + ["no limit"]
    float_errors = (trial.test["logits"].argmax(axis=1) != trial.wanted).mean()
    print(f"float network {100 * (1 - float_errors):.2f} %, gates behind blocks {', '.join(trial.names)}")
    print("shares of its multiply-adds at the gates:", " ".join(f"{b / trial.whole:.3f}" for b in trial.before))
    rows, known = [], {}
    for name in names:
        for answer in ANSWERS:
            found = [trial.measured(name, answer, seed) for seed in range(seeds)]
            known[name, answer] = errors = np.stack([one[0] for one in found])
            by_gate = 100 * (1 - np.stack([one[2] for one in found]).mean(axis=(0, 1)))
            row = {"heads": name, "answer": answer, "by gate": " ".join(f"{a:.1f}" for a in by_gate)}
            row |= dict(zip(columns, map(shown, *bounds(1 - errors, draws)), strict=True))
            row["cost"] = " ".join(f"{c:.3f}" for c in np.mean([one[1] for one in found], axis=0))
            for title, other in (
                (f"over {names[0]} alone", (names[0], ANSWERS[0])),
                ("over same alone", (name, ANSWERS[0])),
            ):
                gain = bounds(known[other] - errors, draws)
                row |= {
                    f"{column} {title}": shown(*g) for column, g in zip(columns, zip(*gain, strict=True), strict=True)
                }
            rows.append(row)
            print(f"\n{name}, {answer}: by gate {row['by gate']}; cost spent {row['cost']}")
            for column in columns:
                print(f"  {column:9}" + "   ".join(f"{key.removeprefix(column).strip() or 'accuracy'} {value}"
                      for key, value in row.items() if key.startswith(column)))  # fmt: skip
    return rows


def bounds(values: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and 95 % intervals of values (seeds, S, P), each (P,)."""
    low, high = interval(draws.replicates(values))
    return values.mean(axis=(0, 1)), low, high


def shown(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def evaluated(experiment: str) -> None:
    """Print an experiment's own curves: methods of the float network, and all methods at shares of w8a8."""
    path = Path("artifacts") / experiment / "evaluate" / "curve.parquet"
    if not path.is_file():
        sys.exit(f"{path}: not there; `quee run {experiment}` makes it")
    table = read_table(path).to_pydict()
    methods = sorted({name for name, seed in zip(table["method"], table["seed"], strict=True) if seed == 0})
    for name in methods:
        whole = FLOAT if name.endswith("_fp32") else W8A8
        rows = [i for i, own in enumerate(table["method"]) if own == name and table["seed"][i] == 0]
        by_split = {
            split: np.array([(table["cost"][i], table["accuracy"][i]) for i in rows if table["split"][i] == split])
            for split in ("validation", "test")
        }
        cost, accuracy = by_split["validation"][:, 0], by_split["test"][:, 1]
        reached = [np.interp(share * whole, cost, accuracy, left=np.nan) for share in SHARES]
        print(f"{name:34} of {'float' if whole == FLOAT else 'w8a8':5} " + " ".join(f"{100 * a:6.2f}" for a in reached))


def blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(gate) for gate in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; give numbers of blocks, as 4,8,12") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", default="resnet56_cifar10")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--gates", type=blocks, default="4,8,12,16,20,24", help="blocks before each gate but the last")
    parser.add_argument("--heads", default=",".join(KINDS))
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="passes of Adam; by default 25, and 12 for hidden layers")
    parser.add_argument("--states", default=".quee/states")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--experiment")
    parser.add_argument(
        "--extract", type=blocks, default=(), help="more gates to keep states of, for other --gates later"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.heads.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"--heads: {unknown[0]!r}; valid: {', '.join(KINDS)}")
    try:
        trial = Trial(options)
    except QueeError as error:
        sys.exit(str(error))
    rows = tabulate(trial, names, options.seeds)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if options.experiment:
        evaluated(options.experiment)


if __name__ == "__main__":
    main()
