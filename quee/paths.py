"""Paths through a segmented network and the prefix tree they form.

A path is the sequence of precisions of the segments that a sample runs before it exits: `w8a8-w4a4` runs two segments
and exits at gate 2. The vertices of the prefix tree are the nodes. Node ids count breadth first, in the order of the
precisions, so that a parent's id is below its children's.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.errors import IntegrityError, UsageError
from quee.precision import Precision

if TYPE_CHECKING:
    from quee.settings.paths import Considered

Path = tuple[Precision, ...]


def path_name(path: Sequence[Precision]) -> str:
    """A path as text, such as `w8a8-w4a4`."""
    return "-".join(str(precision) for precision in path)


def parse_path(text: str) -> Path:
    """`w8a8-w4a4` as a path; raises UsageError for an unknown precision."""
    return tuple(Precision(part) for part in text.split("-"))


class PathTree:
    """The considered paths of a tree of `precisions` over `segments`, prefix-closed.

    `paths` has them by node: tuples of precisions. A tree iterates over them, and its length is the number of nodes.

    Examples:
        >>> tree = PathTree(["w4a4", "w8a8"], segments=2)
        >>> [tree.name(node) for node in range(len(tree))]
        ['w4a4', 'w8a8', 'w4a4-w4a4', 'w4a4-w8a8', 'w8a8-w4a4', 'w8a8-w8a8']
    """

    def __init__(
        self,
        precisions: Sequence[str | Precision],
        segments: int,
        considered: "Considered | None" = None,
        max_nodes: int | None = None,
    ) -> None:
        """Raises UsageError where more than `max_nodes` nodes would be considered."""
        self.precisions = tuple(Precision(p) for p in precisions)
        self.segments = segments
        if len(set(self.precisions)) < len(self.precisions) or not self.precisions or segments < 1:
            raise UsageError("a path tree needs at least one segment and distinct precisions")
        choices = len(self.precisions)
        whole = sum(choices**depth for depth in range(1, segments + 1))
        if max_nodes is not None and whole > max_nodes and not _restricts(considered):
            raise UsageError(
                f"paths.max_nodes is {max_nodes}, but {choices} precisions over {segments} segments make {whole} nodes, "
                f"each {1 / segments:.2g} of the network per sample and about {whole * 0.08:.3g} MB on disk per 1,000 "
                "samples; raise it, or name paths.considered (max_switches, monotone or sample)"
            )
        chosen = self._choose(considered, max_nodes)
        self.paths: tuple[Path, ...] = tuple(tuple(self.precisions[i] for i in p) for p in chosen)
        _refuse_above(max_nodes, len(self))
        self._index = {path: node for node, path in enumerate(self.paths)}

    def _choose(self, rules: "Considered | None", max_nodes: int | None) -> list[tuple[int, ...]]:
        choices, depth = range(len(self.precisions)), self.segments
        kept: set[tuple[int, ...]] = {(i,) * depth for i in choices}
        if rules is None or rules.sample is None:
            level: list[tuple[int, ...]] = [(i,) for i in choices]
            everything = list(level)
            for _ in range(depth - 1):  # prune level by level: both rules are closed under prefixes
                level = [(*prefix, i) for prefix in level for i in self._onward(rules, prefix[-1], _switches(prefix))]
                everything += level
                _refuse_above(max_nodes, len(everything), "at least ")  # stop before the paths fill the memory
            kept.update(everything)
        else:
            self._draw(rules, rules.sample, kept, max_nodes)
        closed = {path[:length] for path in kept for length in range(1, len(path) + 1)}
        return sorted(closed, key=lambda path: (len(path), path))

    def _onward(self, rules: "Considered | None", last: int, switched: int) -> list[int]:
        """The precisions that may follow `last` on a path that has switched so often."""
        choices = range(len(self.precisions))
        if rules is None:
            return list(choices)
        stays = rules.max_switches is not None and switched >= rules.max_switches

        def may(choice: int) -> bool:
            own, other = self.precisions[last], self.precisions[choice]
            turns = (rules.monotone == "up" and other < own) or (rules.monotone == "down" and own < other)
            return choice == last or not (stays or turns)

        return [choice for choice in choices if may(choice)]

    def _draw(self, rules: "Considered", sample: int, kept: set[tuple[int, ...]], max_nodes: int | None) -> None:
        """Add to `kept` so many full-length paths, drawn uniformly from those that the rules allow; all if these are fewer."""

        @cache
        def ways(left: int, last: int, switched: int) -> int:
            """Number of continuations of so many segments."""
            onward = self._onward(rules, last, switched) if left else []
            return sum(ways(left - 1, i, switched + (i != last)) for i in onward) if left else 1

        random, choices, depth = np.random.default_rng(rules.seed), range(len(self.precisions)), self.segments
        most = sum(ways(depth - 1, i, 0) for i in choices)
        target = min(sample + len(kept), most)
        while len(kept) < target:
            path: tuple[int, ...] = ()
            for left in range(depth - 1, -1, -1):
                switched = _switches(path)
                onward = self._onward(rules, path[-1], switched) if path else list(choices)
                weights = [ways(left, i, switched + bool(path and i != path[-1])) for i in onward]
                place = np.searchsorted(np.cumsum(np.array(weights, float)), random.random() * sum(weights), "right")
                path = (*path, onward[min(int(place), len(onward) - 1)])
            kept.add(path)
            _refuse_above(max_nodes, len(kept), "at least ")

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def name(self, node: int) -> str:
        """Name of a node's path, such as `w8a8-w4a4`."""
        return path_name(self.paths[node])

    def node(self, path: str | Sequence[Precision]) -> int:
        """Id of a path's node; raises UsageError where the path is not considered."""
        wanted = parse_path(path) if isinstance(path, str) else tuple(path)
        if wanted not in self._index:
            raise UsageError(f"path {path_name(wanted)!r} is not among the {len(self)} considered ones")
        return self._index[wanted]

    @cached_property
    def gate(self) -> np.ndarray:
        """Gate of each node, (N,), from 1."""
        return np.array([len(path) for path in self.paths])

    @cached_property
    def parent(self) -> np.ndarray:
        """Node before each node, (N,); -1 is gate 0."""
        return np.array([self._index.get(path[:-1], -1) for path in self.paths])

    @cached_property
    def choice(self) -> np.ndarray:
        """Index into `precisions` of each node's last segment, (N,)."""
        return np.array([self.precisions.index(path[-1]) for path in self.paths])

    @cached_property
    def children(self) -> np.ndarray:
        """Child of each node by precision, (N + 1, B); -1 where not considered; the last row is gate 0."""
        table = np.full((len(self) + 1, len(self.precisions)), -1)
        table[self.parent, self.choice] = np.arange(len(self))
        return table

    def nodes_at(self, gate: int) -> np.ndarray:
        """Nodes of a gate, from 1, in the order of their ids."""
        return np.flatnonzero(self.gate == gate)

    def lineage(self, node: int) -> list[int]:
        """The nodes on the way to `node`, which is included."""
        path = self.paths[node]
        return [self._index[path[:length]] for length in range(1, len(path) + 1)]

    def suffixes(self, gate: int) -> list[tuple[int, ...]]:
        """Every continuation from a gate as precision indices, shortest first; () means "exit here" and is absent at gate 0."""
        shortest = 0 if gate else 1
        found = {path[gate:] for path in self._indices if len(path) >= gate + shortest}
        return sorted(found, key=lambda suffix: (len(suffix), suffix))

    @cached_property
    def _indices(self) -> list[tuple[int, ...]]:
        return [tuple(self.precisions.index(p) for p in path) for path in self.paths]

    def extensions(self, gate: int) -> np.ndarray:
        """End of each suffix from each node of a gate, (nodes at the gate, suffixes); -1 where not considered."""
        suffixes = self.suffixes(gate)
        starts = self.nodes_at(gate) if gate else np.array([-1])
        table = np.empty((len(starts), len(suffixes)), dtype=np.int64)
        for column, suffix in enumerate(suffixes):
            node = starts
            for choice in suffix:
                node = np.where(node >= -1, self.children[node, choice], -2)
                node = np.where(node == -1, -2, node)
            table[:, column] = np.where(node == -2, -1, node)
        return table

    def continuations(self, gate: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in `extensions` of every considered continuation of a gate's nodes, (E,) each, row by row.

        In a sampled tree hardly any node has another's suffixes, so E is a small part of nodes · suffixes.
        """
        row, column = np.nonzero(self.extensions(gate) >= 0)
        return row, column

    @classmethod
    def from_names(cls, precisions: Sequence[str], segments: int, names: Sequence[str]) -> "PathTree":
        """The tree whose considered paths are given by name, in that order."""
        tree = cls.__new__(cls)
        tree.precisions = tuple(Precision(p) for p in precisions)
        tree.segments = segments
        tree.paths = tuple(parse_path(name) for name in names)
        tree._index = {path: node for node, path in enumerate(tree.paths)}
        missing = [path for path in tree.paths if len(path) > 1 and path[:-1] not in tree._index]
        if missing:
            raise UsageError(f"considered paths are not prefix-closed: {path_name(missing[0][:-1])!r} is missing")
        return tree


def _switches(path: Sequence[int]) -> int:
    return sum(a != b for a, b in pairwise(path))


def _refuse_above(max_nodes: int | None, nodes: int, hedge: str = "") -> None:
    if max_nodes is not None and nodes > max_nodes:
        raise UsageError(
            f"paths.max_nodes is {max_nodes}, but the considered paths make {hedge}{nodes} nodes; "
            "raise it or consider fewer paths"
        )


def _restricts(rules: "Considered | None") -> bool:
    return rules is not None and (rules.max_switches, rules.monotone, rules.sample) != (None, None, None)


def read_tree(folder: "os.PathLike[str]") -> tuple[PathTree, dict[str, Any]]:
    """The tree in `tree.json` of a folder, and the whole description; raises IntegrityError for a missing or newer file."""
    from quee.work.io import FORMAT, read_json

    file = FilePath(folder) / "tree.json"
    description = read_json(file)
    if description.get("format", 0) > FORMAT:
        raise IntegrityError(f"{file} has format {description['format']}; this version reads {FORMAT}")
    names = [node["path"] for node in description["nodes"]]
    return PathTree.from_names(description["precisions"], description["segments"], names), description
