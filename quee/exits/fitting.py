"""Fitting the exit heads: states are collected, pooling and head are chosen, the chosen ones are fitted to all states."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quee.errors import QueeError
from quee.exits.choice import Choice, Chooser, Tried, poolings
from quee.exits.classifiers import Said, fit_floating, principal, quantized
from quee.exits.heads import ANY, Classifier, ExitHead, ExitHeads
from quee.exits.states import Passes, States, collect
from quee.network.execution import MultiPrecisionBackbone
from quee.network.pooling import Part
from quee.precision import Precision
from quee.quantization.layers import QuantizedLinear
from quee.settings.exits import Exits
from quee.work.progress import Bar, progress
from quee.work.threads import in_threads

CHOICE_STATES = 16_000
"""Most states on which heads are chosen, a quarter of them held out; more images than that are thinned."""
EMBEDDING_STATES = 40_000
"""Most states whose principal components are the embedding."""
MEMORY = 3 * 2**30
"""Most bytes of states for the heads of all gates; passes over the images that do not fit are left out."""


@dataclass
class Record:
    """What fitting says of itself."""

    history: list[dict[str, object]]
    """gate, precision (`any` for one head), iteration, loss (mean cross-entropy in nats)."""
    candidates: list[dict[str, object]]
    """Every candidate of every gate with its figures on held-out training images; `cost` in units of static w8a8."""
    reasons: dict[int, str]
    """By gate."""
    passes: int
    """Passes over the images whose states the heads were fitted to."""


def behind(settings: Exits, precisions: Sequence[Precision]) -> tuple[Precision, ...]:
    """Precisions of the segments before the states that heads are fitted on; `precisions` are the tree's."""
    return tuple(precisions) if settings.prefixes == "mixed" else (Precision("fp32"),)


def fit_exits(
    backbone: MultiPrecisionBackbone,
    precisions: Sequence[Precision],
    passes: Passes,
    settings: Exits,
    batches: int,
    samples: int,
    left_out: Collection[int] = (),
) -> tuple[ExitHeads, Record]:
    """Choose and fit the heads on states whose prefix precisions are drawn uniformly per sample.

    `passes` gives the training images anew in each of `settings.draws` passes, in `batches` batches of `samples` images in
    all. Pooling and head of each gate are chosen on images held out of a first fit (`quee.exits.choice`). The chosen head
    is then fitted to all states: a linear one is the multinomial logistic regression that minimises mean cross-entropy plus
    `settings.weight_decay` / (2 n) · Σ weight² over n states.

    Raises QueeError where a class that is not `left_out` has no sample.
    """
    return _Fitting(backbone, tuple(precisions), passes, settings, batches, samples, frozenset(left_out)).run()


