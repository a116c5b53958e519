"""Stage `policies`: the learned policies."""

from dataclasses import replace

from quee.cache.answers import read_answers
from quee.policies.files import read_predictors, write_policy
from quee.policies.registry import fit_learned
from quee.policies.sweep import Setting
from quee.work.io import write_json
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Fit every learned policy of the registry on the predictor split."""
    cache = read_answers(stage.input("features"), stage.input("targets"), ("predictor", "validation"), log_probs=True)
    setting = Setting.of(cache, ("validation",), stage.experiment.policies)
    fitted = fit_learned(replace(setting, predictors=read_predictors(stage.input("predictors"))))
    for name, policy in fitted.items():
        write_policy(stage.out, name, policy)
    facts = {name: policy.facts() for name, policy in fitted.items()}
    write_json(stage.out / "metrics.json", {name: own for name, own in facts.items() if own})


if __name__ == "__main__":
    main(run)
