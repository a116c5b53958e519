"""The network run again for ablations, on a tenth of digits."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quee.cache.read import FeatureCache, read_cache
from quee.data.importers import import_dataset
from quee.evaluation.ablation.fit import Study
from quee.evaluation.ablation.rerun import COLUMNS, Variant, evaluated
from quee.evaluation.ablation.run import Points
from quee.policies.base import Costs
from quee.settings.experiment import load_experiment
from tasks import ablate_network
from tasks.ablate_network import study_of, variant_cache
from tasks.stage import Stage, artifacts_of, run_stage

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT = 300
EXPERIMENT = """
prepare: {dataset: digits}
backbone: {name: vit_digits, gates: [3, 5, 8], epochs: 1, warmup_epochs: 0}
paths: {precisions: [w4a4, w8a8], references: [w6a6]}
quantize: {}
exits: {draws: 1, embedding: 2}
""" + "".join(
    f"{block}: {{}}\n" for block in ("features", "targets", "predictors", "policies", "evaluate", "report", "bundle")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "digits.yaml").write_text(EXPERIMENT)
    (folder / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        import_dataset("digits", None, Path("data/digits"))
        for name in ("prepare", "backbone", "tree", "quantize", "exits", "features"):
            run_stage(name, importlib.import_module(f"tasks.{name}").run, "digits", LIMIT)
    return folder


@pytest.fixture
def stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(folder)
    return Stage("ablate", load_experiment("digits"), folder / "out", artifacts_of("digits", LIMIT), LIMIT)


@pytest.fixture
def cache(stage: Stage) -> FeatureCache:
    return read_cache(stage.input("features"), heads=True)


def digest_of(stage: Stage, cache: FeatureCache, variant: Variant) -> str:
    return study_of(stage, Study(cache, stage.experiment, "here"), variant, ROOT)[1]


def test_heads_fitted_again_as_they_were_give_the_cache_again(
    stage: Stage, cache: FeatureCache, tmp_path: Path
) -> None:
    variant, store = Variant(heads="mixed"), Points(tmp_path)
    again, before = (
        variant_cache(stage, cache, variant, store, digest_of(stage, cache, variant)),
        evaluated(cache),
    )
    for name in (*COLUMNS, "error", "sample_id", "split"):
        assert (getattr(again, name) == getattr(before, name)).all()


def test_other_heads_answer_otherwise_and_are_computed_once(
    stage: Stage, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, store = Variant(heads="float"), Points(tmp_path)
    digest = digest_of(stage, cache, variant)
    found, before = variant_cache(stage, cache, variant, store, digest), evaluated(cache)
    early = cache.tree.gate < cache.tree.segments
    assert (found.features[:, early] != before.features[:, early]).any()
    assert (found.prediction[:, ~early] == before.prediction[:, ~early]).all()
    assert np.allclose(
        Costs.of(found.tree, found.description).routed, Costs.of(cache.tree, cache.description).routed, rtol=1e-12
    )
    assert not store.work(digest).exists()
    monkeypatch.setattr(ablate_network, "_run", None)
    assert (variant_cache(stage, cache, variant, store, digest).features == found.features).all()


def test_an_added_precision_is_the_reference_where_it_runs_alone_and_leaves_other_paths_as_they_were(
    stage: Stage, cache: FeatureCache, tmp_path: Path
) -> None:
    variant = Variant(added="w6a6")
    found = variant_cache(stage, cache, variant, Points(tmp_path), digest_of(stage, cache, variant))
    before = evaluated(cache)
    for gate in range(1, cache.tree.segments + 1):
        node = found.tree.node("-".join(["w6a6"] * gate))
        assert (found.features[:, node] == before.reference_features[:, gate - 1]).all()
        assert (found.error[:, node] == before.reference_error[:, gate - 1]).all()
    here, there = Costs.of(cache.tree, cache.description), Costs.of(found.tree, found.description)
    for node in range(len(cache.tree)):
        same = found.tree.node(cache.tree.paths[node])
        assert (found.features[:, same] == before.features[:, node]).all()
        assert there.static[same] == pytest.approx(here.static[node])


def test_the_key_covers_networks_settings_and_kind_but_not_what_does_not_run(stage: Stage, cache: FeatureCache) -> None:
    experiment, floats = stage.experiment, Variant(heads="float")
    before = digest_of(stage, cache, floats)
    exits = experiment.exits.model_copy(update={"draws": 2})
    other = replace(stage, experiment=experiment.model_copy(update={"exits": exits}))
    assert digest_of(other, cache, floats) != before
    assert digest_of(stage, cache, Variant(added="w6a6")) != before
    same = replace(
        stage,
        experiment=experiment.model_copy(update={"ablate": experiment.ablate.model_copy(update={"seeds": 9})}),
    )
    assert digest_of(same, cache, floats) == before
    file = stage.input("backbone") / "model.safetensors"
    data = file.read_bytes()
    try:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert digest_of(stage, cache, floats) != before
    finally:
        file.write_bytes(data)