@dataclass(frozen=True)
class _Fitting:
    """The arguments of `fit_exits`, and its steps."""

    backbone: MultiPrecisionBackbone
    precisions: tuple[Precision, ...]
    passes: Passes
    settings: Exits
    batches: int
    samples: int
    left_out: frozenset[int]

    @property
    def early(self) -> range:
        """The gates that get a head."""
        return range(1, self.backbone.segments)

    def run(self) -> tuple[ExitHeads, Record]:
        shapes, few = self._shapes(), min(self.settings.draws, max(1, CHOICE_STATES // self.samples))
        images = _spread(self.samples, CHOICE_STATES, self.settings.seed)
        whole = few == self.settings.draws and len(images) == self.samples
        names = {gate: poolings(self.backbone.first, gate, self.settings, *shapes[gate - 1]) for gate in self.early}
        title = "states to choose exit heads on"
        states = self._states(title, few, images, self._wanted(names, embedding=whole), final=True)
        choices, used = self._choose(Chooser(self.backbone, self.precisions, states, few, self.settings), shapes), few
        if not whole:
            del states  # frees their memory
            wanted = self._wanted(
                {gate: [choice.candidate.pooling] for gate, choice in choices.items()}, embedding=True
            )
            used = self._passes_that_fit(wanted)
            states = self._states("states for the exit heads", used, np.arange(self.samples), wanted)
        return self._fit_all(choices, states, used)

    def _wanted(self, names: Mapping[int, Sequence[str]], embedding: bool) -> dict[int, list[Part]]:
        """The different parts of poolings by gate, and those of the embedding."""
        model = self.backbone.first
        plain = [model.global_pooling] if embedding and self.settings.embedding else []
        return {
            gate: list(dict.fromkeys(p for name in (*names.get(gate, ()), *plain) for p in model.pooling_parts(name)))
            for gate in (*self.early, self.backbone.segments)
        }

    def _states(
        self, title: str, number: int, images: np.ndarray, wanted: Mapping[int, Sequence[Part]], final: bool = False
    ) -> States:
        with progress(title, number * self.batches) as bar:
            states = collect(
                self.backbone, self.precisions, self.passes, range(number), images, wanted, self.settings.seed,
                bar.advance, final,
            )  # fmt: skip
        absent = sorted(set(range(self.backbone.classes)) - set(states.labels.unique().tolist()) - self.left_out)
        if absent and len(images) == self.samples:
            raise QueeError(f"no training sample of class {absent[0]} for the exit heads")
        return states

    def _choose(self, chooser: Chooser, shapes: list[tuple[int, int]]) -> dict[int, Choice]:
        tried: dict[int, list[Tried]] = {}
        found: dict[int, Choice] = {}
        with progress("choosing exit heads", 2 * len(self.early)) as bar:
            for gate in self.early:
                tried[gate] = chooser.try_all(gate, shapes[gate - 1], _noted(bar, gate))
                bar.advance()
            for gate in self.early:
                below = chooser.final_losses if gate + 1 not in tried else tried[gate + 1][0].losses
                found[gate] = chooser.choose(gate, tried[gate], float(below.mean()), _noted(bar, gate))
                bar.advance()
        return found

    def _fit_all(self, choices: Mapping[int, Choice], states: States, passes: int) -> tuple[ExitHeads, Record]:
        gates = (*self.early, self.backbone.segments)
        heads, history = [], []
        with progress("fitting exit heads", len(gates)) as bar:

            def fit(gate: int) -> tuple[ExitHead, list[dict[str, object]]]:
                pooling, classifiers, rows = "", dict[str, Classifier](), list[dict[str, object]]()
                if gate in choices:
                    pooling = choices[gate].candidate.pooling
                    classifiers, rows = self._fit_one(gate, choices[gate], states, passes, bar)
                head = ExitHead(pooling, classifiers, self._projection(gate, states))
                states.parts[gate - 1].clear()
                return head, rows

            for head, rows in in_threads(fit, gates):
                heads.append(head)
                history += rows
                bar.advance()
        candidates = [row for choice in choices.values() for row in choice.rows]
        reasons = {gate: choice.reason for gate, choice in choices.items()}
        return ExitHeads(heads), Record(history, candidates, reasons, passes)

    def _fit_one(
        self, gate: int, choice: Choice, states: States, passes: int, bar: Bar
    ) -> tuple[dict[str, Classifier], list[dict[str, object]]]:
        """The classifiers of one gate, by precision or for `ANY`, and their history."""
        x, y = states.inputs(gate, self.backbone.first.pooling_parts(choice.candidate.pooling)), states.labels
        classifiers, history, said = {}, [], _noted(bar, gate)
        parts: dict[str, slice | np.ndarray] = {ANY: slice(None)}
        if choice.each:
            last = states.last[:, gate - 1]
            parts = {str(p): np.flatnonzero(last == index) for index, p in enumerate(self.precisions)}
        for name, rows in parts.items():
            title = f"exit head {gate}"
            candidate, classes = choice.candidate, self.backbone.classes
            layers, losses = fit_floating(x[rows], y[rows], classes, candidate, self.settings, passes, said, title)
            classifiers[name] = quantized(layers, x[rows], title)
            history += [
                {"gate": gate, "precision": name, "iteration": step, "loss": loss} for step, loss in enumerate(losses)
            ]
        return classifiers, history

    def _projection(self, gate: int, states: States) -> QuantizedLinear | None:
        model = self.backbone.first
        plain, gates = model.global_pooling, (*self.early, self.backbone.segments)
        components = min(self.settings.embedding, *(model.pooled_width(g, plain) for g in gates))
        if not components:
            return None
        stride = -(-len(states.labels) // EMBEDDING_STATES)
        return principal(
            states.inputs(gate, model.pooling_parts(plain))[::stride], components, self.settings.seed, gate
        )

    def _shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of positions at each gate."""
        model = self.backbone.models[Precision("fp32")]
        state, found = torch.zeros(1, *model.input.shape, device=self.backbone.device), []
        with torch.inference_mode():
            for gate in range(1, self.backbone.segments + 1):
                state = model.run_segment(gate, state)
                rows, columns = model.positions(state, gate).shape[2:]
                found.append((rows, columns))
        return found

    def _passes_that_fit(self, wanted: Mapping[int, Sequence[Part]]) -> int:
        """Number of passes whose states fit into `MEMORY`, at least one; fewer than asked for are said."""
        width = sum(self.backbone.first.width(gate) * part.cells for gate, parts in wanted.items() for part in parts)
        most = max(1, MEMORY // (2 * self.samples * width))
        if most < self.settings.draws:
            print(
                f"exits.draws: {most} of {self.settings.draws} passes over {self.samples} images are used, because their "
                f"states may take {MEMORY >> 30} GB",
                file=sys.stderr,
            )
        return min(self.settings.draws, most)


def _noted(bar: Bar, gate: int) -> Said:
    """Shows the iteration and the loss of a gate's fit beside the bar."""
    return lambda iteration, loss: bar.advance(0, f"gate {gate} iteration {iteration} loss {loss:.4f}")


def _spread(samples: int, most: int, seed: int) -> np.ndarray:
    """At most so many positions of samples, rising, drawn at random."""
    if samples <= most:
        return np.arange(samples)
    return np.sort(np.random.default_rng([seed, 2]).permutation(samples)[:most])
