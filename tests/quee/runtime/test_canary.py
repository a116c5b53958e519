"""Engines are compared with a bundle's canary wherever they are chosen; a saturating engine is always refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from saturating import SaturatingEngine, saturated

from quee.cli.main import main
from quee.ensembles import FILE as ENSEMBLES
from quee.errors import DisagreementError, IntegrityError
from quee.export import canary as canary_writing
from quee.export.torch_engine import TorchEngine
from quee.precision import Precision
from quee.runtime import AdaptiveClassifier, load_bundle
from quee.runtime.canary import Canary, steps_of
from quee.runtime.engines import ENGINES, Engine, Step, probe
from quee.runtime.engines.probe import AutoEngine
from quee.runtime.manifest import CANARY, own_digest, seal
from quee.runtime.margin import allowed_flips, margin_of_paths
from quee.runtime.profile import profile_path
from quee.serving.service import Served
from quee.work.io import json_bytes, read_json, read_tensors, write_tensors

FEW_BITS = Precision("w4a4")
REASON = (
    r"engine saturating .* disagrees .*segment \d at w\da\d, .* apart .*\(allowed: .*\); take engine auto, or torch"
)


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a saturating engine."""
    monkeypatch.setitem(ENGINES._entries, "saturating", lambda view, graphs, threads: SaturatingEngine(view))
    return "saturating"


@pytest.fixture
def canary(classifier: AdaptiveClassifier) -> Canary:
    assert classifier.canary is not None
    return classifier.canary


def test_pairs_of_large_products_saturate_and_others_do_not() -> None:
    large, small = np.full((1, 4), 255), np.full((1, 4), 15)
    weights = np.full((4, 1), 127)
    assert saturated(large, weights) == 2 * 32767 < (large @ weights)
    assert saturated(small, weights) == small @ weights


def test_loading_with_an_engine_that_saturates_is_refused(bundle: Path, saturating: str) -> None:
    with pytest.raises(DisagreementError, match=REASON):
        load_bundle(bundle, engine=saturating)


def test_serving_with_an_engine_that_saturates_is_refused(bundle: Path, saturating: str) -> None:
    with pytest.raises(DisagreementError, match=REASON):
        Served(bundle, queue=8, batch=4, control=False, engine=saturating)


def test_verify_refuses_an_engine_that_saturates(bundle: Path, saturating: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bundle), "--execute", "--engine", "torch", "--engine", saturating])
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "engine torch: agrees, 0 of" in said.out and "engine saturating: refused" in said.out
    assert "disagrees" in said.err and len(said.err.splitlines()) == 1


@pytest.fixture
def altered(bundle: Path, tmp_path: Path) -> Path:
    """The bundle with costs of a gate's graph changed, and digests that fit."""
    onnx = pytest.importorskip("onnx")
    out = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    graph = onnx.load(out / "fitted_q.gate2.onnx")
    nodes = len(read_json(out / "tree.json")["nodes"])
    cost = next(
        c for c in graph.graph.initializer if c.data_type == onnx.TensorProto.DOUBLE and list(c.dims) == [nodes]
    )
    cost.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(cost) + 0.01, cost.name))
    onnx.save(graph, out / "fitted_q.gate2.onnx")
    described = read_json(out / "bundle.json")
    seal(out, {key: kept for key, kept in described.items() if key not in ("digest", "files", "format")})
    return out


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="ONNX Runtime, which runs the gates, is not installed")
def test_verify_refuses_a_gate_that_decides_otherwise(altered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(altered), "--execute", "--engine", "torch"])
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "engine torch: agrees" in said.out and "gates: refused" in said.out
    assert "fitted_q.gate2.onnx disagrees with NumPy" in said.err and "make the bundle anew" in said.err


def test_verify_leaves_gates_out_where_nothing_runs_them(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quee.cli.verify.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["verify", str(bundle), "--execute", "--engine", "torch"])
    assert "gates" not in capsys.readouterr().out


def test_verify_says_what_every_engine_here_does(bundle: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bundle), "--execute", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and facts["canary"] > 0
    assert facts["gates"] == {"agrees": True, "said": "3 graphs with NumPy"}
    assert "torch" in facts["engines"] and all(engine["agrees"] for engine in facts["engines"].values())


def test_profiling_an_engine_that_saturates_is_refused(bundle: Path, saturating: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["profile", str(bundle), "--engine", saturating, "--repeats", "1", "--batch", "1"])
    assert ended.value.code == 1 and "disagrees" in capsys.readouterr().err
    assert not profile_path(bundle).exists()


