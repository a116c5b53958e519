"""How much accuracy it costs to have no labels: policies fitted to the float network's answers, against labels.

    python benchmarks/without_labels.py EXPERIMENT [--seeds 3] [--bootstrap 2000] [--json FILE]

Starts from the feature cache of an experiment with labels (its stages up to `features`) in which fp32 is a precision or a
reference. Ensembles, targets, predictors, policies and operating points are made twice: with the labels, and with the
float network's answers in their place. Both are then tested on the same test images with their labels, in every fold if
the experiment has folds. The exit heads are the experiment's, fitted to labels of the training images in both cases.
Intervals are 95 %, by paired bootstrap over test images, of means over seeds.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quee.cache.answers import with_ensembles
from quee.cache.read import FeatureCache, read_cache
from quee.data.splits import held_out_rotations
from quee.evaluation.draws import Draws
from quee.evaluation.folds import Rotations
from quee.evaluation.measured import Measured
from quee.evaluation.resplits import fit_policies
from quee.intervals import interval
from quee.policies.registry import all_sweeps
from quee.policies.sweep import Setting
from quee.settings.experiment import Experiment, load_experiment
from quee.work.progress import progress

METHODS = ("static_hull", "confidence_hull", "quee_plan", "quee_fitted_q")
FLOAT = "fp32"


def answered_by_float(cache: FeatureCache, kept: Sequence[str] = ("test",)) -> FeatureCache:
    """A cache of own heads in which the float network's answers are the labels, except for the splits `kept`."""
    answer = float_answers(cache)
    label = np.where(np.isin(cache.split, kept), cache.label, answer).astype(cache.label.dtype)
    if cache.head_log_probs is None:
        raise SystemExit("the cache keeps the most probable classes alone: probabilities of other labels are not known")
    at = np.broadcast_to(label[:, None, None], (*cache.prediction.shape, 1))
    p_label = np.exp(np.take_along_axis(cache.head_log_probs, at, axis=2)[..., 0].astype(np.float32))
    return replace(
        cache,
        label=label,
        error=cache.prediction != label[:, None],
        p_label=p_label,
        reference_error=cache.reference_prediction != label[:, None],
    )


def float_answers(cache: FeatureCache) -> np.ndarray:
    """(S,) answers of the whole float network; SystemExit where it is not in the cache."""
    nodes = [node for node, path in enumerate(cache.tree.paths) if {str(p) for p in path} == {FLOAT}]
    if nodes:
        return cache.prediction[:, nodes[-1]]
    segments = cache.tree.segments
    names = cache.description["reference_precisions"]
    if FLOAT not in names:
        raise SystemExit(f"{FLOAT} is neither among paths.precisions nor among paths.references")
    return cache.reference_prediction[:, (names.index(FLOAT) + 1) * segments - 1]


def measured(caches: Sequence[FeatureCache], experiment: Experiment, seed: int) -> Iterator[Measured]:
    """Every method of METHODS on the test samples of all rotations."""
    settings = []
    for own in caches:
        cache = with_ensembles(own, experiment.targets.ensemble)
        policies = fit_policies(cache, experiment, seed)[1]
        setting = Setting.of(cache, ("validation", "test"), experiment.policies, experiment.evaluate.points)
        settings.append(replace(setting, policies=policies))
    rotations = Rotations(settings, experiment.evaluate.budgets)
    for sweeps in zip(*map(all_sweeps, settings), strict=True):
        if sweeps[0].name in METHODS:
            yield rotations.measure(sweeps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    experiment = load_experiment(options.experiment)
    artifacts = Path("artifacts") / options.experiment
    cache = read_cache(artifacts / "features", log_probs=True, heads=True)
    splits = held_out_rotations(artifacts / "prepare" / "splits.parquet", cache.sample_id)
    ways = {
        "labels": [replace(cache, split=split) for split in splits],
        "answers": [answered_by_float(replace(cache, split=split)) for split in splits],
    }
    found: dict[str, dict[str, list[Measured]]] = {way: {name: [] for name in METHODS} for way in ways}
    with progress("seeds", options.seeds * len(ways)) as bar:
        for seed in range(options.seeds):
            for way, caches in ways.items():
                for method in measured(caches, experiment, seed):
                    found[way][method.name].append(method)
                bar.advance()
    tested = cache.split == "test" if len(splits) == 1 else np.ones(len(cache), bool)  # every sample is in one fold
    right = 100 * float((float_answers(cache) == cache.label)[tested].mean())
    print(f"{int(tested.sum()):,} test images; the float network is right on {right:.2f} %")
    print(f"{'method':<18}{'':>8}{'labels':>8}{'answers':>9}   answers minus labels, points [95 %]")
    rows = []
    for name in METHODS:
        rows += list(compared(name, found["labels"][name], found["answers"][name], experiment, options.bootstrap))
    for row in rows:
        print(
            f"{row['method']:<18}{row['at']:>8}{100 * row['labels']:>8.2f}{100 * row['answers']:>9.2f}   "
            f"{100 * row['difference']:+.2f} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def compared(
    name: str, labels: Sequence[Measured], answers: Sequence[Measured], experiment: Experiment, repeats: int
) -> Iterator[dict[str, float | str]]:
    """Accuracies of the two ways by budget, and mean over budgets (`auc`), with the interval of their difference."""
    draws = Draws.of(len(labels[0].mixed), len(labels), repeats, 0)

    def row(at: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | str]:
        """`ours` and `theirs` (seeds, S, 1) are errors."""
        low, high = interval(draws.replicates(theirs - ours)[:, 0])
        return {
            "answers": float(1 - ours.mean()),
            "at": at,
            "difference": float((theirs - ours).mean()),
            "high": float(high),
            "labels": float(1 - theirs.mean()),
            "low": float(low),
            "method": name,
        }

    overall = [np.stack([m.overall[:, None] for m in way]) for way in (answers, labels)]
    yield row("auc", *overall)
    mixed = [np.stack([m.mixed for m in way]) for way in (answers, labels)]
    for index, budget in enumerate(experiment.evaluate.budgets):
        yield row(f"{budget:g}", mixed[0][..., [index]], mixed[1][..., [index]])


if __name__ == "__main__":
    main()
