"""Stage `policies`: the learned policies."""

from quee.cache.read import read_cache
from quee.policies.fitted_q import fit_fitted_q
from quee.policies.plan import Plan
from quee.policies.predictors import Predictors
from quee.work.io import read_tensors, write_json, write_tensors
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fit `fitted_q` on the predictor split by backward induction over the cached tree."""
    settings = stage.experiment.policies
    cache = read_cache(stage.input("features"))
    predictors = Predictors.from_arrays(read_tensors(stage.input("predictors") / "predictors.safetensors"))
    plan = Plan.of(cache.tree, cache.description, predictors)
    fitted = fit_fitted_q(plan, cache.of("predictor"), settings.fitted_q, settings.seed)
    write_tensors(stage.out / "fitted_q.safetensors", fitted.arrays())
    bitflops = {f"gate_{gate}": fitted.bitflops(gate) for gate in range(1, cache.tree.segments)}
    write_json(stage.out / "metrics.json", {"fitted_q": {"bitflops": bitflops, "knots": len(fitted.knots)}})


if __name__ == "__main__":
    main(run)
