"""Graphs are compared with a bundle's canary when they are compiled, and not all when the bundle is loaded.

A graph takes tenths of a second and megabytes, and images pass few of them. So an engine compiles the graphs that images
need, and each is compared before it runs for a caller: with the reference's results of its segment, and on those of the
canary's paths all of whose segments are there by then. What has been compiled is thus compared as `Canary.check` does.
"""

from collections.abc import Mapping

import numpy as np

from quee.features import UNCERTAINTY
from quee.paths import PathTree
from quee.precision import Precision
from quee.runtime.canary import Canary, Parting, in_batches, step_name
from quee.runtime.engines.base import Step
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.engines.held import Held, Run
from quee.runtime.executor import Executor

Key = tuple[int, str]
"""Segment, from 1, and name of its precision."""


class Watch:
    """Compares the graphs of one engine with a canary. Calls come one at a time, under the lock of the engine's graphs."""

    def __init__(self, canary: Canary, executor: Executor) -> None:
        """`executor` decides as the bundle's policy does, on the engine that is watched."""
        self.canary, self.executor = canary, executor
        self.parting = Parting()
        """Where the paths compared so far differ."""
        self._sizes: set[tuple[int, str, int]] = set()
        """Steps and sizes that were compared."""
        self._graphs: dict[Key, Held] = {}
        """By step, a graph that was compared."""
        self._waiting = ~np.zeros(canary.routes.node.shape, bool)
        """(K, N) paths that were not compared yet."""
        tree = executor.tree
        self._needs = {node: _steps(tree, node) for node in np.unique(canary.routes.node).tolist()}

    def admit(self, engine: GraphEngine, segment: int, precision: Precision, graph: Held) -> None:
        """Compare a graph, unless its step and size were compared before.

        Raises DisagreementError as `Canary.check` does.
        """
        key, size = (segment, precision.name), (segment, precision.name, graph.size)
        if f"{step_name(segment, precision)}.log_probs" not in self.canary.arrays:
            return  # no path takes it
        if size not in self._sizes:
            assert graph.run is not None
            self.canary.check_step(_One(engine, graph.run), segment, precision, min(graph.size, len(self.canary)))
            self._sizes.add(size)
        known = self._graphs.get(key)
        if known is None or known.run is None:
            self._graphs[key] = graph
        if known is None:
            self._compare_paths(engine)

    def _compare_paths(self, engine: GraphEngine) -> None:
        """Compare the paths all of whose steps have a graph by now, and judge all that were compared."""
        ready = [node for node, steps in self._needs.items() if steps <= self._graphs.keys()]
        compared = self._waiting & np.isin(self.canary.routes.node, ready)
        self._waiting &= ~compared
        policy = self.executor.policy
        own = self.executor.on(_Compared(engine, self.canary, self.executor.features, self._graphs))
        self.parting.add(self.canary.parting(own, policy, compared))
        self.canary.judge(engine, policy, self.parting)


def _steps(tree: PathTree, node: int) -> frozenset[Key]:
    """What runs on the way to a node."""
    return frozenset((segment, precision.name) for segment, precision in enumerate(tree.paths[node], 1))


class _One:
    """An engine's compiled graph, as an engine."""

    def __init__(self, engine: GraphEngine, graph: Run) -> None:
        self.name, self.version, self.threads = engine.name, engine.version, engine.threads
        self.engine, self.graph = engine, graph

    def executed(self, precision: Precision) -> str:
        return self.engine.executed(precision)

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        return self.engine.step(segment, self.graph(state))


class _Compared:
    """The graphs of an engine that were compared, each at its own size, as an engine.

    Where an image takes a step that has none, it gets zeros: that its path differs is known by then, and how far from a tie.
    """

    def __init__(self, engine: GraphEngine, canary: Canary, features: int, graphs: Mapping[Key, Held]) -> None:
        self.name, self.version, self.threads = engine.name, engine.version, engine.threads
        self.engine, self.canary, self.features, self.graphs = engine, canary, features, graphs

    def executed(self, precision: Precision) -> str:
        return self.engine.executed(precision)

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        graph = self.graphs.get((segment, precision.name))
        if graph is None:
            return self._nothing(segment, precision, len(state))
        engine = self.engine if graph.run is None else _One(self.engine, graph.run)
        return in_batches(engine, segment, precision, state, min(graph.size, len(self.canary)))

    def _nothing(self, segment: int, precision: Precision, n: int) -> Step:
        classes = self.canary.arrays[f"{step_name(segment, precision)}.log_probs"].shape[1]
        width, last = self.features - len(UNCERTAINTY), segment == self.engine.segments
        after = None if last else np.zeros((n, *self.canary.before(segment + 1).shape[1:]), np.float32)
        return Step(after, np.zeros((n, classes), np.float32), np.zeros((n, width), np.float32) if width else None)
