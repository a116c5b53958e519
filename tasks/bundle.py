"""Stage `bundle`: the deployable artefact."""

from quee.cache.answers import read_answers
from quee.data.source import open_dataset
from quee.errors import IntegrityError
from quee.export.bundle import guarantees_of, write_bundle
from quee.network.files import load_backbone
from quee.policies.base import Basis
from quee.policies.files import read_learned, read_predictors
from quee.policies.registry import METHODS
from quee.runtime import load_bundle
from quee.work.io import read_json
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Write the bundle, then load it as a check."""
    settings = stage.experiment.bundle
    cache = read_answers(stage.input("features"), stage.input("targets"), log_probs=True)
    basis = Basis(cache.tree, cache.description, read_predictors(stage.input("predictors")))
    metrics = read_json(stage.input("evaluate") / "metrics.json")
    if metrics["experiment"] != stage.experiment.name:
        raise IntegrityError(f"{stage.input('evaluate')} belongs to experiment {metrics['experiment']!r}")
    certified = metrics.get("certification")
    guarantees = guarantees_of(certified, METHODS[settings.policy].shown, settings.policy) if certified else []
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
        basis,
        read_learned(stage.input("policies"), basis),
        settings.policy,
        settings.budget,
        cache.description["classes"],
        lambda ids: source.batch(ids, transform).numpy(),
        guarantees,
        stage.experiment.evaluate.points,
    )
    load_bundle(stage.out)


if __name__ == "__main__":
    main(run)
