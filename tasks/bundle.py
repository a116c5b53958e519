"""Stage `bundle`: the deployable artefact."""

from quee.cache.read import read_cache
from quee.data import open_dataset
from quee.errors import IntegrityError
from quee.export.bundle import guarantees_of, write_bundle
from quee.network.files import load_backbone
from quee.policies.fitted_q import FittedQ
from quee.policies.plan import Plan
from quee.policies.predictors import Predictors
from quee.runtime import load_bundle
from quee.work.io import read_json, read_tensors
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Write the bundle, and load it again to see that it does load."""
    settings = stage.experiment.bundle
    cache = read_cache(stage.input("features"))
    predictors = Predictors.from_arrays(read_tensors(stage.input("predictors") / "predictors.safetensors"))
    plan = Plan.of(cache.tree, cache.description, predictors)
    fitted = FittedQ.from_arrays(plan, read_tensors(stage.input("policies") / "fitted_q.safetensors"))
    metrics = read_json(stage.input("evaluate") / "metrics.json")
    if metrics["experiment"] != stage.experiment.name:
        raise IntegrityError(f"{stage.input('evaluate')} belongs to experiment {metrics['experiment']!r}")
    certified = metrics.get("certification")
    guarantees = guarantees_of(certified, f"quee_{settings.policy}") if certified else []
    described = read_json(stage.input("prepare") / "dataset.json")
    source = open_dataset(stage.data, stage.experiment.prepare.dataset, described["files"])
    transform = load_backbone(stage.input("backbone")).input
    write_bundle(
        stage.out,
        stage.experiment.name,
        stage.input("backbone"),
        stage.input("quantize"),
        stage.input("exits") / "heads.safetensors",
        cache,
        predictors,
        fitted,
        settings.policy,
        settings.budget,
        cache.description["classes"],
        lambda ids: source.batch(ids, transform).numpy(),
        guarantees,
        stage.experiment.evaluate.points,
    )
    load_bundle(stage.out)


if __name__ == "__main__":
    main("bundle", run)
