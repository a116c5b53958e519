"""Stage `predictors`: one small network per gate."""

import numpy as np
import pyarrow as pa

from quee.cache.answers import read_answers
from quee.paths import PathTree
from quee.predictors import fit_predictors, predictions, quality, ranking
from quee.targets import future_errors
from quee.work.io import read_table, write_json, write_table, write_tensors
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fit error probabilities to the targets; report RMSE, ECE and how errors and gains are ranked, per gate on validation."""
    cache = read_answers(stage.input("features"), stage.input("targets"), splits=("predictor", "validation"))
    predictor, validation = cache.of("predictor"), cache.of("validation")
    tree = predictor.tree
    gates = range(1, tree.segments)
    targets = (_targets(stage, tree, gate) for gate in gates)
    predictors, history = fit_predictors(predictor, targets, validation, stage.experiment.predictors)
    write_tensors(stage.out / "predictors.safetensors", predictors.arrays())
    write_table(stage.out / "history.parquet", pa.Table.from_pylist(history))
    found = {}
    for gate in gates:
        measured = quality(predictions(predictors, validation, gate), future_errors(validation, gate))
        ranked = ranking(predictors, validation, gate)
        found[str(gate)] = {**measured, **ranked, "bitflops": predictors.bitflops(gate)}
    write_json(stage.out / "metrics.json", {"gates": found})


def _targets(stage: Stage, tree: PathTree, gate: int) -> np.ndarray:
    """p̃e (S, E) of stage `targets` at a gate, float64."""
    table = read_table(stage.input("targets") / "targets.parquet", ["node", "target"])
    rows = table.filter(pa.array(np.isin(table["node"].to_numpy(), tree.nodes_at(gate))))
    values = rows["target"].combine_chunks().values.to_numpy()
    return values.reshape(-1, len(tree.continuations(gate)[0])).astype(np.float64)


if __name__ == "__main__":
    main(run)
