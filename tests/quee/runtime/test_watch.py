"""Graphs are compared when they are compiled; one that disagrees is refused before it answers anybody."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from endpoint import serving
from image_files import encoded

from quee.cli.main import main
from quee.errors import DisagreementError
from quee.precision import Precision
from quee.runtime import AdaptiveClassifier, load_bundle
from quee.runtime.canary import Canary, steps_of
from quee.runtime.engines import GRAPH_ENGINES
from quee.runtime.engines.base import graph_name
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.engines.held import Run
from quee.runtime.watch import Watch
from quee.serving.service import Served

pytest.importorskip("onnx")
ENGINES = tuple(kind.name for kind in GRAPH_ENGINES)
DEAR = 0.9
"""A budget at which images pass every segment."""
Fault = Callable[[list[np.ndarray]], list[np.ndarray]]
"""A graph's outputs to others."""
Break = Callable[..., None]


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path) -> Break:
    """Puts a fault in every graph that an engine compiles of files whose name has a word, for a size or all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def spoil(name: str, word: str, fault: Fault, size: int | None = None) -> None:
        pytest.importorskip(name)
        kind = next(kind for kind in GRAPH_ENGINES if kind.name == name)
        load = kind.load

        def loaded(self: GraphEngine, path: Path, precision: Precision, own: int) -> Run:
            run = load(self, path, precision, own)
            return (lambda x: fault(run(x))) if word in path.name and size in (None, own) else run

        monkeypatch.setattr(kind, "load", loaded)

    return spoil


def sharper(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Every answer wrong by more than is allowed."""
    *before, logits, embedding = outputs
    return [*before, logits * np.float32(1.5), embedding]


def rare(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """The answers of few images wrong: those of one class become another's."""
    *before, logits, embedding = outputs
    hit = logits.argmax(axis=1) == 6
    return [*before, np.where(hit[:, None], np.roll(logits, 1, axis=1), logits), embedding]


def watched(classifier: AdaptiveClassifier) -> Watch:
    engine = classifier.engine
    assert isinstance(engine, GraphEngine) and isinstance(engine.watch, Watch)
    return engine.watch


@pytest.mark.parametrize("name", ENGINES)
def test_loading_compiles_nothing_and_images_what_they_pass(bundle: Path, images, name: str) -> None:
    pytest.importorskip(name)
    classifier = load_bundle(bundle, name, threads=1)
    assert classifier.engine.held.held == []
    (path,) = classifier.route(images[0][:1], budget=DEAR).path
    compiled = {(graph.step[1], graph.step[2]) for graph in classifier.engine.held.held}
    assert compiled == set(enumerate(path.split("-"), 1))


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_compiled_was_compared_as_the_whole_canary_is(bundle: Path, images, name: str) -> None:
    pytest.importorskip(name)
    classifier = load_bundle(bundle, name, threads=1)
    watch = watched(classifier)
    classifier.predict(images[0][:1], budget=DEAR)
    compared = watch.parting.paths
    assert 0 < compared < watch.canary.routes.node.size
    classifier.warm(8)
    assert watch.parting.paths == watch.canary.routes.node.size, "every path"
    assert watch.parting.differing == watch.canary.check_paths(classifier.executor, classifier.policy)
    assert {size for _, _, size in watch._sizes} == {graph.size for graph in classifier.engine.held.held}
    assert {(segment, name) for segment, name, _ in watch._sizes} == {
        (segment, precision.name) for segment, precision in steps_of(classifier.tree)
    }


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_that_disagrees_is_refused_at_its_first_run_and_the_engine_from_then_on(
    bundle: Path, images, breaking: Break, name: str
) -> None:
    breaking(name, "segment2", sharper)
    classifier = load_bundle(bundle, name, threads=1)
    reason = rf"engine {name} .* disagrees .*: segment 2 at w\da\d, .* apart .*; take engine auto, or torch"
    for _ in range(2):
        with pytest.raises(DisagreementError, match=reason):
            classifier.predict(images[0][:1], budget=DEAR)
    with pytest.raises(DisagreementError, match=reason):
        classifier.engine.run(1, classifier.tree.precisions[0], classifier.prepare(images[0][:1]))
    assert classifier.engine.held.held == []
    with pytest.raises(DisagreementError, match=reason):
        load_bundle(bundle, name, threads=1).warm(1)
    with pytest.raises(DisagreementError, match=reason):
        load_bundle(bundle, name, threads=1).hold()


@pytest.mark.parametrize("name", ENGINES)
def test_callers_at_once_are_all_refused(bundle: Path, images, breaking: Break, name: str) -> None:
    breaking(name, "segment1", sharper)
    classifier = load_bundle(bundle, name, threads=1)

    def ask(n: int) -> bool:
        with pytest.raises(DisagreementError):
            classifier.predict(images[0][:n])
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(1, 9)))


