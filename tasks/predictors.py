"""Stage `predictors`: one small network per gate."""

import numpy as np
import pyarrow as pa

from quee.cache.read import FeatureCache, read_cache
from quee.policies.networks import gate_inputs
from quee.predictors import fit_predictors, quality
from quee.targets import future_errors
from quee.work.io import read_table, write_json, write_table, write_tensors
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fit error probabilities to the targets; report RMSE, ECE, AUROC and AURC per gate on validation."""
    cache = read_cache(stage.input("features"))
    predictor, validation = cache.of("predictor"), cache.of("validation")
    gates = range(1, cache.tree.segments)
    table = read_table(stage.input("targets") / "targets.parquet")
    errors = [future_errors(validation, gate) for gate in gates]
    targets = [_targets(table, predictor, gate) for gate in gates]
    predictors, history = fit_predictors(predictor, targets, validation, errors, stage.experiment.predictors)
    write_tensors(stage.out / "predictors.safetensors", predictors.arrays())
    write_table(stage.out / "history.parquet", pa.Table.from_pylist(history))
    found = {}
    for gate in gates:
        p = predictors.predict(gate, gate_inputs(cache.tree, gate, validation.features))
        found[str(gate)] = {**quality(p, errors[gate - 1]), "bitflops": predictors.bitflops(gate)}
    write_json(stage.out / "metrics.json", {"gates": found})


def _targets(table: pa.Table, cache: FeatureCache, gate: int) -> np.ndarray:
    """(S, nodes at the gate, suffixes)"""
    nodes = cache.tree.nodes_at(gate)
    rows = table.filter(pa.array(np.isin(table["node"].to_numpy(), nodes)))
    return np.stack(rows["target"].to_numpy()).reshape(len(cache), len(nodes), -1).astype(np.float64)


if __name__ == "__main__":
    main(run)
