"""Choice of a backbone's gates (`backbone.gates: auto`), by the curve of early exits that validation images show.

A probe, a multinomial logistic regression on the pooled state, is fitted behind every block of the float network on
training images. On validation images, which the network has not seen, a set of gates is judged as the method `confidence`
would use it: a sample leaves at the first gate whose largest probability reaches a threshold, one for all gates, and at the
end the network's own head answers. `auc` is the mean accuracy over log-uniform budgets from 1/4 to 1, mixed with the most
frequent class below the cheapest point. Cost 1 is the whole network. A quarter of it is what the whole network costs at
w4a4 beside w8a8: a tree spends less by fewer bits, and gates that stop earlier would only serve budgets below 1/16 at w4a4.

The best set is taken where it is better than evenly spaced gates beyond doubt: where the 95 % interval of the paired
difference, over the held-out images, is above 0.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quee._logistic import fit_logistic
from quee.cost import BitFlops, bitflops, trace_cost
from quee.exits.seen import seen_part
from quee.network import HEAD
from quee.network.base import SegmentedBackbone, equal_gates
from quee.network.device import place
from quee.network.execution import MICRO_BATCH, padded
from quee.network.files import load_backbone
from quee.network.predictions import Networks
from quee.precision import Precision
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Lanes

FITTED, JUDGED = 4500, 1500
"""Most training images that probes are fitted on, and most validation images that gates are judged by."""
PENALTY = 1.0
"""Strength of a probe's L2 penalty, as `exits.weight_decay`."""
PRECISION = Precision("w8a8")
LOWEST = 1 / 4
"""Least budget: below a quarter, a tree spends less by fewer bits. ResNet-20 gets gates 1, 2, 4 and 9 from 1/16 on too."""
BUDGETS, THRESHOLDS = 200, 64
TRIED = 20_000
"""Most sets of gates that are all tried; of more, those are tried that exchanging one gate at a time leads to."""
SHARD = 8 * MICRO_BATCH
NORMAL = 1.96
"""Half the width of a 95 % interval in standard errors."""

Gates = tuple[int, ...]


@dataclass(frozen=True)
class Exits:
    """Exits behind every block of a network, on held-out images; B blocks, S images."""

    confidence: np.ndarray
    """(S, B) largest probability."""
    wrong: np.ndarray
    """(S, B) bool; the last column is the network's own head."""
    cost: np.ndarray
    """(B,) cost of the blocks up to each, with the stem; the whole network with its head is 1."""
    head: np.ndarray
    """(B,) cost of an exit's head; at the last block that of the network's own."""
    floor: np.ndarray
    """(S,) bool: whether the most frequent class is wrong."""

    def take(self, rows: np.ndarray) -> "Exits":
        """The exits of some images."""
        return replace(self, confidence=self.confidence[rows], wrong=self.wrong[rows], floor=self.floor[rows])


@dataclass(frozen=True)
class Choice:
    """The chosen gates, and what the choice was made from."""

    gates: Gates
    record: dict[str, Any]
    """Plain values for `gates.json`."""


