"""Points whose network runs again: the nodes to run, their union with cached nodes, and their keys."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import small_cache, small_experiment

from quee.errors import UsageError
from quee.evaluation.ablation.fit import Study
from quee.evaluation.ablation.grid import points
from quee.evaluation.ablation.rerun import (
    AS_CACHED,
    COLUMNS,
    Variant,
    computed,
    evaluated,
    joined,
    known_nodes,
    to_run,
    variant_tree,
)
from quee.evaluation.ablation.run import Points
from quee.evaluation.resplits import redivide
from quee.paths import PathTree
from quee.settings.experiment import Experiment
from quee.settings.paths import Considered

CACHE = small_cache(samples=60)
TREE = CACHE.tree


def settings(**ablate: object) -> Experiment:
    return small_experiment(paths={"precisions": ["w4a4", "w8a8"], "references": ["w6a6"]}, ablate=ablate)


@given(
    rules=st.builds(Considered, max_switches=st.sampled_from([None, 0, 1]), monotone=st.sampled_from([None, "up"])),
    same_heads=st.booleans(),
)
def test_what_runs_is_closed_under_prefixes_and_holds_all_that_is_not_known(
    rules: Considered, same_heads: bool
) -> None:
    tree = PathTree(["w4a4", "w8a8", "w6a6"], 3, rules)
    known = known_nodes(TREE, tree, same_heads)
    run = to_run(tree, known)
    assert set(np.flatnonzero(known < 0)) <= set(run)
    PathTree.from_names(list(map(str, tree.precisions)), 3, [tree.name(node) for node in run])  # or it is refused
    for node, own in enumerate(known):
        assert own < 0 or TREE.name(int(own)) == tree.name(node)


def test_other_heads_leave_the_last_gate_as_it_is() -> None:
    known = known_nodes(TREE, TREE, same_heads=False)
    assert (TREE.gate[known >= 0] == TREE.segments).all()
    assert (TREE.gate[known < 0] < TREE.segments).all()
    assert to_run(TREE, known) == list(np.flatnonzero(known < 0))


def shard(nodes: list[int], rows: slice) -> bytes:
    """A worker's result for nodes of a cache."""
    assert CACHE.head_log_probs is not None
    part, log_probs = CACHE.features[rows][:, nodes], CACHE.head_log_probs[rows][:, nodes]
    table = pa.table(
        {
            "prediction": CACHE.prediction[rows][:, nodes].ravel(),
            "p_label": CACHE.p_label[rows][:, nodes].ravel(),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[2]),
            "log_probs": pa.FixedSizeListArray.from_arrays(pa.array(log_probs.ravel()), log_probs.shape[2]),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("forgotten", [[1], [0, 1], [5, 9]])
def test_nodes_run_again_take_their_place_among_those_known(forgotten: list[int]) -> None:
    known = np.arange(len(TREE))
    known[forgotten] = -1
    run = to_run(TREE, known)
    own = computed([shard(run, slice(0, 25)), shard(run, slice(25, 60))], run, known)
    blank = {name: getattr(CACHE, name).copy() for name in COLUMNS}
    for column in blank.values():
        column[:, forgotten] = -1
    whole = joined(replace(CACHE, **blank), TREE, CACHE.description, known, own)
    for name in (*COLUMNS, "error"):
        assert (getattr(whole, name) == getattr(CACHE, name)).all()


def test_samples_kept_for_certification_are_not_looked_at_and_change_no_division() -> None:
    split = CACHE.split.copy()
    split[::5] = "certification"
    cache = replace(CACHE, split=split)
    some = evaluated(cache)
    assert "certification" not in some.split
    whole, part = (redivide(c, 3, ("predictor", "validation", "test")) for c in (cache, some))
    assert (whole.split[np.isin(whole.sample_id, part.sample_id)] == part.split).all()


def test_a_precision_is_added_beside_the_trees_own_and_only_where_there_is_a_network() -> None:
    tree = variant_tree(settings(), TREE, Variant(added="w6a6"))
    assert list(map(str, tree.precisions)) == ["w4a4", "w8a8", "w6a6"]
    assert variant_tree(settings(), TREE, AS_CACHED) is TREE
    with pytest.raises(UsageError, match="ablate.added: 'w5a5' is not among paths.references.*they are w6a6"):
        points(settings(added=["w5a5"]), TREE, CACHE.description["feature_names"])


def test_heads_that_the_experiment_has_are_no_variant() -> None:
    def variants(own: str) -> list[Variant]:
        chosen = settings(axes=["heads"], heads=["float", "mixed"])
        chosen = chosen.model_copy(update={"exits": chosen.exits.model_copy(update={"prefixes": own})})
        return [point.variant for point in points(chosen, TREE, CACHE.description["feature_names"])]

    assert variants("mixed") == [AS_CACHED, Variant(heads="float")]
    assert variants("float") == [AS_CACHED, Variant(heads="mixed")]


def test_a_variant_has_keys_of_its_own() -> None:
    grid = points(settings(heads=["float"], added=["w6a6"]), TREE, CACHE.description["feature_names"])
    base = Study(CACHE, settings(), "cached")
    other = Study(small_cache(samples=60, segments=2), settings(), "run again")
    recipe = grid[0].recipe
    assert other.point_digest(recipe, 0) != base.point_digest(recipe, 0)
    assert {frozenset(point.variant.facts().items()) for point in grid} == {
        frozenset(), frozenset({("heads", "float")}), frozenset({("added", "w6a6")}),
    }  # fmt: skip


def test_the_store_keeps_what_is_referred_to_and_drops_the_rest(tmp_path: Path) -> None:
    store, past = Points(tmp_path), time.time() - 1000
    for digest in ("aa01", "aa02"):
        store.write(digest, {"x": np.zeros(3)}, {})
        os.utime(next(tmp_path.glob(f"*/{digest}*")), (past, past))
        (work := store.work(digest)).mkdir(parents=True)
        (work / "shard").write_bytes(b"1")
        for path in (work / "shard", work):
            os.utime(path, (past, past))
    store.touch("aa01")
    store.touch("of nothing")
    (store.work("aa01") / "another").write_bytes(b"2")
    store.prune(500)
    assert store.read("aa01") is not None
    assert store.read("aa02") is None
    assert (store.work("aa01") / "shard").is_file()
    assert not store.work("aa02").exists()
