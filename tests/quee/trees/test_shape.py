"""The tree is as large as `paths.max_nodes` allows."""

import pytest

from quee.errors import UsageError
from quee.settings.paths import Considered, Paths, Searched
from quee.trees.shape import RULES, largest, most_precisions, tree_of


@pytest.mark.parametrize(
    ("segments", "nodes", "rule"), [(4, 120, 0), (5, 363, 0), (7, 147, 2), (9, 243, 2), (12, 432, 2)]
)
def test_a_chosen_tree_has_three_precisions_by_the_loosest_rule_that_fits(segments: int, nodes: int, rule: int) -> None:
    tree = largest(Paths(), segments)
    assert (len(tree.precisions), len(tree)) == (3, nodes)
    assert set(tree) == set(tree_of(Paths(considered=RULES[rule]), tree.precisions, segments))


def test_fewer_precisions_where_not_even_the_strictest_rule_fits() -> None:
    assert most_precisions(Paths(max_nodes=40), 9) == 1
    assert most_precisions(Paths(max_nodes=29), 4) == 2
    four = Paths(precisions=Searched(auto=6), max_nodes=340, considered=Considered(max_switches=3))
    assert most_precisions(four, 4) == 4


def test_a_rule_that_the_settings_name_stays() -> None:
    uniform = Paths(considered=Considered(max_switches=0))
    assert len(largest(uniform, 4)) == 12


def test_named_precisions_are_refused_above_the_limit() -> None:
    with pytest.raises(UsageError, match=r"paths\.max_nodes is 500, but 3 precisions over 9 segments make 29523 nodes"):
        largest(Paths(precisions=("w3a3", "w4a4", "w8a8")), 9)
    with pytest.raises(UsageError, match=r"paths\.max_nodes is 5"):
        largest(Paths(max_nodes=5), 6)
