"""The tree of considered paths."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import UsageError
from quee.paths import PathTree, parse_path, path_name
from quee.precision import Precision
from quee.settings.paths import Considered

THREE = ["w3a3", "w4a4", "w8a8"]

rules = st.builds(
    Considered,
    max_switches=st.none() | st.integers(0, 3),
    monotone=st.none() | st.sampled_from(["up", "down"]),
    sample=st.none() | st.integers(1, 12),
    seed=st.integers(0, 5),
)
trees = st.builds(
    PathTree,
    st.lists(st.sampled_from(["w2a3", "w4a4", "w4a8", "w8a8", "fp32"]), min_size=1, max_size=3, unique=True),
    st.integers(1, 4),
    rules,
)


def rises(path: tuple[Precision, ...]) -> list[int]:
    return [(b > a) - (b < a) for a, b in itertools.pairwise(path)]


def test_the_default_tree_has_120_nodes_breadth_first() -> None:
    tree = PathTree(THREE, 4)
    everything = [p for depth in range(1, 5) for p in itertools.product(map(Precision, THREE), repeat=depth)]
    assert len(tree) == 120
    assert list(tree) == everything
    assert [len(tree.nodes_at(gate)) for gate in range(1, 5)] == [3, 9, 27, 81]


@given(trees)
def test_paths_are_distinct_prefix_closed_and_uniform_ones_are_among_them(tree: PathTree) -> None:
    paths = set(tree.paths)
    assert len(paths) == len(tree)
    assert all(path[:length] in paths for path in paths for length in range(1, len(path)))
    assert all((precision,) * tree.segments in paths for precision in tree.precisions)


@given(trees)
def test_tables_agree_with_the_paths(tree: PathTree) -> None:
    considered = set(tree.paths)
    for node, path in enumerate(tree):
        assert tree.node(path) == tree.node(tree.name(node)) == node
        assert tree.gate[node] == len(path)
        assert tree.precisions[tree.choice[node]] == path[-1]
        parent = tree.parent[node]
        assert parent < node
        assert (tree.paths[parent] if parent >= 0 else ()) == path[:-1]
        assert [tree.paths[n] for n in tree.lineage(node)] == [path[: i + 1] for i in range(len(path))]
    for node, row in enumerate(tree.children):
        path = tree.paths[node] if node < len(tree) else ()
        for choice, child in enumerate(row):
            after = (*path, tree.precisions[choice])
            assert (tree.paths[child] == after) if child >= 0 else (after not in considered)


@given(trees)
def test_extensions_lead_where_their_suffixes_say(tree: PathTree) -> None:
    considered = set(tree.paths)
    for gate in range(tree.segments + 1):
        suffixes, table = tree.suffixes(gate), tree.extensions(gate)
        starts = [tree.paths[n] for n in tree.nodes_at(gate)] if gate else [()]
        assert table.shape == (len(starts), len(suffixes))
        assert len(set(suffixes)) == len(suffixes)
        reached = set()
        for start, row in zip(starts, table, strict=True):
            for suffix, node in zip(suffixes, row, strict=True):
                path = (*start, *(tree.precisions[i] for i in suffix))
                if node < 0:
                    assert node == -1
                    assert path not in considered
                else:
                    assert tree.paths[node] == path
                    reached.add(int(node))
        assert reached == {n for n in range(len(tree)) if tree.gate[n] >= max(gate, 1)}
        assert (() in suffixes) == (gate > 0)


def test_extensions_by_hand() -> None:
    tree = PathTree(["w4a4", "w8a8"], 2)
    assert tree.suffixes(0) == [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    assert tree.extensions(0).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert tree.suffixes(1) == [(), (0,), (1,)]
    assert tree.extensions(1).tolist() == [[0, 2, 3], [1, 4, 5]]
    assert tree.extensions(2).tolist() == [[2], [3], [4], [5]]


def test_extensions_by_hand_where_paths_are_not_considered() -> None:
    tree = PathTree(["w4a4", "w8a8"], 2, Considered(monotone="up"))
    assert [tree.name(n) for n in range(5)] == ["w4a4", "w8a8", "w4a4-w4a4", "w4a4-w8a8", "w8a8-w8a8"]
    assert tree.extensions(1).tolist() == [[0, 2, 3], [1, -1, 4]]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_max_switches_keeps_exactly_the_paths_that_switch_so_often(most: int) -> None:
    tree = PathTree(THREE, 4, Considered(max_switches=most))
    whole = PathTree(THREE, 4)
    assert set(tree) == {path for path in whole if sum(step != 0 for step in rises(path)) <= most}


@pytest.mark.parametrize(("direction", "sign"), [("up", -1), ("down", 1)])
@pytest.mark.parametrize("precisions", [THREE, ["w8a8", "w3a3", "w4a4"]])
def test_monotone_keeps_exactly_the_paths_that_do_not_turn(precisions: list[str], direction: str, sign: int) -> None:
    tree = PathTree(precisions, 4, Considered.model_validate({"monotone": direction}))
    assert set(tree) == {path for path in PathTree(precisions, 4) if sign not in rises(path)}


def test_a_sample_has_so_many_full_paths_and_is_seeded() -> None:
    tree = PathTree(THREE, 4, Considered(sample=10))
    assert len(tree.nodes_at(4)) == 10 + 3  # and the uniform ones
    assert tree.paths == PathTree(THREE, 4, Considered(sample=10)).paths
    assert tree.paths != PathTree(THREE, 4, Considered(sample=10, seed=1)).paths


@given(
    segments=st.integers(1, 12),
    sample=st.integers(1, 40),
    switches=st.none() | st.integers(0, 3),
    monotone=st.none() | st.sampled_from(["up", "down"]),
    seed=st.integers(0, 5),
)
def test_a_sampled_tree_holds_every_prefix_all_static_paths_and_only_what_the_rules_allow(
    segments: int, sample: int, switches: int | None, monotone: str | None, seed: int
) -> None:
    rules = Considered.model_validate({"sample": sample, "max_switches": switches, "monotone": monotone, "seed": seed})
    tree = PathTree(THREE, segments, rules)
    known = set(tree.paths)
    assert all(path[:length] in known for path in known for length in range(1, len(path)))
    assert all((precision,) * length in known for precision in tree.precisions for length in range(1, segments + 1))
    turned = {"up": -1, "down": 1}.get(monotone or "")
    for path in known:
        assert switches is None or sum(step != 0 for step in rises(path)) <= switches
        assert turned not in rises(path)
    assert tree.paths == PathTree(THREE, segments, rules).paths
    assert len(tree.nodes_at(segments)) <= sample + 3


def test_a_sample_under_rules_that_few_paths_meet_has_as_many_as_asked_for() -> None:
    tree = PathTree(THREE, 12, Considered(sample=30, max_switches=1), max_nodes=500)
    assert len(tree.nodes_at(12)) == 33
    assert len(PathTree(THREE, 12, Considered(sample=1000, max_switches=1)).nodes_at(12)) == 3 + 11 * 6


def test_a_sample_draws_every_allowed_path_equally_often() -> None:
    rules = [Considered(sample=1, max_switches=1, seed=seed) for seed in range(600)]
    drawn = [path for rule in rules for path in PathTree(["w4a4", "w8a8"], 4, rule) if len(path) == 4]
    counts = Counter(path for path in drawn if len(set(path)) > 1)
    assert len(counts) == 6
    assert max(counts.values()) < 1.6 * min(counts.values())


@given(trees)
def test_continuations_are_the_considered_extensions_row_by_row(tree: PathTree) -> None:
    for gate in range(1, tree.segments + 1):
        row, column = tree.continuations(gate)
        ends = tree.extensions(gate)
        assert list(zip(row.tolist(), column.tolist(), strict=True)) == [tuple(at) for at in np.argwhere(ends >= 0)]


def test_a_sample_of_more_paths_than_there_are_is_the_whole_tree() -> None:
    assert PathTree(["w4a4", "w8a8"], 2, Considered(sample=50)).paths == PathTree(["w4a4", "w8a8"], 2).paths


def test_a_tree_above_max_nodes_is_refused_with_the_estimate() -> None:
    assert len(PathTree(THREE, 4, max_nodes=120)) == 120
    with pytest.raises(UsageError) as raised:
        PathTree(THREE, 4, max_nodes=119)
    for part in ("paths.max_nodes is 119", "3 precisions over 4 segments", "120 nodes", "9.6 MB", "paths.considered"):
        assert part in str(raised.value)


def test_a_huge_tree_is_refused_before_it_is_built() -> None:
    eight = ["w2a3", "w3a3", "w4a4", "w5a5", "w6a6", "w7a7", "w8a8", "fp32"]
    with pytest.raises(UsageError, match="make 78536544840 nodes"):
        PathTree(eight, 12, max_nodes=500)
    for considered in (Considered(max_switches=11), Considered(sample=10**9)):
        with pytest.raises(UsageError, match=r"max_nodes is 500, but the considered paths make at least \d+ nodes"):
            PathTree(eight, 12, considered, max_nodes=500)


def test_considering_fewer_paths_fits_under_max_nodes() -> None:
    tree = PathTree(THREE, 6, Considered(max_switches=0), max_nodes=18)
    assert len(tree) == 18
    with pytest.raises(UsageError, match=r"max_nodes is 17, but the considered paths make (at least )?18 nodes"):
        PathTree(THREE, 6, Considered(max_switches=0), max_nodes=17)


@pytest.mark.parametrize(("precisions", "segments"), [([], 2), (["w4a4", "w4a4"], 2), (["w4a4"], 0)])
def test_a_tree_needs_segments_and_distinct_precisions(precisions: list[str], segments: int) -> None:
    with pytest.raises(UsageError, match="at least one segment and distinct precisions"):
        PathTree(precisions, segments)


def test_a_path_that_is_not_considered_is_named() -> None:
    tree = PathTree(THREE, 2, Considered(monotone="up"))
    with pytest.raises(UsageError, match="'w8a8-w3a3' is not among the 9 considered"):
        tree.node("w8a8-w3a3")
    with pytest.raises(UsageError, match="unknown precision 'w1a1'"):
        tree.node("w8a8-w1a1")


@given(trees)
def test_a_tree_is_rebuilt_from_its_names(tree: PathTree) -> None:
    names = [tree.name(node) for node in range(len(tree))]
    again = PathTree.from_names([str(p) for p in tree.precisions], tree.segments, names)
    assert again.paths == tree.paths
    assert np.array_equal(again.children, tree.children)


def test_names_that_are_not_prefix_closed_are_refused() -> None:
    with pytest.raises(UsageError, match="'w8a8' is missing"):
        PathTree.from_names(["w4a4", "w8a8"], 2, ["w4a4", "w8a8-w4a4"])


def test_names_of_paths() -> None:
    path = (Precision("w8a8"), Precision("fp32"))
    assert path_name(path) == "w8a8-fp32"
    assert parse_path("w8a8-fp32") == path