@pytest.mark.parametrize("name", ENGINES)
def test_a_fault_on_few_images_is_found_by_the_paths_that_pass_it(
    bundle: Path, images, breaking: Break, name: str
) -> None:
    breaking(name, "segment1", rare)
    classifier = load_bundle(bundle, name, threads=1)
    with pytest.raises(DisagreementError, match=r"of \d+ paths differ \(allowed: \d+\), \d+ steps or labels by more"):
        classifier.warm(1)
    canary = classifier.canary
    assert canary is not None
    unwatched = load_bundle(bundle, name, threads=1, held=False)
    for segment, precision in steps_of(unwatched.tree):
        canary.check_step(unwatched.engine, segment, precision)  # no step alone shows it
    with pytest.raises(DisagreementError, match=r"of \d+ paths differ"):
        canary.check(unwatched.executor, unwatched.policy)


def test_a_fault_at_one_size_is_refused_where_that_size_is_compiled(bundle: Path, images, breaking: Break) -> None:
    breaking("openvino", "segment1", sharper, size=8)
    classifier = load_bundle(bundle, "openvino", threads=1)
    classifier.predict(images[0][:1])
    with pytest.raises(DisagreementError, match="segment 1"):
        classifier.engine.run(1, Precision("w8a8"), classifier.prepare(images[0][:7]))
    with pytest.raises(DisagreementError, match="segment 1"):
        classifier.predict(images[0][:1])


def test_an_image_that_goes_where_nothing_was_compiled_differs_and_compiles_nothing(
    bundle: Path, classifier: AdaptiveClassifier
) -> None:
    pytest.importorskip("onnxruntime")
    tree, canary = classifier.tree, classifier.canary
    assert canary is not None
    arrays = dict(canary.arrays)
    deepest = int(np.argmax([len(tree.paths[node]) for node in canary.routes.node.ravel()]))
    k, i = np.unravel_index(deepest, canary.routes.node.shape)
    arrays["path.node"] = node = canary.routes.node.copy()
    node[k, i] = tree.lineage(int(node[k, i]))[0]  # the reference leaves at gate 1, where the engine goes on
    loaded = load_bundle(bundle, "onnxruntime", threads=1, held=False)
    watch = loaded.engine.watch = Watch(Canary(arrays), loaded.executor)
    loaded.engine.run(1, tree.paths[node[k, i]][0], loaded.prepare(np.zeros((1, 8, 8), np.uint8)))
    assert len(loaded.engine.held.held) == 1
    assert watch.parting.differing == 1 and len(watch.parting.gaps) == 1


def test_the_command_says_it_and_fails(
    bundle: Path, images, breaking: Break, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    breaking("onnxruntime", "segment1", sharper)
    np.save(tmp_path / "images.npy", images[0][:3])
    words = ["predict", str(bundle), str(tmp_path / "images.npy"), "--engine", "onnxruntime", "--skip-bad", "--csv"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert "engine onnxruntime" in said.err and "disagrees" in said.err and "Traceback" not in said.err
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bundle), "--execute", "--engine", "onnxruntime"])
    assert ended.value.code == 1 and "engine onnxruntime: refused" in capsys.readouterr().out


@pytest.mark.parametrize("name", ENGINES)
def test_a_server_does_not_start_with_it(bundle: Path, breaking: Break, name: str) -> None:
    breaking(name, graph_name(2, Precision("w4a4")), sharper)
    with pytest.raises(DisagreementError, match=f"engine {name} .*segment 2 at w4a4"):
        Served(bundle, queue=8, batch=4, control=False, engine=name)


def test_a_server_that_meets_it_later_refuses_and_is_no_longer_ready(
    bundle: Path, images, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    with serving(bundle, engine="onnxruntime") as endpoint:
        image = encoded(images[0][0])
        assert endpoint.classify(image)[0] == 200 and endpoint.get("/v2/health/ready") == {"ready": True}
        engine = endpoint.service.current.classifier.engine
        assert isinstance(engine, GraphEngine)
        engine.refused = "engine onnxruntime disagrees with the bundle's reference"
        engine.held.drop()
        for fields in ({}, {"explain": "true"}):
            status, answer = endpoint.classify(image, **fields)
            assert status == 503 and "disagrees with the bundle's reference" in answer["error"]
        assert endpoint.ask("GET", "/v2/health/ready")[0] == 503
        assert endpoint.metric("quee_ready") == 0 and caplog.text.count("disagrees") == 1