@pytest.fixture
def auto(classifier: AdaptiveClassifier, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an `auto` of torch and a saturating engine that is always the faster one."""
    pytest.importorskip("onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "least_seconds", lambda engine, *_: 1.0 if engine.name == "torch" else 0.5)

    def make(reference: Canary | None) -> AutoEngine:
        engine = AutoEngine([TorchEngine(classifier.view), SaturatingEngine(classifier.view)], bundle, 1)
        engine.reference = reference
        return engine

    return make


def test_auto_takes_the_next_best_and_says_so(auto, canary: Canary, caplog) -> None:
    precision, state = Precision("w8a8"), canary.before(1)
    assert auto(None).chosen(1, precision, state).name == "saturating"
    engine = auto(canary)  # although the other is remembered as the fastest
    assert engine.chosen(1, precision, state).name == "torch"
    assert "saturating" in engine.refused and "disagrees" in caplog.text and "goes on with another" in caplog.text
    assert auto(canary).chosen(1, precision, state).name == "torch"


def test_auto_says_once_of_an_engine_that_it_is_refused(auto, canary: Canary, classifier, caplog) -> None:
    engine = auto(canary)
    executor = classifier.executor.on(engine)
    assert canary.check(executor, classifier.policy).differing == 0
    assert caplog.text.count("disagrees") == 1


class Faulty:
    """Engine torch with a fault in its results."""

    name, version, threads = "faulty", "1", 1

    def __init__(self, engine: Engine, fault: Callable[[int, Precision, Step], Step]) -> None:
        self.engine, self.fault = engine, fault

    def executed(self, precision: Precision) -> str:
        return self.engine.executed(precision)

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        return self.fault(segment, precision, self.engine.run(segment, precision, state))


def scaled(factor: float) -> Callable[[int, Precision, Step], Step]:
    return lambda s, p, step: replace(step, state=None if step.state is None else step.state * np.float32(factor))


FAULTS: dict[str, Callable[[int, Precision, Step], Step]] = {
    "states": scaled(1.05),
    "log-probabilities": lambda s, p, step: replace(step, logits=step.logits * 1.1),
    "features": lambda s, p, step: replace(step, embedding=step.embedding + np.float32(0.1)),
    "not a number": lambda s, p, step: replace(step, logits=np.full_like(step.logits, np.nan)),
    "one segment": lambda s, p, step: replace(step, embedding=step.embedding * 0) if s == 2 else step,
    "one precision": lambda s, p, step: replace(step, logits=step.logits * 2) if p == FEW_BITS else step,
    "half of the images": lambda s, p, step: replace(
        step, logits=step.logits * (1 + np.arange(len(step.logits)) % 2)[:, None].astype(np.float32)
    ),
    "rows exchanged": lambda s, p, step: replace(step, logits=step.logits[::-1], embedding=step.embedding[::-1]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_an_engine_does_wrong_is_found(classifier: AdaptiveClassifier, canary: Canary, fault: str) -> None:
    engine = Faulty(classifier.engine, FAULTS[fault])
    executor = classifier.executor.on(engine)
    with pytest.raises(DisagreementError, match="engine faulty 1 disagrees"):
        canary.check(executor, classifier.policy)


def test_rounding_is_allowed(classifier: AdaptiveClassifier, canary: Canary) -> None:
    engine = Faulty(classifier.engine, scaled(1 + 1e-6))
    executor = classifier.executor.on(engine)
    assert canary.check(executor, classifier.policy).differing <= 1


def test_other_paths_are_refused_though_every_step_is_right(classifier: AdaptiveClassifier, canary: Canary) -> None:
    arrays = dict(canary.arrays)
    arrays["path.node"] = np.full_like(arrays["path.node"], len(classifier.tree) - 1)
    with pytest.raises(DisagreementError, match=r"of \d+ paths differ"):
        Canary(arrays).check(classifier.executor, classifier.policy)


def test_the_reference_agrees_with_itself_to_the_bit(classifier: AdaptiveClassifier, canary: Canary) -> None:
    for segment, precision in steps_of(classifier.tree):
        assert canary.difference(classifier.engine, segment, precision).found < 1e-6
        assert canary.difference(classifier.engine, segment, precision, 3).found < 1e-6
    with pytest.raises(DisagreementError):
        canary.check_step(Faulty(classifier.engine, scaled(2)), *steps_of(classifier.tree)[0], 1)
    assert canary.check_paths(classifier.executor, classifier.policy) == 0


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "auto"])
def test_engines_agree_on_this_cpu_whatever_it_is(bundle: Path, name: str, tmp_path, monkeypatch, caplog) -> None:
    pytest.importorskip("onnx")
    if name != "auto":
        pytest.importorskip(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_bundle(bundle, engine=name, threads=1).hold().engine.name == name
    assert caplog.text == ""


def test_a_canary_is_small_and_of_the_bundles_own_files(bundle: Path, canary: Canary) -> None:
    assert len(canary) == canary_writing.IMAGES
    assert (bundle / CANARY).stat().st_size < canary_writing.BYTES
    assert CANARY in json.loads((bundle / "bundle.json").read_text())["files"]


@pytest.mark.parametrize(("limit", "count"), [(1, range(1, 2)), (60_000, range(2, 32))])
def test_large_images_make_a_canary_of_few(classifier, tmp_path: Path, monkeypatch, limit: int, count: range) -> None:
    monkeypatch.setattr(canary_writing, "BYTES", limit)
    ids = np.arange(100)
    given = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    canary_writing.write_canary(tmp_path, classifier.executor, classifier.points, ids, lambda own: given[own])
    found = Canary.read(tmp_path)
    assert found is not None and len(found) in count
    assert len(found) == 1 or sum(array.nbytes for array in found.arrays.values()) <= limit
    found.check(classifier.executor, classifier.policy)


def test_a_canary_is_drawn_alike_every_time(classifier, tmp_path: Path) -> None:
    given = np.random.default_rng(0).standard_normal((50, 1, 8, 8), dtype=np.float32)
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        canary_writing.write_canary(
            folder, classifier.executor, classifier.points, np.arange(50), lambda own: given[own]
        )
    assert (folders[0] / CANARY).read_bytes() == (folders[1] / CANARY).read_bytes()


def unreal(name: str, value: float) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays.update({name: np.full_like(arrays[name], value)})


DAMAGE: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "a step missing": lambda arrays: arrays.pop("w8a8.segment1.log_probs"),
    "a stranger": lambda arrays: arrays.update(stranger=np.zeros(3, np.float32)),
    "images of another size": lambda arrays: arrays.update({"before.1": np.zeros((32, 1, 9, 9), np.float16)}),
    "no images": lambda arrays: arrays.pop("before.1"),
    "states of fewer images": lambda arrays: arrays.update({"before.2": arrays["before.2"][:-1]}),
    "fewer classes": lambda arrays: arrays.update(
        {"w4a4.segment2.log_probs": arrays["w4a4.segment2.log_probs"][:, 1:]}
    ),
    "a node beyond the tree": lambda arrays: arrays.update({"path.node": arrays["path.node"] + 10_000}),
    "images that are no numbers": unreal("before.1", np.nan),
    "states that are no numbers": unreal("before.2", np.nan),
    "answers that are not finite": unreal("w4a4.segment1.log_probs", -np.inf),
    "trade-offs that are no numbers": unreal("path.trade_off", np.nan),
    "an unknown first step": lambda arrays: arrays.update({"path.first": arrays["path.first"] + 10}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_canary_that_does_not_fit_is_refused_whatever_its_digest(bundle: Path, tmp_path: Path, damage: str) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    arrays = read_tensors(copied / CANARY)
    DAMAGE[damage](arrays)
    write_tensors(copied / CANARY, arrays)
    value = json.loads((copied / "bundle.json").read_text())
    seal(copied, {key: v for key, v in value.items() if key not in ("digest", "files", "format")})
    with pytest.raises(IntegrityError, match=CANARY):
        load_bundle(copied)


@pytest.fixture
def old(bundle: Path, tmp_path: Path) -> Path:
    """The bundle in format 2."""
    copied = Path(shutil.copytree(bundle, tmp_path / "old"))
    value = json.loads((copied / "bundle.json").read_text())
    for name, file in (("canary", CANARY), ("ensembles", ENSEMBLES)):
        (copied / file).unlink()
        del value[name], value["files"][file]
    del value["gates"]
    new = ("policy", "taken", "accuracy_loss", "accuracy_loss_limit")
    value["operating_points"] = [{k: v for k, v in p.items() if k not in new} for p in value["operating_points"]]
    value["format"] = 2
    (copied / "bundle.json").write_bytes(json_bytes({**value, "digest": own_digest(value)}))
    return copied


def test_a_bundle_without_a_canary_is_read_and_it_is_said(old: Path, bundle: Path, images, caplog, capsys) -> None:
    classifier, today = load_bundle(old), load_bundle(bundle)
    assert classifier.canary is None and caplog.text == ""
    today.executor.ensembles = None
    assert classifier.route(images[0][:20], trade_off=0.05).path == today.route(images[0][:20], trade_off=0.05).path
    with pytest.raises(SystemExit):
        main(["verify", str(old)])
    assert "no canary in format 2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(old), "--execute"])
    assert ended.value.code == 4 and "no canary" in capsys.readouterr().err
    pytest.importorskip("onnxruntime")
    load_bundle(old, engine="onnxruntime", threads=1)
    assert "no canary" in caplog.text


def test_a_format_2_bundle_that_was_altered_is_refused(old: Path) -> None:
    value = json.loads((old / "bundle.json").read_text())
    (old / "bundle.json").write_bytes(json_bytes({**value, "budget": 0.9}))
    with pytest.raises(IntegrityError, match="digest"):
        load_bundle(old)


def test_a_few_labels_may_differ_by_more_than_a_tie_at_few_bits(classifier: AdaptiveClassifier, canary: Canary) -> None:
    arrays = {name: array.copy() for name, array in canary.arrays.items()}
    margin = margin_of_paths(classifier.tree.precisions)
    most = allowed_flips(arrays["path.label"].size, 1 - margin.wide)
    assert most > 0
    arrays["path.lead"][:] = 2 * margin.tie
    arrays["path.label"].flat[:most] += 1
    assert Canary(arrays).check_paths(classifier.executor, classifier.policy) == 0
    arrays["path.label"].flat[most] += 1
    with pytest.raises(
        DisagreementError, match=rf"{most + 1} steps or labels by more than 0.03 in value \(allowed: {most}\)"
    ):
        Canary(arrays).check_paths(classifier.executor, classifier.policy)
