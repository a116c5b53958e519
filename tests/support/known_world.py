"""A world whose error probabilities are known, so that the optimal policy can be computed and regret measured exactly.

Each sample has a latent type. Every gate before the last shows one of a few symbols, drawn given the type; a gate knows
the history of symbols so far. Errors are drawn by type and path. The values of a policy, and of the best policy, are exact
sums over all histories. Only the data that policies are fitted to is sampled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from quee.cache.read import FeatureCache
from quee.paths import PathTree
from quee.policies.base import EXIT, Costs, Policy

Choose = Callable[[int, np.ndarray], np.ndarray]
"""Node and values by step (1 + B, histories, Λ) → index of the step taken (histories, Λ)."""


@dataclass(frozen=True)
class KnownWorld:
    """Types T, symbols M per gate, nodes N."""

    tree: PathTree
    prior: np.ndarray
    """(T,)"""
    emission: tuple[np.ndarray, ...]
    """(T, M) for every gate before the last."""
    error: np.ndarray
    """(T, N)"""
    segment_cost: np.ndarray
    """(N,)"""

    @property
    def symbols(self) -> int:
        return int(self.emission[0].shape[1])

    def joint(self, gate: int) -> np.ndarray:
        """Probability of type and history (T, M**gate)."""
        found = self.prior[:, None]
        for shown in self.emission[:gate]:
            found = (found[:, :, None] * shown[:, None, :]).reshape(len(found), -1)
        return found

    def features(self, gate: int, history: np.ndarray) -> np.ndarray:
        """The one-hot history (S, F), with F equal at all gates."""
        return np.eye(self.symbols ** len(self.emission), dtype=np.float32)[history]

    def description(self) -> dict[str, object]:
        nodes = []
        for node in range(len(self.tree)):
            cost = self.segment_cost[self.tree.lineage(node)].sum()
            own = {"cost": cost, "head_cost": 0.0, "predictor_cost": 0.0, "segment_cost": self.segment_cost[node]}
            nodes.append({**own, "gate": int(self.tree.gate[node]), "node": node, "path": self.tree.name(node)})
        names = [f"history_{i}" for i in range(self.symbols ** len(self.emission))]
        return {"feature_names": names, "nodes": nodes, "unit_bitflops": 1e15}

    def sample(self, samples: int, seed: int) -> FeatureCache:
        """A cache with `samples` rows in the predictor split and as many in the validation split."""
        random, count = np.random.default_rng(seed), 2 * samples
        kind = random.choice(len(self.prior), size=count, p=self.prior)
        features = np.zeros((count, len(self.tree), self.symbols ** len(self.emission)), np.float32)
        history = np.zeros(count, np.int64)
        for gate, shown in enumerate(self.emission, 1):
            symbol = (random.random((count, 1)) > shown[kind].cumsum(axis=1)[:, :-1]).sum(axis=1)
            history = history * self.symbols + symbol
            features[:, self.tree.nodes_at(gate)] = self.features(gate, history)[:, None]
        error = random.random((count, len(self.tree))) < self.error[kind]
        empty = np.zeros((count, 0))
        return FeatureCache(
            self.tree,
            self.description(),
            np.arange(count),
            np.array(["predictor", "validation"], dtype=object)[np.arange(count) % 2],
            np.zeros(count, np.int32),
            error.astype(np.int32),
            error,
            np.where(error, 0.1, 0.9).astype(np.float32),
            features,
            empty.astype(bool),
            np.zeros((count, 0, features.shape[2]), np.float32),
            empty.astype(np.int32),
        )

    def value(self, costs: Costs, trade_offs: np.ndarray, choose: Choose) -> np.ndarray:
        """Expected error + λ · cost (Λ,) of steps chosen by `choose`, behind the best first precision."""
        tree, last = self.tree, self.tree.segments
        price = costs.step[:, None] * trade_offs  # (N, Λ)
        values: dict[int, np.ndarray] = {}
        for gate in range(last, 0, -1):
            joint = self.joint(min(gate, last - 1))
            for node in tree.nodes_at(gate):
                leave = np.repeat((self.error[:, node] @ joint)[:, None], len(trade_offs), axis=1)
                if gate == last:
                    values[int(node)] = leave
                    continue
                ways = np.full((1 + len(tree.precisions), *leave.shape), np.inf)
                ways[0] = leave
                for choice, child in enumerate(tree.children[node]):
                    if child >= 0:
                        after = values[int(child)]
                        if gate < last - 1:  # sum over what the next gate may show
                            after = after.reshape(joint.shape[1], self.symbols, -1).sum(axis=1)
                        ways[1 + choice] = after + joint.sum(axis=0)[:, None] * price[child]
                values[int(node)] = np.take_along_axis(ways, choose(int(node), ways)[None], axis=0)[0]
        first = [int(child) for child in tree.children[-1] if child >= 0]
        whole: np.ndarray = np.min([values[n].sum(axis=0) + price[n] for n in first], axis=0)
        return whole

    def optimum(self, costs: Costs, trade_offs: np.ndarray) -> np.ndarray:
        """The least expected error + λ · cost of any policy (Λ,): dynamic programming over nodes and histories."""
        return self.value(costs, trade_offs, lambda _, ways: ways.argmin(axis=0))

    def regret(self, policy: Policy, costs: Costs, trade_offs: np.ndarray) -> np.ndarray:
        """Exact expected value (Λ,) of a policy minus that of the best policy."""

        def choose(node: int, ways: np.ndarray) -> np.ndarray:
            gate = int(self.tree.gate[node])
            histories = np.arange(ways.shape[1])
            before = [histories // self.symbols ** (gate - earlier) for earlier in range(1, gate + 1)]
            view = np.concatenate([self.features(earlier, seen) for earlier, seen in enumerate(before, 1)], axis=1)
            table = policy.read(gate, np.full(len(histories), node), view)
            assert EXIT == -1
            steps = [policy.decide(table, np.full(len(histories), trade_off)) for trade_off in trade_offs]
            return np.stack(steps, axis=1).astype(np.int64) + 1

        return self.value(costs, trade_offs, choose) - self.optimum(costs, trade_offs)


def waiting_world() -> KnownWorld:
    """Three segments; the second gate shows whether the third would help, the first gate shows hardly anything.

    Some samples are right after the second segment, others only after the third, and some never. A policy that goes on to
    the second gate pays one segment and then knows; every fixed continuation also pays for samples that it does not help.
    """
    tree = PathTree(["w4a4", "w8a8"], 3)
    settled, late, hopeless = (0.5, 0.05, 0.05), (0.5, 0.9, 0.05), (0.6, 0.6, 0.6)
    wide = np.array([sum(p.weight_bits == 8 for p in path) / len(path) for path in tree.paths])
    error = np.array([[kind[gate - 1] for gate in tree.gate] for kind in (settled, late, hopeless)])
    error = error * (1.1 - 0.2 * wide)
    unit = {4: 0.08, 8: 0.24}
    cost = np.array([unit[path[-1].weight_bits] for path in tree.paths])
    hint = np.array([[0.55, 0.45], [0.45, 0.55], [0.5, 0.5]])
    answer = np.array([[0.95, 0.05], [0.05, 0.95], [0.9, 0.1]])
    return KnownWorld(tree, np.array([0.4, 0.4, 0.2]), (hint, answer), error, cost)
