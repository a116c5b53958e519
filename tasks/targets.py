"""Stage `targets`: error probabilities of paths, by clustering."""

import numpy as np
import pyarrow as pa

from quee.cache import read_cache
from quee.io import write_json, write_table, write_tensors
from quee.progress import progress
from quee.targets import ClusterTargets, calibration_error, future_errors
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Cluster the predictor split at every node; report the calibration error on validation over numbers of clusters."""
    settings = stage.experiment.targets
    cache = read_cache(stage.input("features"))
    predictor, validation = cache.of("predictor"), cache.of("validation")
    tree = cache.tree
    options = {"shrinkage": settings.shrinkage, "per_node": settings.per_node, "seed": settings.seed}
    targets = ClusterTargets(settings.clusters, **options).fit(predictor)  # type: ignore[arg-type]

    arrays: dict[str, np.ndarray] = {}
    tables = []
    for gate in range(1, tree.segments):
        found = targets.predict(predictor, gate)
        for index, node in enumerate(tree.nodes_at(gate)):
            clusters = targets.nodes_[int(node)]
            arrays |= {f"node.{node}.{name}": value for name, value in vars(clusters).items()}
            values = pa.array(list(found[:, index].astype(np.float32)), type=pa.list_(pa.float32()))
            label = clusters.assign(predictor.features[:, node]).astype(np.int32)
            columns = {"sample_id": predictor.sample_id, "node": np.full(len(label), node, np.int32), "cluster": label}
            tables.append(pa.table({**columns, "target": values}))
    table = pa.concat_tables(tables).sort_by([("sample_id", "ascending"), ("node", "ascending")])
    write_table(stage.out / "targets.parquet", table)
    write_tensors(stage.out / "clusters.safetensors", arrays)

    rows = []
    counts = sorted({k for k in (*settings.sweep, settings.clusters) if k <= len(predictor)})
    with progress("calibration over clusters", len(counts)) as bar:
        for k in counts:
            fitted = ClusterTargets(k, **options).fit(predictor)  # type: ignore[arg-type]
            for gate in range(1, tree.segments):
                for split, part in (("predictor", predictor), ("validation", validation)):
                    p, e = fitted.predict(part, gate), future_errors(part, gate)
                    for index, node in enumerate(tree.nodes_at(gate)):
                        value = calibration_error(p[:, index], e[:, index])
                        rows.append({"clusters": k, "ece": value, "gate": gate, "node": int(node), "split": split})
            bar.advance()
    write_table(stage.out / "calibration.parquet", pa.Table.from_pylist(rows))
    ece = {
        f"gate_{gate}": float(np.mean([r["ece"] for r in rows if (r["gate"], r["clusters"], r["split"]) == chosen]))
        for gate in range(1, tree.segments)
        for chosen in [(gate, settings.clusters, "validation")]
    }
    write_json(stage.out / "metrics.json", {"clusters": settings.clusters, "ece": ece})


if __name__ == "__main__":
    main("targets", run)