class Curves:
    """Curves of sets of gates. Bits of images are packed, because thousands of sets are tried."""

    def __init__(self, exits: Exits) -> None:
        self.exits = exits
        seen = exits.confidence[:, :-1]
        spread = np.quantile(seen, np.linspace(0, 1, THRESHOLDS - 1)) if seen.size else np.zeros(0)
        self.thresholds = np.append(spread, np.inf)
        self.budgets = np.geomspace(LOWEST, 1.0, BUDGETS)
        self._unsure = [np.packbits(column[None] < self.thresholds[:, None], axis=1) for column in seen.T]
        self._wrong = [np.packbits(column) for column in exits.wrong.T]

    def points(self, gates: Gates) -> tuple[np.ndarray, np.ndarray]:
        """Mean cost and mean error at every threshold, (T,) each, by rising cost."""
        exits, samples = self.exits, len(self.exits.wrong)
        alive = np.tile(np.packbits(np.ones(samples, bool)), (len(self.thresholds), 1))
        cost, error, before = np.zeros(len(alive)), np.zeros(len(alive)), 0.0
        left = np.full(len(alive), samples)
        for gate in gates:
            step = exits.cost[gate - 1] - before + exits.head[gate - 1]
            before = exits.cost[gate - 1]
            cost += left / samples * step
            onward = alive & self._unsure[gate - 1] if gate != gates[-1] else np.zeros_like(alive)
            error += np.bitwise_count(alive & ~onward & self._wrong[gate - 1]).sum(axis=1) / samples
            alive = onward
            left = np.bitwise_count(alive).sum(axis=1)
        return cost, error

    def auc(self, gates: Gates) -> float:
        cost, error = self.points(gates)
        return float(np.interp(self.budgets, *self._with_floor(cost, 1 - error)).mean())

    def _with_floor(self, cost: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.append(0.0, cost), np.append(1 - self.exits.floor.mean(), accuracy)

    def errors(self, gates: Gates) -> np.ndarray:
        """(S,) expected error of every image, mean over the budgets; 1 - their mean is `auc`."""
        exits, index = self.exits, np.array(gates) - 1
        cost, _ = self._with_floor(*self.points(gates))
        mix = np.stack([np.interp(self.budgets, cost, unit) for unit in np.eye(len(cost))]).mean(axis=1)  # (1 + T,)
        sure = exits.confidence[:, index, None] >= self.thresholds  # (S, gates, T)
        sure[:, -1] = True
        wrong = np.take_along_axis(exits.wrong[:, index], sure.argmax(axis=1), axis=1)  # (S, T)
        found: np.ndarray = mix[0] * exits.floor + wrong @ mix[1:]
        return found


def head_bitflops(backbone: SegmentedBackbone, cost: BitFlops, precision: Precision) -> np.ndarray:
    """(L,) BitFLOPs of a linear head on the pooled state at each gate; at the last gate of the network's own."""
    widths = [backbone.pooled_width(gate, backbone.global_pooling) for gate in range(1, backbone.segments)]
    bits = precision.head.weight_bits, precision.head.activation_bits
    early = [bitflops(width * backbone.num_classes, bits) for width in widths]
    return np.array([*early, cost.bitflops(HEAD, precision)])


def pooled(model: SegmentedBackbone, gate: int, state: Tensor) -> Tensor:
    """What a probe reads of a state: (n, D)."""
    return torch.cat([seen_part(model, gate, state, part) for part in model.pooling_parts(model.global_pooling)], dim=1)


def block_costs(backbone: SegmentedBackbone) -> tuple[np.ndarray, np.ndarray]:
    """(B,) cost of the blocks up to each, with the stem, and (B,) cost of a head behind it, the whole network being 1.

    A head is one linear layer on the pooled state; at the last block it is the network's own. Every product counts at 8 × 8,
    as in the unit, because number formats are chosen later. The backbone's gates become all its blocks.
    """
    backbone.set_gates(tuple(range(1, len(backbone.block_names) + 1)))
    cost, gates = trace_cost(backbone).plain, range(1, backbone.segments + 1)
    blocks = np.cumsum([cost.bitflops(gate, PRECISION) for gate in gates])
    heads = head_bitflops(backbone, cost, PRECISION)
    return blocks / cost.unit, heads / cost.unit


def evenly_spaced(backbone: SegmentedBackbone, gates: int) -> Gates:
    """So many gates between which the work is as equal as blocks allow. The backbone's gates become all its blocks."""
    return equal_gates(np.diff(block_costs(backbone)[0], prepend=0.0).tolist(), gates)


def choose_gates(
    networks: Networks,
    backbone: SegmentedBackbone,
    gates: int,
    ids: np.ndarray,
    labels: np.ndarray,
    held: np.ndarray,
    store: Store,
    lanes: Lanes,
) -> Choice:
    """So many gates of a float backbone, which `networks` describes for workers, from images `ids` (n,).

    `labels` (n,) are their classes; those that are `held` (n,) judge, probes are fitted on the others. The backbone's gates
    become the chosen ones.
    """
    states, confidence, answer = pooled_states(networks, ids, store, lanes)
    exits = probed(backbone, states, confidence, answer, labels, held)
    chosen = chosen_of(exits, equal_gates(np.diff(exits.cost, prepend=0.0).tolist(), gates))
    backbone.set_gates(chosen.gates)
    images = {"fitted": int((~held).sum()), "held_out": int(held.sum())}
    return Choice(chosen.gates, {**chosen.record, "images": images})


def probe(
    x: np.ndarray, labels: np.ndarray, others: np.ndarray, classes: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Largest probability and class, (m,) each, that a logistic regression on states x (n, D) gives other states (m, D)."""
    fitted = fit_logistic(x, labels, classes, PENALTY / len(x), threads=threads)
    logits = others @ fitted.weight.T + fitted.bias
    logits -= logits.max(axis=1, keepdims=True)
    return 1 / np.exp(logits).sum(axis=1), logits.argmax(axis=1)


def probed(
    backbone: SegmentedBackbone,
    states: Iterable[np.ndarray],
    confidence: np.ndarray,
    answer: np.ndarray,
    labels: np.ndarray,
    held: np.ndarray,
) -> Exits:
    """Exits at every block: probes fitted on states (n, D), block by block, of images that are not held out.

    The last block has the network's own head, with `confidence` and `answer` (n,).
    """
    cost, head = block_costs(backbone)
    sure, wrong = [], []
    for x in states:
        top, answers = probe(x[~held], labels[~held], x[held], backbone.num_classes)
        sure.append(top)
        wrong.append(answers != labels[held])
    sure.append(confidence[held])
    wrong.append(answer[held] != labels[held])
    floor = labels[held] != np.bincount(labels[~held]).argmax()
    return Exits(np.stack(sure, axis=1), np.stack(wrong, axis=1), cost, head, floor)


def pooled_states(
    networks: Networks, ids: np.ndarray, store: Store, lanes: Lanes
) -> tuple[Iterator[np.ndarray], np.ndarray, np.ndarray]:
    """The float network's states of samples `ids` (n,): the pooled states (n, D) behind every block but the last, block by
    block, and the largest probability (n,) and the class (n,) of its own head. Finished shards are not computed again."""
    kept = store / f"gates-{networks.digest}"
    pieces = [ids[start : start + SHARD] for start in range(0, len(ids), SHARD)]
    shards = [Shard(f"{number:06d}", compute_states, (networks, part)) for number, part in enumerate(pieces)]
    run_shards(shards, kept, lanes, "states to choose gates on")
    found = [
        unpacked_tensors(data, f"{kept.url}/{shard.name}")[0]
        for shard, data in zip(shards, read_shards(shards, kept), strict=True)
    ]
    blocks = len(found[0]) - 2

    def behind(block: int) -> np.ndarray:
        return np.concatenate([part[f"block.{block}"] for part in found]).astype(np.float32)

    confidence, answer = (np.concatenate([part[name] for part in found]) for name in ("confidence", "answer"))
    return map(behind, range(1, blocks + 1)), confidence, answer


def compute_states(networks: Networks, ids: np.ndarray) -> bytes:
    """A shard of `pooled_states` as bytes of a safetensors file. Runs in any process."""
    with alone(), torch.inference_mode():
        model = _network(networks)
        on, last = place(networks.device), model.segments
        found: dict[str, list[Tensor]] = {}
        for _, x, _ in networks.images().batches(ids, model.input, MICRO_BATCH):
            state = x.to(on)
            for gate in range(1, last + 1):
                state = padded(partial(model.run_segment, gate), state)
                if gate < last:
                    found.setdefault(f"block.{gate}", []).append(pooled(model, gate, state).half().cpu())
            top = padded(model.classify, state).double().softmax(dim=1).max(dim=1)
            found.setdefault("confidence", []).append(top.values.cpu())
            found.setdefault("answer", []).append(top.indices.cpu())
    return packed_tensors({name: torch.cat(parts).numpy() for name, parts in found.items()})


@lru_cache(1)
def _network(networks: Networks) -> SegmentedBackbone:
    networks.check()
    model = load_backbone(Path(networks.backbone))
    model.set_gates(tuple(range(1, len(model.block_names) + 1)))
    return model.to(place(networks.device))


def chosen_of(exits: Exits, even: Gates) -> Choice:
    """As many gates as there are evenly spaced ones: the best set, or these where it is not better beyond doubt."""
    curves, found = Curves(exits), dict[Gates, float]()
    for gates in _tried(len(exits.cost), even, lambda gates: _remembered(curves, found, gates)):
        _remembered(curves, found, gates)
    of_size = [gates for gates in found if len(gates) == len(even)]  # the others were on the way to them
    best, second = (*sorted(of_size, key=lambda gates: (-found[gates], gates)), None)[:2]
    assert best is not None
    gain = curves.errors(even) - curves.errors(best)
    spread = NORMAL * float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else float("inf")
    low, high = float(gain.mean()) - spread, float(gain.mean()) + spread
    gates, reason = best, "better than evenly spaced gates beyond doubt"
    if not low > 0:
        gates, reason = even, "evenly spaced, because no other set is better beyond doubt"
    rows = [
        {"accuracy": float(1 - wrong), "block": block, "cost": float(cost), "head_cost": float(head)}
        for block, (wrong, cost, head) in enumerate(
            zip(exits.wrong.mean(axis=0), exits.cost, exits.head, strict=True), 1
        )
    ]
    record: dict[str, Any] = {
        "best": {"auc": found[best], "gates": list(best)},
        "blocks": rows,
        "chosen": {"auc": found[gates], "gates": list(gates)},
        "difference": {"high": high, "low": low, "mean": float(gain.mean())} if np.isfinite(spread) else None,
        "evenly_spaced": {"auc": found[even], "gates": list(even)},
        "reason": reason,
        "runner_up": None if second is None else {"auc": found[second], "gates": list(second)},
        "tried": len(of_size),
    }
    return Choice(gates, record)


def _remembered(curves: Curves, found: dict[Gates, float], gates: Gates) -> float:
    if gates not in found:
        found[gates] = curves.auc(gates)
    return found[gates]


def _tried(blocks: int, even: Gates, auc: Callable[[Gates], float]) -> Iterator[Gates]:
    """Sets of gates of one size, the last of which is the last block: all, or those that exchanges lead to.

    Exchanges start from the evenly spaced gates and from gates that are added one by one, each the best. The best exchange
    of one gate is taken until none is better.
    """
    free, number = range(1, blocks), len(even) - 1
    if comb(len(free), number) <= TRIED:
        yield from ((*gates, blocks) for gates in combinations(free, number))
        return
    grown: Gates = (blocks,)
    while len(grown) <= number:
        grown = max((tuple(sorted({*grown, gate})) for gate in free if gate not in grown), key=auc)
    for start in (even, grown):
        here = start
        while True:
            others = (tuple(sorted({*here, new} - {old})) for old in here[:-1] for new in free if new not in here)
            best = max(others, key=auc)
            if auc(best) <= auc(here):
                break
            here = best
        yield here
