"""Paths through a segmented network and the prefix tree they form.

A path is the sequence of precisions of the segments that a sample runs before it exits: `w8a8-w4a4` runs two segments
and exits at gate 2. The vertices of the prefix tree are the nodes. Node ids count breadth first, in the order of the
precisions, so that a parent's id is below its children's.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
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
    return "-".join(str(precision) for precision in path)


def parse_path(text: str) -> Path:
    """`w8a8-w4a4` as a path; raises UsageError for an unknown precision."""
    return tuple(Precision(part) for part in text.split("-"))


class PathTree:
    """The considered paths of a tree of `precisions` over `segments`, prefix-closed.

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
        order = {i: rank for rank, i in enumerate(sorted(choices, key=lambda i: self.precisions[i]))}

        def keeps(path: tuple[int, ...]) -> bool:
            if rules is None:
                return True
            steps = [order[b] - order[a] for a, b in pairwise(path)]
            if rules.max_switches is not None and sum(step != 0 for step in steps) > rules.max_switches:
                return False
            falls, rises = any(step < 0 for step in steps), any(step > 0 for step in steps)
            return not (rules.monotone == "up" and falls) and not (rules.monotone == "down" and rises)

        kept: set[tuple[int, ...]] = {(i,) * depth for i in choices}
        if rules is None or rules.sample is None:
            level: list[tuple[int, ...]] = [(i,) for i in choices]
            everything = list(level)
            for _ in range(depth - 1):  # prune level by level: both rules are closed under prefixes
                level = [p for prefix in level for i in choices if keeps(p := (*prefix, i))]
                everything += level
                _refuse_above(max_nodes, len(everything), "at least ")  # stop before the paths fill the memory
            kept.update(everything)
        else:
            random = np.random.default_rng(rules.seed)
            target, attempts = rules.sample + len(kept), 0
            while len(kept) < target and attempts < 1000 * target:
                candidate = tuple(int(i) for i in random.integers(len(self.precisions), size=depth))
                attempts += 1
                if keeps(candidate):
                    kept.add(candidate)
                    _refuse_above(max_nodes, len(kept), "at least ")
        closed = {path[:length] for path in kept for length in range(1, len(path) + 1)}
        return sorted(closed, key=lambda path: (len(path), path))

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def name(self, node: int) -> str:
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
