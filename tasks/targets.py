"""Stage `targets`: what every exit answers, and error probabilities of paths, by clustering."""

import numpy as np
import pyarrow as pa

from quee.cache.answers import with_ensembles
from quee.cache.read import read_cache
from quee.ensembles import FILE
from quee.targets import ClusterTargets, calibration_error, cluster_rows, future_errors
from quee.work.io import write_json, write_table, write_tensors
from quee.work.progress import progress
from tasks.stage import Stage, main

TARGETS = pa.schema(
    [("sample_id", pa.int64()), ("node", pa.int32()), ("cluster", pa.int32()), ("target", pa.list_(pa.float32()))]
)
SHOWN = 20
"""Number of clusters whose contents are reported, as in the paper's Fig. 5A; else the setting's number."""


def run(stage: Stage) -> None:
    """Fit the ensembles that answer and cluster the predictor split at every node; report the calibration error on validation by
    number of clusters.

    A smoke run has at most as many clusters as samples. A network of one segment has no gate that decides and no targets.
    """
    settings = stage.experiment.targets
    heads = read_cache(stage.input("features"), splits=("predictor", "validation"), heads=settings.ensemble)
    cache = with_ensembles(heads, settings.ensemble)
    if cache.ensembles is not None:
        write_tensors(stage.out / FILE, cache.ensembles.arrays())
    predictor, validation = cache.of("predictor"), cache.of("validation")
    tree = predictor.tree
    options = {"shrinkage": settings.shrinkage, "per_node": settings.per_node, "seed": settings.seed}
    used = min(settings.clusters, len(predictor))
    targets = ClusterTargets(used, **options).fit(predictor)  # type: ignore[arg-type]

    arrays: dict[str, np.ndarray] = {}
    tables = []
    for gate in range(1, tree.segments):
        (row, _), found = tree.continuations(gate), targets.predict(predictor, gate).astype(np.float32)
        for index, node in enumerate(tree.nodes_at(gate)):
            clusters, own = targets.nodes_[int(node)], found[:, row == index]
            arrays |= {f"node.{node}.{name}": value for name, value in vars(clusters).items()}
            values = pa.ListArray.from_arrays(np.arange(len(own) + 1, dtype=np.int32) * own.shape[1], own.ravel())
            label = clusters.assign(predictor.features[:, node]).astype(np.int32)
            columns = {"sample_id": predictor.sample_id, "node": np.full(len(label), node, np.int32), "cluster": label}
            tables.append(pa.table({**columns, "target": values}))
    table = pa.concat_tables([TARGETS.empty_table(), *tables])
    table = table.sort_by([("sample_id", "ascending"), ("node", "ascending")])
    write_table(stage.out / "targets.parquet", table)
    write_tensors(stage.out / "clusters.safetensors", arrays)

    rows, members = [], cluster_rows(targets, predictor)
    counts = sorted({k for k in (*settings.sweep, used) if k <= len(predictor)})
    with progress("calibration over clusters", len(counts)) as bar:
        for k in counts:
            fitted = ClusterTargets(k, **options).fit(predictor)  # type: ignore[arg-type]
            if k == SHOWN != used:
                members = cluster_rows(fitted, predictor)
            for gate in range(1, tree.segments):
                row, _ = tree.continuations(gate)
                for split, part in (("predictor", predictor), ("validation", validation)):
                    p, e = fitted.predict(part, gate), future_errors(part, gate)
                    for index, node in enumerate(tree.nodes_at(gate)):
                        value = calibration_error(p[:, row == index], e[:, row == index])
                        rows.append({"clusters": k, "ece": value, "gate": gate, "node": int(node), "split": split})
            bar.advance()
    write_table(stage.out / "calibration.parquet", pa.Table.from_pylist(rows))
    write_table(stage.out / "clusters.parquet", pa.Table.from_pylist(members))
    ece = {
        f"gate_{gate}": {
            str(k): float(np.mean([r["ece"] for r in rows if (r["gate"], r["clusters"], r["split"]) == own]))
            for k in counts
            for own in [(gate, k, "validation")]
        }
        for gate in range(1, tree.segments)
    }
    metrics = {
        "clusters": used,
        "ece": {gate: by_count[str(used)] for gate, by_count in ece.items() if by_count},
        "ece_by_clusters": ece,
        "polynomial": {gate: second_order(by_count) for gate, by_count in ece.items()},
    }
    write_json(stage.out / "metrics.json", metrics)


def second_order(ece: dict[str, float]) -> list[float] | None:
    """Coefficients, constant first, of the polynomial in K through calibration errors; None for fewer than four errors."""
    if len(ece) < 4:
        return None
    fitted = np.polynomial.Polynomial.fit([int(k) for k in ece], list(ece.values()), 2).convert()
    return [float(c) for c in fitted.coef]


if __name__ == "__main__":
    main(run)
