"""Reading the feature cache."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_world import small_cache

from quee.cache.read import FeatureCache, read_cache, uniform_nodes
from quee.work.io import file_digest, write_json, write_table


def lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[-1])


def rows(cache: FeatureCache, nodes: range, log_probs: np.ndarray) -> pa.Table:
    """Rows (sample, node) as the stage writes them, with log-probabilities (S, nodes, kept)."""
    count, own = len(nodes), np.arange(len(nodes)) % len(cache.tree)
    split = pa.array(np.repeat(cache.split, count)).dictionary_encode()
    return pa.table(
        {
            "sample_id": np.repeat(cache.sample_id, count),
            "split": split,
            "node": np.tile(np.array(nodes, np.int32), len(cache)),
            "label": np.repeat(cache.label, count),
            "prediction": cache.prediction[:, own].ravel(),
            "error": cache.error[:, own].ravel(),
            "p_label": cache.p_label[:, own].ravel(),
            "log_probs": lists(log_probs.astype(np.float16)),
            "features": lists(cache.features[:, own]),
        }
    )


def written(folder: Path, classes: int, kept: int) -> tuple[FeatureCache, np.ndarray]:
    """A cache in two parts that cut a sample in two, with one reference, and its log-probabilities (S, N + 3, kept)."""
    cache = small_cache(12, classes=classes)
    nodes = len(cache.tree)
    values = np.random.default_rng(0).normal(size=(len(cache), nodes + 3, kept))
    tree = rows(cache, range(nodes), values[:, :nodes])
    for number, part in enumerate((tree.slice(0, 100), tree.slice(100))):
        write_table(folder / f"part-{number:05d}.parquet", part)
    write_table(folder / "reference-00000.parquet", rows(cache, range(nodes, nodes + 3), values[:, nodes:]))
    files = {file.name: file_digest(file) for file in folder.glob("*.parquet")}
    chain = [{"node": nodes + gate} for gate in range(3)]
    write_json(
        folder / "tree.json",
        cache.description | {"files": files, "format": 1, "references": chain, "reference_precisions": ["fp32"]},
    )
    return cache, values.astype(np.float16)


def test_log_probabilities_along_uniform_paths_and_references(tmp_path: Path) -> None:
    cache, values = written(tmp_path, classes=4, kept=4)
    found = read_cache(tmp_path, log_probs=True)
    nodes = uniform_nodes(cache.tree)
    assert [cache.tree.name(int(node)) for node in nodes] == [
        *("w4a4", "w8a8", "w4a4-w4a4", "w8a8-w8a8", "w4a4-w4a4-w4a4", "w8a8-w8a8-w8a8")
    ]
    path = cache.tree.lineage(int(nodes[-1]))
    assert np.array_equal(found.heads_at(path), values[:, path])
    assert np.array_equal(found.heads_at([0, 1, 2], references=True), values[:, len(cache.tree) :])
    test = found.of("test")
    assert np.array_equal(test.heads_at(path), values[found.split == "test"][:, path])


def test_log_probabilities_of_all_nodes_of_some_splits(tmp_path: Path) -> None:
    cache, values = written(tmp_path, classes=4, kept=4)
    found = read_cache(tmp_path, splits=("test", "validation"), heads=True)
    rows = np.isin(cache.split, ["test", "validation"])
    assert np.array_equal(found.head_log_probs, values[rows][:, : len(cache.tree)])


@pytest.mark.parametrize("asked", [True, False])
def test_without_all_classes_or_unasked_there_are_none(tmp_path: Path, asked: bool) -> None:
    written(tmp_path, classes=120, kept=6 if asked else 120)
    found = read_cache(tmp_path, log_probs=asked, heads=asked)
    assert found.heads_at([0]) is None and found.head_log_probs is None
